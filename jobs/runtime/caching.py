"""What Spark keeps for a stage, and lets go when the stage has written its table, or failed.

An ``ExitStack`` is handed to what caches, and closed by the stage. ``spark.catalog.clearCache()`` would also take
what another stage of the same application counts on meanwhile.
"""

from contextlib import ExitStack
from typing import TypeVar

from pyspark import Broadcast, StorageLevel
from pyspark.sql import DataFrame

T = TypeVar("T")


def cache_rows(frame: DataFrame, cached: ExitStack) -> DataFrame:
    """The frame, its rows cached in memory, then on disk, from their first use until ``cached`` is closed."""
    cached.callback(frame.unpersist)
    return frame.persist(StorageLevel.MEMORY_AND_DISK)


def broadcast_value(frame: DataFrame, value: T, cached: ExitStack) -> Broadcast[T]:
    """The value on every executor of the frame's session until ``cached`` is closed."""
    sent = frame.sparkSession.sparkContext.broadcast(value)
    cached.callback(sent.destroy)
    return sent
