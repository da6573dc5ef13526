"""What the shop and the benchmark log share: columns, ids, hours of the day, rows made block by block."""

from collections.abc import Callable, Iterable, Iterator

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession

from schemas import columns as c
from schemas.behaviours import ADD_TO_CART, PAGE_VISIT, PRODUCT_BUY, REMOVE_FROM_CART, SEARCH_QUERY

ITEM_COLUMNS = {
    PRODUCT_BUY: c.SKU,
    ADD_TO_CART: c.SKU,
    REMOVE_FROM_CART: c.SKU,
    PAGE_VISIT: c.URL,
    SEARCH_QUERY: c.QUERY,
}
"""Behaviour -> column of its source file that holds the item."""
SECONDS_PER_DAY = 86_400
HOURS = np.array([2, 1, 1, 1, 1, 2, 4, 6, 8, 9, 10, 10, 10, 10, 9, 9, 10, 11, 13, 15, 16, 14, 9, 5], dtype=float)
"""Weight of each hour of the day as the start of a session: a night, a day, and a peak in the evening."""


def spread_ids(indices: np.ndarray) -> np.ndarray:
    """Ids below 2**32 that differ where the indices do and keep no order (an odd factor is invertible)."""
    # Knuth's factor, 2**32 over the golden ratio: neighbours go far apart
    return (indices.astype(np.uint64) * np.uint64(2_654_435_761) % np.uint64(2**32)).astype(np.int64)


def map_blocks(
    spark: SparkSession, n_blocks: int, blocks_per_task: int, make: Callable[[int], Iterable[pa.RecordBatch]], ddl: str
) -> DataFrame:
    """The rows that ``make`` gives for each block's number; the same rows for any number of tasks.

    Parameters
    ----------
    blocks_per_task : a task makes at most about so many, fewer where there are cores for it
    ddl : the columns of the rows
    """

    def make_blocks(numbers: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in numbers:
            for block in batch.column(0).to_pylist():
                yield from make(block)

    n_tasks = _count_tasks(spark, n_blocks, blocks_per_task)
    return spark.range(0, n_blocks, 1, n_tasks).mapInArrow(make_blocks, ddl)


def _count_tasks(spark: SparkSession, n_blocks: int, blocks_per_task: int) -> int:
    # a task writes one file: more tasks than cores only where files would grow too large
    return min(n_blocks, max(spark.sparkContext.defaultParallelism, n_blocks // blocks_per_task))
