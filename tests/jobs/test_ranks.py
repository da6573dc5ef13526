import pytest
from pyspark.sql import functions as F

from jobs.transforms import ranks
from jobs.transforms.ranks import with_global_rank


@pytest.fixture(autouse=True)
def _free_cache(spark):
    yield
    spark.catalog.clearCache()


def test_ranks_follow_the_given_order_from_start(spark):
    counts = spark.createDataFrame([("b", 2), ("a", 2), ("c", 9)], "key string, n bigint")
    ranked = with_global_rank(counts, [F.col("n").desc(), F.col("key")], "token_id", start=3)
    assert ranked.columns == ["key", "n", "token_id"]
    assert {row["key"]: row["token_id"] for row in ranked.collect()} == {"c": 3, "a": 4, "b": 5}


def test_ranks_are_consecutive_across_many_partitions(spark, monkeypatch):
    monkeypatch.setattr(ranks, "ROWS_PER_TASK", 700)
    ids = spark.range(0, 5000, numPartitions=5).select(((F.col("id") * 7919) % 5000).alias("id"))
    ranked = with_global_rank(ids, [F.col("id")], "rank", 3).select("id", "rank", F.spark_partition_id().alias("part"))
    rows = ranked.collect()
    assert len({row["part"] for row in rows}) > 1
    assert sorted((row["id"], row["rank"]) for row in rows) == [(i, i + 3) for i in range(5000)]


def test_ranks_do_not_depend_on_the_order_or_partitions_of_the_rows(spark, monkeypatch):
    monkeypatch.setattr(ranks, "ROWS_PER_TASK", 100)
    keys = spark.range(300).select((F.col("id") % 50).alias("n"), F.col("id").cast("string").alias("key"))
    order = [F.col("n").desc(), F.col("key")]
    one, other = (
        {row["key"]: row["rank"] for row in with_global_rank(frame, order, "rank").collect()}
        for frame in (keys, keys.orderBy(F.rand(1)).repartition(5))
    )
    assert one == other


def test_an_empty_frame_has_no_ranks(spark):
    assert with_global_rank(spark.range(0), [F.col("id")], "rank").count() == 0
