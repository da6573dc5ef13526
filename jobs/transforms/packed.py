"""Aggregation by key whose shuffle moves packed Arrow blocks instead of rows.

A row on its way through Spark's shuffle and sort costs far more than its bytes; as part of an Arrow block it costs a
few copies of them. So each task cuts blocks of rows into one piece per bucket of keys, Spark's own shuffle carries the
pieces, each as one binary value, and the task that gets all of a bucket aggregates it. Rows that lie in files
(``StoredRows``) do not pass through the JVM before the shuffle at all.

What keeps this bounded is ``shrink``: it may replace rows by fewer that aggregate to the same result. Before the
shuffle it takes the weight out of a key that owns a large share of the rows; after it, it bounds what a task holds.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from jobs.storage.stored_rows import StoredRows

Batches = Iterable[pa.RecordBatch]
Rows = Callable[[pa.Table], pa.Table]
Step = Callable[[Batches], Batches]

BLOCK_ROWS = 1_000_000
"""Rows that are shrunk and cut together before the shuffle."""
HELD_BYTES = 128 * 2**20
"""What a task takes in after the shuffle before it shrinks what it holds."""

_ODD = np.uint64(0x9E3779B97F4A7C15)
"""2**64 over the golden ratio: a product's high bits depend on all of the key (Knuth, TAOCP 6.4)."""

_BUCKET, _PIECE = "bucket", "piece"


def as_they_are(rows: pa.Table) -> pa.Table:
    """The same rows."""
    return rows


def aggregate_packed(
    rows: DataFrame | StoredRows,
    shrink: Rows,
    finish: Rows,
    ddl: str,
    *,
    prepare: Rows = as_they_are,
    n_buckets: int | None = None,
    block_rows: int = BLOCK_ROWS,
) -> DataFrame:
    """``finish`` of all rows of some keys, once for every key; any row order.

    Parameters
    ----------
    rows : the first column is the key (bigint or string), never null
    prepare : source rows -> the rows to aggregate, with the key first, each looked at for itself
    shrink : rows -> rows with the key first that aggregate to the same result, at most as many; it may add
        columns, which are null in rows that never went through it
    finish : all rows of some keys, shrunk or not -> rows of ``ddl``
    n_buckets : of keys; None for as many as the session has shuffle partitions, of which adaptive execution joins
        small ones into one task
    block_rows : shrunk and cut together before the shuffle
    """
    frame = rows.frame if isinstance(rows, StoredRows) else rows
    spark = frame.sparkSession
    n_partitions = n_buckets or int(spark.conf.get("spark.sql.shuffle.partitions") or 1)
    pack = _pack(prepare, shrink, _bucket_numbers(spark, n_partitions), block_rows)
    if isinstance(rows, StoredRows):
        parts = rows.list_parts()
        n_parts = max(1, len(parts.starts))
        frame, pack = spark.range(0, len(parts.starts), 1, n_parts), _after(parts.read, pack)
    packed = frame.mapInArrow(pack, f"{_BUCKET} int, {_PIECE} binary")
    gathered = packed.repartition(n_buckets, _BUCKET) if n_buckets else packed.repartition(_BUCKET)
    return gathered.mapInArrow(_merge(shrink, finish), ddl)


def _after(first: Step, second: Step) -> Step:
    return lambda batches: second(first(batches))


def _bucket_numbers(spark: SparkSession, n_buckets: int) -> NDArray[np.int32]:
    """A number for each bucket that Spark's hash sends to a partition of its own."""
    candidates = spark.range(30 * n_buckets).select(F.col("id").cast("int").alias("id"))
    partition = F.pmod(F.hash("id"), F.lit(n_buckets))
    sent_to = [row["partition"] for row in candidates.select(partition.alias("partition")).collect()]
    partitions, first = np.unique(sent_to, return_index=True)
    assert len(partitions) == n_buckets, "thirty numbers a partition leave none without one"
    return first.astype(np.int32)


def narrow(values: NDArray[np.int64]) -> NDArray[np.int32] | NDArray[np.int64]:
    """The values in 32 bits where these hold all of them."""
    limits = np.iinfo(np.int32)
    fits = len(values) == 0 or bool(values.min() >= limits.min and values.max() <= limits.max)
    return values.astype(np.int32) if fits else values


def spread_keys(keys: pa.ChunkedArray, n: int, salt: int = 0) -> NDArray[np.int64]:
    """A number below ``n`` for each key, the same in every process; another salt gives others, int64 [rows]."""
    values = keys.to_numpy()
    bits = (
        pd.util.hash_array(values, categorize=False)
        if values.dtype == object
        else values.astype(np.int64).view(np.uint64)
    )
    for _ in range(1 + salt):
        bits = (bits ^ bits >> np.uint64(32)) * _ODD
    return ((bits >> np.uint64(32)) * np.uint64(n) >> np.uint64(32)).view(np.int64)


def _pack(prepare: Rows, shrink: Rows, bucket_numbers: NDArray[np.int32], block_rows: int) -> Step:
    def stream(batches: Batches) -> Batches:
        for block in _blocks(batches, block_rows):
            yield _cut(shrink(prepare(block)).combine_chunks(), bucket_numbers)

    return stream


def _merge(shrink: Rows, finish: Rows) -> Step:
    """Each bucket is finished alone: its rows fit the processor's cache better than all of a task's."""

    def stream(batches: Batches) -> Batches:
        held: dict[int, list[pa.Table]] = defaultdict(list)
        n_new_bytes = 0
        for bucket, piece in _unpack(batches):
            held[bucket].append(piece)
            n_new_bytes += piece.nbytes
            if n_new_bytes > HELD_BYTES:
                held = defaultdict(list, {bucket: [shrink(_concatenate(pieces))] for bucket, pieces in held.items()})
                n_new_bytes = 0
        for bucket in sorted(held):
            yield from finish(_concatenate(held.pop(bucket))).to_batches()

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
    return pa.concat_tables(tables, promote_options="permissive").combine_chunks()


def _cut(block: pa.Table, bucket_numbers: NDArray[np.int32]) -> pa.RecordBatch:
    """One row per bucket that the block has keys of: its number, and its rows in Arrow's stream format."""
    n_buckets = len(bucket_numbers)
    buckets = spread_keys(block.column(0), n_buckets).astype(np.uint16)
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


def _unpack(batches: Batches) -> Iterator[tuple[int, pa.Table]]:
    for batch in batches:
        for bucket, piece in zip(batch.column(0).to_pylist(), batch.column(1), strict=True):
            yield bucket, pa.ipc.open_stream(piece.as_buffer()).read_all()
