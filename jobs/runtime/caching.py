"""Caches and broadcasts that are released when the stage has written its table, or failed.

The stage passes an ``ExitStack`` to whatever caches, and closes it. ``spark.catalog.clearCache()`` would also release
the caches of another stage that runs in the same application.
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
    # not unpersist: the driver's own copy would stay
    cached.callback(sent.destroy)
    return sent
