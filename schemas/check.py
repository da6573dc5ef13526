"""Compares the columns of a table with its contract."""

from collections.abc import Sequence

from schemas.errors import TableError
from schemas.tables import TableSchema

Columns = Sequence[tuple[str, str]]


def check_columns(table: TableSchema, found: Columns, expected: Columns) -> None:
    """Raise TableError naming every missing, unexpected and wrongly typed column, or a wrong order.

    Parameters
    ----------
    found, expected : (name, type) pairs in column order
    """
    found_types, expected_types = dict(found), dict(expected)
    problems = [f"lacks column {name!r} ({kind})" for name, kind in expected if name not in found_types]
    problems += [f"has an unexpected column {name!r}" for name, _ in found if name not in expected_types]
    problems += [
        f"column {name!r} is {found_types[name]}, expected {kind}"
        for name, kind in expected
        if name in found_types and found_types[name] != kind
    ]
    if not problems and list(found) != list(expected):
        problems = [f"has its columns in the order {[name for name, _ in found]}"]
    if problems:
        raise TableError(
            f"table {table.name!r} {'; '.join(problems)}; was it written by this version and configuration?"
        )
