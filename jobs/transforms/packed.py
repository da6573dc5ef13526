"""Aggregation by key whose shuffle moves packed Arrow blocks instead of rows.

A row on its way through Spark's shuffle and sort costs far more than its bytes; as part of an Arrow block it costs a
few copies of them. So each task cuts blocks of rows into one piece per bucket of keys. Spark's own shuffle carries the
pieces, each as one binary value. The task that gets all of a bucket aggregates it. Rows that lie in files
(``StoredRows``) do not pass through the JVM before the shuffle at all.

What keeps this bounded is ``shrink``: it may replace rows by fewer that aggregate to the same result. Before the
shuffle it takes the weight out of a key that owns a large share of the rows; after it, it bounds what a task holds.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache, partial, reduce

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from jobs.storage.stored_rows import StoredRows

Batches = Iterable[pa.RecordBatch]
Rows = Callable[[pa.Table], pa.Table]

BLOCK_ROWS = 1_000_000
"""Rows that are shrunk and cut together before the shuffle."""
SHRINK_BYTES = 128 * 2**20
"""What a task takes in after the shuffle before it shrinks all that it has."""

ODD = np.uint64(0x9E3779B97F4A7C15)
"""2**64 over the golden ratio: a product's high bits depend on all of the key (Knuth, TAOCP 6.4)."""


def aggregate_packed(
    sources: Sequence[tuple[DataFrame | StoredRows, Rows | None]],
    shrink: Rows,
    finish: Rows,
    ddl: str,
    *,
    n_buckets: int | None = None,
    block_rows: int = BLOCK_ROWS,
) -> DataFrame:
    """``finish`` of all rows of some keys, once for every key; any row order.

    Parameters
    ----------
    sources : rows, whose first column is the key (bigint or string), never null; and what makes of them the rows to
        aggregate, with the key first, each looked at for itself, None for the same. A column that is not made from one
        source is null in its rows
    shrink : rows -> rows with the key first that aggregate to the same result, at most as many; it may add
        columns, which are null in rows that never went through it
    finish : all rows of some keys, shrunk or not -> rows of ``ddl``
    n_buckets : of keys; None for as many as the session has shuffle partitions, of which adaptive execution joins
        small ones into one task
    block_rows : shrunk and cut together before the shuffle
    """
    frames = [rows.frame if isinstance(rows, StoredRows) else rows for rows, _ in sources]
    spark = frames[0].sparkSession
    bucket_numbers = _bucket_numbers(spark, n_buckets or int(spark.conf.get("spark.sql.shuffle.partitions") or 1))

    def packed(rows: DataFrame | StoredRows, prepare: Rows | None) -> DataFrame:
        parts = rows.parts if isinstance(rows, StoredRows) else None
        # one row per part of the files, in a task of its own, which reads the part by itself
        n_parts = len(parts.starts) if parts else 0
        frame = rows if isinstance(rows, DataFrame) else spark.range(0, n_parts, 1, max(1, n_parts))

        def pack(batches: Batches) -> Batches:
            for block in _blocks(parts.read(batches) if parts else batches, block_rows):
                yield _cut(shrink(prepare(block) if prepare else block).combine_chunks(), bucket_numbers)

        return frame.mapInArrow(pack, "bucket int, piece binary")

    pieces = reduce(DataFrame.union, (packed(rows, prepare) for rows, prepare in sources))
    # without a number of its own the shuffle is adaptive, and Spark joins small buckets into one task
    gathered = pieces.repartition(n_buckets, "bucket") if n_buckets else pieces.repartition("bucket")
    return gathered.mapInArrow(partial(_merge, shrink, finish), ddl)


@cache
def _bucket_numbers(spark: SparkSession, n_buckets: int) -> NDArray[np.int32]:
    """A number for each bucket that Spark's hash sends to a partition of its own."""
    if n_buckets == 1:
        return np.zeros(1, np.int32)
    # any numbers would do but for collisions: two buckets in one partition leave another partition without work
    candidates = spark.createDataFrame(pd.DataFrame({"id": np.arange(30 * n_buckets, dtype=np.int32)}))
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
    # a bucket and a slot of the same key must not depend on each other: each salt mixes the bits once more
    for _ in range(1 + salt):
        bits = (bits ^ bits >> np.uint64(32)) * ODD
    # a share of n instead of a remainder: no division
    return ((bits >> np.uint64(32)) * np.uint64(n) >> np.uint64(32)).view(np.int64)


def _merge(shrink: Rows, finish: Rows, batches: Batches) -> Batches:
    """Each bucket is finished alone: its rows fit the processor's cache better than all of a task's."""
    gathered: dict[int, list[pa.Table]] = defaultdict(list)
    n_new_bytes = 0
    for batch in batches:
        for bucket, piece in zip(batch.column(0).to_pylist(), batch.column(1), strict=True):
            rows = pa.ipc.open_stream(piece.as_buffer()).read_all()
            gathered[bucket].append(rows)
            n_new_bytes += rows.nbytes
            if n_new_bytes > SHRINK_BYTES:
                for number, pieces in gathered.items():
                    gathered[number] = [shrink(_concatenate(pieces))]
                n_new_bytes = 0
    for bucket in sorted(gathered):
        # popped: a bucket that is finished takes no more memory
        yield from finish(_concatenate(gathered.pop(bucket))).to_batches()


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
    # permissive: a piece may be narrower (``narrow``), or lack the columns that ``shrink`` adds
    return pa.concat_tables(tables, promote_options="permissive").combine_chunks()


def _cut(block: pa.Table, bucket_numbers: NDArray[np.int32]) -> pa.RecordBatch:
    """One row per bucket that the block has keys of: its number, and its rows in Arrow's stream format."""
    n_buckets = len(bucket_numbers)
    buckets = spread_keys(block.column(0), n_buckets).astype(np.uint16)  # numpy sorts 16 bits by counting them
    by_bucket = block.take(np.argsort(buckets, kind="stable"))
    n_rows = np.bincount(buckets, minlength=n_buckets)
    starts = np.cumsum(n_rows) - n_rows
    filled = np.flatnonzero(n_rows)
    # all pieces go into one buffer, which becomes the values of a binary column without a copy per piece
    sink = pa.BufferOutputStream()
    offsets = [0]
    for bucket in filled:
        with pa.ipc.new_stream(sink, by_bucket.schema) as writer:
            writer.write_table(by_bucket.slice(starts[bucket], n_rows[bucket]))
        offsets.append(sink.tell())
    buffers = [None, pa.py_buffer(np.array(offsets, np.int32)), sink.getvalue()]
    pieces = pa.BinaryArray.from_buffers(pa.binary(), len(filled), buffers)
    return pa.RecordBatch.from_arrays([pa.array(bucket_numbers[filled]), pieces], names=["bucket", "piece"])
