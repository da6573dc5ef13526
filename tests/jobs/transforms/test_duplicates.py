"""What counts as an exact duplicate."""

from pyspark.sql import SparkSession

from jobs.transforms.duplicates import collect_n_duplicates


def test_duplicates_are_the_equal_rows_beyond_the_first_of_each(spark: SparkSession) -> None:
    rows = [(1, "a"), (1, "a"), (1, "a"), (1, "b"), (2, "a"), (None, "a"), (None, "a")]
    assert collect_n_duplicates(spark.createDataFrame(rows, "client_id bigint, item string")) == 3


def test_no_rows_hold_no_duplicates(spark: SparkSession) -> None:
    assert collect_n_duplicates(spark.createDataFrame([], "client_id bigint, item string")) == 0
