from contextlib import ExitStack

from pyspark.sql import functions as F

from jobs.transforms import ranks
from jobs.transforms.ranks import in_parts, with_global_rank


def test_ranks_follow_the_given_order_from_start(spark, cached):
    counts = spark.createDataFrame([("b", 2), ("a", 2), ("c", 9)], "key string, n bigint")
    ranked = with_global_rank(counts, [F.col("n").desc(), F.col("key")], "token_id", cached, start=3)
    assert ranked.columns == ["key", "n", "token_id"]
    assert {row["key"]: row["token_id"] for row in ranked.collect()} == {"c": 3, "a": 4, "b": 5}


def test_ranks_are_consecutive_across_many_partitions(spark, cached, monkeypatch):
    monkeypatch.setattr(ranks, "ROWS_PER_TASK", 700)
    ids = spark.range(0, 5000, numPartitions=5).select(((F.col("id") * 7919) % 5000).alias("id"))
    ranked = with_global_rank(ids, [F.col("id")], "rank", cached, 3)
    rows = ranked.select("id", "rank", F.spark_partition_id().alias("part")).collect()
    assert len({row["part"] for row in rows}) > 1
    assert sorted((row["id"], row["rank"]) for row in rows) == [(i, i + 3) for i in range(5000)]


def test_ranks_do_not_depend_on_the_order_or_partitions_of_the_rows(spark, cached, monkeypatch):
    monkeypatch.setattr(ranks, "ROWS_PER_TASK", 100)
    keys = spark.range(300).select((F.col("id") % 50).alias("n"), F.col("id").cast("string").alias("key"))
    order = [F.col("n").desc(), F.col("key")]
    one, other = (
        {row["key"]: row["rank"] for row in with_global_rank(frame, order, "rank", cached).collect()}
        for frame in (keys, keys.orderBy(F.rand(1)).repartition(5))
    )
    assert one == other


def test_a_few_rows_are_ranked_without_a_job_that_counts_them(spark, cached):
    manager = spark._jsparkSession.sharedState().cacheManager()
    ids = spark.range(0, 50, numPartitions=5).select(((F.col("id") * 7) % 50).alias("id"))
    ranked = with_global_rank(ids, [F.col("id")], "rank", cached, 3, max_rows=50)
    assert manager.isEmpty()
    assert sorted(map(tuple, ranked.collect())) == [(i, i + 3) for i in range(50)]


def test_an_empty_frame_has_no_ranks(spark, cached):
    assert with_global_rank(spark.range(0), [F.col("id")], "rank", cached).count() == 0


def test_what_is_cached_for_the_ranks_goes_when_the_stack_is_closed_and_nothing_else_does(spark, monkeypatch):
    monkeypatch.setattr(ranks, "ROWS_PER_TASK", 20)
    spark.catalog.clearCache()
    manager = spark._jsparkSession.sharedState().cacheManager()
    with ExitStack() as cached:
        with_global_rank(spark.range(50), [F.col("id")], "rank", cached)
        assert not manager.isEmpty()
    assert manager.isEmpty()
    with ExitStack() as cached:
        others = spark.range(7).persist()
        with_global_rank(spark.range(50), [F.col("id")], "rank", cached)
    assert others.storageLevel.useMemory
    others.unpersist()
    assert manager.isEmpty()


def test_parts_are_equal_ranges_of_ranks_at_each_run(spark):
    ranks_of = spark.range(0, 103, numPartitions=5).select(((F.col("id") * 7) % 103).alias("rank"))
    twice = ranks_of.union(ranks_of)  # as a client's rows of several blocks
    for n_parts in (1, 7, 200):
        rows = in_parts(twice, "rank", 103, n_parts).select("rank", F.spark_partition_id()).collect()
        assert {(rank, part) for rank, part in rows} == {(rank, rank * n_parts // 103) for rank in range(103)}
        assert len(rows) == 206
