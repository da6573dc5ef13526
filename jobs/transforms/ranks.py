"""Consecutive ranks over a whole frame, by all tasks side by side."""

from contextlib import ExitStack
from itertools import accumulate

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from jobs.runtime.caching import cache_rows

ROWS_PER_TASK = 2_000_000
"""About how many rows one task sorts."""
_ROW_BITS = 33
"""monotonically_increasing_id holds the partition above this many bits, and the row in it below."""


def with_global_rank(
    frame: DataFrame,
    order_by: list[Column],
    rank_column: str,
    cached: ExitStack,
    start: int = 0,
    max_rows: int | None = None,
) -> DataFrame:
    """Each row with its rank in a total order; the same rows whatever their order or partitions.

    A window without a partition would pull every row through one task. Here ranges of about ``ROWS_PER_TASK`` rows
    are sorted side by side, each row knows its position in its range, and the driver adds up one count per range.

    Parameters
    ----------
    order_by : a total order: end with a column that breaks every tie
    rank_column : added, bigint, ``start`` for the first row and up by one
    cached : keeps ``frame`` and the sorted rows cached; close it after the write
    max_rows : ``frame`` has no more, where that is known; a few are ranked without counting them first

    Notes
    -----
    Unless the rows are few, runs ``frame`` at once and caches it and the sorted rows, because the bounds of the ranges
    are sampled: counts and ranks must come from the very same partitions, or two rows get one rank.
    """
    if max_rows is None or max_rows >= ROWS_PER_TASK:
        frame = cache_rows(frame, cached)
        n_ranges = 1 + frame.count() // ROWS_PER_TASK
    else:
        n_ranges = 1
    if n_ranges == 1:
        # not by a range, which would be one more shuffle
        ordered = frame.coalesce(1).sortWithinPartitions(*order_by)
        return ordered.withColumn(rank_column, F.monotonically_increasing_id() + start)
    position = f"{rank_column}__position"
    ranges = frame.repartitionByRange(n_ranges, *order_by).sortWithinPartitions(*order_by)
    numbered = cache_rows(ranges.withColumn(position, F.monotonically_increasing_id()), cached)
    partition = F.shiftright(F.col(position), _ROW_BITS)
    row_in_partition = F.col(position).bitwiseAND(F.lit((1 << _ROW_BITS) - 1))
    counts = numbered.groupBy(partition.alias("partition")).count().collect()
    n_rows = {row["partition"]: row["count"] for row in counts}
    # the rank of the first row of each range; a range may be empty
    firsts = accumulate((n_rows.get(number, 0) for number in range(n_ranges - 1)), initial=start)
    # element_at counts from 1
    rank = F.element_at(F.array(*map(F.lit, firsts)), partition.cast("int") + 1) + row_in_partition
    return numbered.withColumn(rank_column, rank).drop(position)


def in_parts(frame: DataFrame, rank_column: str, n_ranks: int, n_parts: int) -> DataFrame:
    """The rows in partitions of equally many consecutive ranks, the same ones at each run.

    ``repartitionByRange`` runs the frame twice, the first time to sample its bounds, by a seed that differs from run
    to run: rows would be computed in other batches, and floats of them differ in their last bits.

    Parameters
    ----------
    rank_column : bigint, of 0 to ``n_ranks`` - 1; several rows may have one rank
    """
    part = F.floor(F.col(rank_column) * n_parts / n_ranks).cast("int")
    keys = F.lit(_keys_of_partitions(frame.sparkSession, n_parts))
    return frame.repartition(n_parts, F.element_at(keys, part + 1))


def _keys_of_partitions(spark: SparkSession, n_parts: int) -> list[int]:
    """For each of so many partitions a number whose rows Spark puts there by its hash."""
    number = F.col("id").cast("int")
    # of 40 numbers for each partition all miss one of a million with probability e^-26
    hashed = spark.range(40 * n_parts, numPartitions=1).select(number, F.pmod(F.hash(number), F.lit(n_parts)))
    found = {part: key for key, part in hashed.collect()}
    return [found[part] for part in range(n_parts)]
