"""Aggregation over packed blocks: every row of a key meets in one place, whatever the cuts."""

import numpy as np
import pyarrow as pa
import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from jobs.transforms import packed
from jobs.transforms.packed import aggregate_packed
from jobs.transforms.vocabulary import add_counts, keep_frequent

ONE_BUCKET = np.zeros(1, np.int32)


def numbers(spark: SparkSession, key: str) -> DataFrame:
    return spark.range(1000).select(F.expr(key).alias("key"), F.col("id").alias("n_events"))


@pytest.mark.parametrize("key", ["id % 7 - 3", "concat('[', id % 7, ']')", "id * 0"])
@pytest.mark.parametrize("shrink", [add_counts, lambda rows: rows], ids=["shrunk", "as they are"])
def test_the_result_is_that_of_group_by(spark: SparkSession, key: str, shrink: packed.Rows) -> None:
    rows = numbers(spark, key)
    kind = rows.schema["key"].dataType.simpleString()
    found = aggregate_packed([(rows.repartition(5), None)], shrink, keep_frequent(1), f"key {kind}, n_events bigint")
    expected = rows.groupBy("key").agg(F.sum("n_events"))
    assert sorted(map(tuple, found.collect())) == sorted(map(tuple, expected.collect()))


@pytest.mark.parametrize("n_buckets", [1, 5, 64])
def test_each_bucket_has_a_partition_of_its_own(spark: SparkSession, n_buckets: int) -> None:
    buckets = spark.createDataFrame([(int(n),) for n in packed._bucket_numbers(spark, n_buckets)], "bucket int")
    partitions = buckets.repartition(n_buckets, "bucket").select(F.spark_partition_id().alias("partition"))
    assert sorted(row["partition"] for row in partitions.collect()) == list(range(n_buckets))


def test_no_rows_give_no_rows(spark: SparkSession) -> None:
    nothing = numbers(spark, "id").limit(0)
    assert aggregate_packed([(nothing, None)], add_counts, keep_frequent(1), "key bigint, n_events bigint").count() == 0


def test_a_task_shrinks_what_it_holds_before_it_takes_in_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed, "SHRINK_BYTES", 9 * 16)
    n_rows = []

    def watched(rows: pa.Table) -> pa.Table:
        n_rows.append(rows.num_rows)
        return add_counts(rows)

    blocks = [pa.table({"key": [1, 2] * 5, "n_events": [1] * 10}) for _ in range(20)]
    pieces = [packed._cut(block, ONE_BUCKET) for block in blocks]
    merged = pa.Table.from_batches(packed._merge(watched, add_counts, pieces))
    assert merged.to_pylist() == [{"key": 1, "n_events": 100}, {"key": 2, "n_events": 100}]
    assert max(n_rows) <= 20


def test_rows_with_columns_that_shrinking_added_meet_rows_without() -> None:
    plain = pa.table({"key": [1], "n_events": [1]})
    counted = pa.table({"key": [1], "n_events": [2], "extra": [5]})
    pieces = [packed._cut(table, ONE_BUCKET) for table in (plain, counted)]
    merged = pa.Table.from_batches(packed._merge(lambda rows: rows, lambda rows: rows, pieces))
    assert merged.to_pylist() == [{"key": 1, "n_events": 1, "extra": None}, {"key": 1, "n_events": 2, "extra": 5}]
