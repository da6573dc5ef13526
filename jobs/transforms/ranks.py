"""Consecutive ranks over a whole frame, by all tasks side by side."""

from itertools import accumulate

from pyspark import StorageLevel
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

_ROW_BITS = 33
"""monotonically_increasing_id holds the partition above this many bits, and the row in it below."""


def with_global_rank(frame: DataFrame, order_by: list[Column], rank_column: str, start: int = 0) -> DataFrame:
    """Each row with its rank in a total order; the same rows whatever their order or partitions.

    A window without a partition would pull every row through one task. Here the sort is range-partitioned,
    each row knows its place in its partition, and the driver adds up one count per partition.

    Parameters
    ----------
    order_by : a total order: end with a column that breaks every tie
    rank_column : added, bigint, ``start`` for the first row and up by one

    Notes
    -----
    Runs the sort at once and keeps the sorted rows cached (memory, then disk), because the bounds of the
    ranges are sampled: counts and ranks must come from the very same partitions. The caller frees them with
    ``spark.catalog.clearCache()`` after its write.
    """
    place = f"{rank_column}__place"
    placed = frame.orderBy(*order_by).withColumn(place, F.monotonically_increasing_id())
    placed = placed.persist(StorageLevel.MEMORY_AND_DISK)
    partition = F.shiftright(F.col(place), _ROW_BITS)
    row_in_partition = F.col(place).bitwiseAND(F.lit((1 << _ROW_BITS) - 1))
    offsets = _offsets(placed, partition, start)
    return (
        placed.join(F.broadcast(offsets), on=partition == F.col("__partition"), how="inner")
        .withColumn(rank_column, F.col("__offset") + row_in_partition)
        .drop(place, "__partition", "__offset")
    )


def _offsets(placed: DataFrame, partition: Column, start: int) -> DataFrame:
    counts = sorted(tuple(row) for row in placed.groupBy(partition.alias("partition")).count().collect())
    totals = accumulate((n_rows for _, n_rows in counts), initial=start)
    rows = [(number, total) for (number, _), total in zip(counts, totals, strict=False)]
    return placed.sparkSession.createDataFrame(rows, "__partition bigint, __offset bigint")
