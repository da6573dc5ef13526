"""Rejected rows in messages."""

import pytest

from jobs.inputs.rejects import format_row


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ('{"client_id":1,"timestamp":"noon"}', "client_id=1 timestamp='noon'"),
        ('{"query":"' + "7" * 70 + '"}', f"query='{'7' * 60}'..."),
        ('{"query":"\\u001b[31m\\n\u009b\u202e"}', r"query='\x1b[31m\n\x9b\u202e'"),
        ("{}", ""),
    ],
)
def test_values_are_shortened_and_what_a_terminal_obeys_is_escaped(row: str, expected: str) -> None:
    assert format_row(row) == expected
