"""What counts as an exact duplicate."""

from pyspark.sql import SparkSession

from jobs.transforms.duplicates import collect_n_duplicates


def test_duplicates_are_the_equal_rows_beyond_the_first_of_each_behaviours_own(spark: SparkSession) -> None:
    rows = [(1, "a"), (1, "a"), (1, "a"), (1, "b"), (2, "a"), (None, "a"), (None, "a")]
    parts = {"buys": rows, "visits": rows[2:6], "searches": [], "carts": [(1, "b"), (1, "b")]}
    events = {name: spark.createDataFrame(part, "client_id bigint, item string") for name, part in parts.items()}
    assert collect_n_duplicates(events) == {"buys": 3, "visits": 0, "searches": 0, "carts": 1}
