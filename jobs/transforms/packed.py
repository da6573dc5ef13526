"""Aggregation by key whose shuffle moves packed Arrow blocks instead of rows.

A row on its way through Spark's shuffle and sort costs far more than its bytes; as part of an Arrow block it costs a
few copies of them. So each task cuts blocks of rows into one piece per
bucket of keys, Spark's own shuffle carries the pieces, each as one binary value, and the task that gets all of a
bucket aggregates it.

What keeps this bounded is ``shrink``: it may replace rows by fewer that aggregate to the same result. Before the
shuffle it takes the weight out of a key that owns a large share of the rows; after it, it bounds what a task holds.
"""

from collections.abc import Callable, Iterable, Iterator

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

Batches = Iterable[pa.RecordBatch]
Rows = Callable[[pa.Table], pa.Table]

BLOCK_ROWS = 1_000_000
"""Rows that are shrunk and cut together before the shuffle."""
HELD_ROWS = 2_000_000
"""Rows that a task takes in after the shuffle before it shrinks what it holds."""

_BUCKET, _PIECE = "bucket", "piece"


def aggregate_packed(frame: DataFrame, shrink: Rows, finish: Rows, ddl: str) -> DataFrame:
    """``finish`` of all rows of some keys, once for every key; any row order.

    Parameters
    ----------
    frame : its first column is the key (bigint or string), never null
    shrink : rows -> rows with the key first that aggregate to the same result, at most as many; it may add
        columns, which are null in rows that never went through it
    finish : all rows of some keys, shrunk or not -> rows of ``ddl``

    Notes
    -----
    There are as many buckets as the session has shuffle partitions; adaptive execution joins small ones.
    """
    spark = frame.sparkSession
    n_buckets = int(spark.conf.get("spark.sql.shuffle.partitions") or 1)
    packed = frame.mapInArrow(_pack(shrink, _bucket_numbers(spark, n_buckets)), f"{_BUCKET} int, {_PIECE} binary")
    return packed.repartition(_BUCKET).select(_PIECE).mapInArrow(_merge(shrink, finish), ddl)


def _bucket_numbers(spark: SparkSession, n_buckets: int) -> NDArray[np.int32]:
    """A number for each bucket that Spark's hash sends to a partition of its own."""
    candidates = spark.range(30 * n_buckets).select(F.col("id").cast("int").alias("id"))
    partition = F.pmod(F.hash("id"), F.lit(n_buckets))
    sent_to = [row["partition"] for row in candidates.select(partition.alias("partition")).collect()]
    partitions, first = np.unique(sent_to, return_index=True)
    assert len(partitions) == n_buckets, "thirty numbers a partition leave none without one"
    return first.astype(np.int32)


def hash_keys(keys: pa.ChunkedArray) -> NDArray[np.uint64]:
    """A hash of each key that is the same in every process, uint64 [rows]."""
    return pd.util.hash_array(keys.to_numpy(), categorize=False)


def _pack(shrink: Rows, bucket_numbers: NDArray[np.int32]) -> Callable[[Batches], Batches]:
    def stream(batches: Batches) -> Batches:
        for block in _blocks(batches, BLOCK_ROWS):
            yield _cut(shrink(block).combine_chunks(), bucket_numbers)

    return stream


def _merge(shrink: Rows, finish: Rows) -> Callable[[Batches], Batches]:
    def stream(batches: Batches) -> Batches:
        held: pa.Table | None = None
        for block in _blocks(_unpack(batches), HELD_ROWS):
            held = block if held is None else shrink(_concatenate([held, block]))
        if held is not None:
            yield from finish(held).to_batches()

    return stream


def _blocks(batches: Batches, n_rows: int) -> Iterator[pa.Table]:
    """The batches as tables of at least ``n_rows`` rows, the last one smaller."""
    waiting: list[pa.Table] = []
    n_waiting = 0
    for batch in batches:
        waiting.append(pa.Table.from_batches([batch]))
        n_waiting += batch.num_rows
        if n_waiting >= n_rows:
            yield _concatenate(waiting)
            waiting, n_waiting = [], 0
    if n_waiting:
        yield _concatenate(waiting)


def _concatenate(tables: list[pa.Table]) -> pa.Table:
    return pa.concat_tables(tables, promote_options="default").combine_chunks()


def _cut(block: pa.Table, bucket_numbers: NDArray[np.int32]) -> pa.RecordBatch:
    """One row per bucket that the block has keys of: its number, and its rows in Arrow's stream format."""
    n_buckets = len(bucket_numbers)
    buckets = (hash_keys(block.column(0)) % np.uint64(n_buckets)).astype(np.uint16)
    by_bucket = block.take(np.argsort(buckets, kind="stable"))
    n_rows = np.bincount(buckets, minlength=n_buckets)
    starts = np.cumsum(n_rows) - n_rows
    filled = np.flatnonzero(n_rows)
    pieces = _to_binary([by_bucket.slice(starts[bucket], n_rows[bucket]) for bucket in filled])
    return pa.RecordBatch.from_arrays([pa.array(bucket_numbers[filled]), pieces], names=[_BUCKET, _PIECE])


def _to_binary(tables: list[pa.Table]) -> pa.Array:
    sink = pa.BufferOutputStream()
    offsets = [0]
    for table in tables:
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
        offsets.append(sink.tell())
    buffers = [None, pa.py_buffer(np.array(offsets, np.int32)), sink.getvalue()]
    return pa.BinaryArray.from_buffers(pa.binary(), len(tables), buffers)


def _unpack(batches: Batches) -> Batches:
    for batch in batches:
        for piece in batch.column(0):
            yield from pa.ipc.open_stream(piece.as_buffer())
