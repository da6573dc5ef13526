"""What is said of a table that breaks its contract."""

import pytest

from schemas.errors import TableError
from schemas.tables import WINDOWS, check_columns

EXPECTED = [("a", "bigint"), ("b", "string")]


def test_the_expected_columns_pass() -> None:
    check_columns(WINDOWS, EXPECTED, EXPECTED)


def test_every_problem_is_named_at_once() -> None:
    with pytest.raises(TableError) as caught:
        check_columns(WINDOWS, [("a", "int"), ("c", "int")], EXPECTED)
    for part in ("lacks column 'b' (string)", "unexpected column 'c'", "'a' is int, expected bigint"):
        assert part in str(caught.value)


def test_another_order_is_a_problem() -> None:
    with pytest.raises(TableError, match="order"):
        check_columns(WINDOWS, EXPECTED[::-1], EXPECTED)
