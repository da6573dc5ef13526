"""Replaces a part of a small partitioned table by Parquet files that Python tasks write, in a commit of their own.

Delta's writer reads the whole state of a table before it replaces a part: six jobs, where the rows of a small block are
one. Tables of long logs are left to it.
"""

import json
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import compress
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import StructType

from jobs.storage.delta_commit import ReplacedPart, WrittenFile, replace_by_files
from jobs.storage.locations import spark_url
from jobs.storage.short_log import read_short_log

_ESCAPED = frozenset("\"#%'*/:=?\\\x7f{[]^") | frozenset(map(chr, range(1, 32)))
"""What Spark escapes in the names of partitions' folders."""


def replace_part(
    frame: DataFrame, folder: Path, schema: StructType, partition_by: Sequence[str], where: str, note: str | None
) -> tuple[int, int] | None:
    """Replace the rows of ``where`` by those of the frame; the commit's version and rows, None where Delta must do it.

    Parameters
    ----------
    folder : of a partitioned table that is there
    schema : of the table
    where : a condition on partition columns, as SQL
    note : kept in the commit as ``userMetadata``

    Raises
    ------
    ValueError
        If a row does not fulfil the condition; the table is as it was.
    """
    spark = frame.sparkSession
    found = read_short_log(folder, None)
    # other columns: Delta's own writer says what is wrong with them
    if found is None or found.schema != schema:
        return None
    written = write_partition_files(frame, folder, partition_by)
    if not all(_fulfil(spark, [file.partition for file in written], partition_by, where)):
        raise ValueError(f"{folder}: expected rows of {where}, found others")

    def replaced(version: int) -> list[dict[str, Any]]:
        former = read_short_log(folder, version)
        if former is None:
            # Delta's own writer can go on from here, so this is no error of the user's
            raise LookupError
        is_own = _fulfil(spark, [action["partitionValues"] for action in former.added], partition_by, where)
        return list(compress(former.added, is_own))

    part = ReplacedPart(where, replaced)
    try:
        version = replace_by_files(spark, spark_url(folder), schema, written, note, part)
    except LookupError:  # the log has grown meanwhile; the files that were written are of no version
        return None
    return version, sum(file.n_rows for file in written)


def write_partition_files(frame: DataFrame, folder: Path, partition_by: Sequence[str]) -> list[WrittenFile]:
    """One file for each partition of the frame and value of the partition columns, none of which may be null."""
    data = [name for name in frame.columns if name not in partition_by]
    folder.mkdir(parents=True, exist_ok=True)

    def write(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        writers: dict[tuple[str, ...], pq.ParquetWriter] = {}
        names, n_rows = {}, {}
        for batch in batches:
            for values, rows in _split(batch, partition_by):
                if values not in writers:
                    parts = (f"{name}={escape_value(value)}" for name, value in zip(partition_by, values, strict=True))
                    # a task that is run again writes other files; what is not committed, a vacuum removes
                    names[values] = "/".join([*parts, f"part-{uuid.uuid4()}.snappy.parquet"])
                    path, n_rows[values] = folder / names[values], 0
                    # no dictionary: numbers of vectors hardly repeat
                    path.parent.mkdir(parents=True, exist_ok=True)
                    schema = pa.schema([batch.schema.field(name) for name in data])
                    writers[values] = pq.ParquetWriter(path, schema, compression="snappy", use_dictionary=False)
                writers[values].write_batch(rows.select(data))
                n_rows[values] += rows.num_rows
        for values, writer in writers.items():
            writer.close()
            partition = json.dumps(dict(zip(partition_by, values, strict=True)))
            n_bytes = (folder / names[values]).stat().st_size
            row = {"name": names[values], "n_bytes": n_bytes, "n_rows": n_rows[values], "partition": partition}
            yield pa.RecordBatch.from_pylist([row])

    # as text, partition columns have the values that Delta's log has
    named = frame.select(*(F.col(name).cast("string").alias(name) for name in partition_by), *data)
    rows = named.mapInArrow(write, "name string, n_bytes bigint, n_rows bigint, partition string").collect()
    return [WrittenFile(row[0], row[1], row[2], json.loads(row[3])) for row in rows]


def escape_value(value: str) -> str:
    """The value in the name of a folder.

    Examples
    --------
    >>> escape_value("2022-09-01 00:00:00")
    '2022-09-01 00%3A00%3A00'
    """
    return "".join(f"%{ord(letter):02X}" if letter in _ESCAPED else letter for letter in value)


def _split(batch: pa.RecordBatch, partition_by: Sequence[str]) -> Iterator[tuple[tuple[str, ...], pa.RecordBatch]]:
    """The rows of each value of the partition columns, in their order."""
    keys = pa.table([batch.column(name) for name in partition_by], names=list(partition_by))
    for row in keys.group_by(list(partition_by)).aggregate([]).to_pylist():
        is_own = pc.equal(batch.column(partition_by[0]), row[partition_by[0]])
        for name in partition_by[1:]:
            is_own = pc.and_(is_own, pc.equal(batch.column(name), row[name]))
        # nearly always a batch is of one partition: filtering it would copy it
        own = batch if pc.all(is_own, min_count=0).as_py() else batch.filter(is_own)
        yield tuple(row[name] for name in partition_by), own


def _fulfil(
    spark: SparkSession, partitions: Sequence[Mapping[str, str]], partition_by: Sequence[str], where: str
) -> list[bool]:
    """Whether a row of each partition fulfils the condition; no Spark job."""
    if not partitions:
        return []
    columns = {name: [values[name] for values in partitions] for name in partition_by}
    ddl = ", ".join(["number bigint", *(f"{name} string" for name in columns)])
    # Spark evaluates the SQL; from pandas, by Arrow, the rows are part of the plan, and filtering them is no job
    frame = spark.createDataFrame(pd.DataFrame({"number": range(len(partitions)), **columns}), ddl)
    found = {row["number"] for row in frame.filter(where).select("number").collect()}
    return [number in found for number in range(len(partitions))]
