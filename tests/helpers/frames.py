"""Rows of DataFrames, for tests to compare."""

from typing import Any

from pyspark.sql import DataFrame


def rows_of(frame: DataFrame, *columns: str) -> list[tuple[Any, ...]]:
    return sorted(tuple(row) for row in frame.select(*(columns or frame.columns)).collect())
