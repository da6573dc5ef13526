"""Reads and writes the Delta tables of a workspace; the only module that does.

The tables of one ingest carry its number, counted from 0, in their commits. ``--as-of`` names that number and
not a Delta version: the versions of two tables part as soon as an ingest dies between them or one of them is
compacted, and equal versions would then mix two ingests.
"""

import contextlib
import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from delta.tables import DeltaTable
from pyspark.errors import AnalysisException
from pyspark.sql import DataFrame, Row, SparkSession
from pyspark.sql import functions as F

from jobs.metrics_log import append_metrics
from jobs.workspace import Workspace
from schemas.check import check_columns
from schemas.errors import OutputError, TableError
from schemas.tables import TableSchema

log = logging.getLogger(__name__)

UPKEEP = ("OPTIMIZE", "VACUUM START", "VACUUM END")
"""Delta's names of the commits that leave a table's rows as they are."""

OPEN_FILES = 64
"""Table partitions that one task writes side by side; above this many Spark sorts its rows by them first."""

_INGEST = "ingest "


@dataclass(frozen=True)
class TableCommit:
    """What one write did.

    Attributes
    ----------
    version : Delta version that holds it
    n_rows : rows written, from the commit's own metrics
    """

    version: int
    n_rows: int


@dataclass(frozen=True)
class DataFile:
    """One Parquet file of a pinned snapshot.

    Attributes
    ----------
    url : where it lies, as Spark and Petastorm name it
    partition : partition column -> value
    n_rows : its rows
    """

    url: str
    partition: dict[str, object]
    n_rows: int


def read_table(spark: SparkSession, workspace: Workspace, table: TableSchema, version: int | None = None) -> DataFrame:
    """A table of this run, at its newest version or a given one.

    Raises
    ------
    TableError
        If the table or the version is missing or its columns are not those of ``schemas/tables.py``.
    """
    path = workspace.table(table.name)
    if not has_commit(path):
        found = "a folder that no write has finished" if Path(path).exists() else "none"
        raise TableError(
            f"table {table.name!r}: expected a Delta table, found {found} in {workspace.out}; run the stage that "
            "writes it first (`ubp run` runs all of them)"
        )
    reader = spark.read.format("delta")
    try:
        frame = (reader if version is None else reader.option("versionAsOf", version)).load(path)
    except AnalysisException as error:
        wanted = "a table that Delta can read" if version is None else f"version {version}"
        raise TableError(
            f"table {table.name!r}: expected {wanted} in {path}, found: {error}; run the stage that writes it again"
        ) from error
    check_columns(table, columns_of(frame), columns_of(_empty(spark, table)))
    return frame


def read_ingested(spark: SparkSession, workspace: Workspace, table: TableSchema) -> DataFrame:
    """A table that ingest wrote, of the newest ingest or of number ``workspace.as_of``; notes the version read.

    Raises
    ------
    TableError
        If the table is missing, or it has no version of that ingest, or a vacuum has removed files of it.
    """
    if workspace.as_of is None:
        frame = read_table(spark, workspace, table)
        version = latest_version(workspace.table(table.name))
    else:
        version = _version_of_ingest(spark, workspace, table, workspace.as_of)
        frame = read_table(spark, workspace, table, version)
        _require_files(frame, table, workspace.as_of)
        log.info("  %s: read as of ingest %d, Delta version %d", table.name, workspace.as_of, version)
    append_metrics(workspace.metrics, {"read": table.name, "read/version": version, "read/as_of": workspace.as_of})
    return frame


def write_table(
    frame: DataFrame,
    workspace: Workspace,
    table: TableSchema,
    rows_per_file: int | None = None,
    *,
    row_group_mib: int | None = None,
    is_log: bool = False,
    keep_partitions: bool = False,
    ingest: int | None = None,
) -> TableCommit:
    """Replace a table by ``frame`` in one atomic commit and log its rows.

    By default Delta gathers the rows of each table partition before it writes them: without that, each Spark task
    writes a file of its own into each of them, thousands of a few rows for a table of many partitions.

    Parameters
    ----------
    rows_per_file : most rows of one file; the frame's own partitions and order make the files
    row_group_mib : size of a row group in the file, for tables that are read one row group at a time; None
        leaves Parquet's 128
    is_log : all rows are read each time, and their values hardly repeat within a file: no dictionaries, no
        statistics to skip files by, and the codec that takes the least time
    keep_partitions : the frame's own partitions make the files, as where they are large already and gathering
        would move all rows once more
    ingest : number of the ingest that writes, kept in the commit

    Raises
    ------
    TableError
        If the frame's columns are not those of ``schemas/tables.py``.
    """
    spark = frame.sparkSession
    check_columns(table, columns_of(frame), columns_of(_empty(spark, table)))
    started = time.monotonic()
    writer = (
        frame.write.format("delta")
        .mode("overwrite")
        .option("overwriteSchema", "true")
        .option("maxRecordsPerFile", rows_per_file or 0)
        .option("optimizeWrite", not keep_partitions and rows_per_file is None)
        .partitionBy(*table.partition_by)
    )
    if ingest is not None:
        writer = writer.option("userMetadata", f"{_INGEST}{ingest}")
    # Delta passes no Parquet option on to the writer, but it reads the session's
    settings = {"parquet.block.size": str(row_group_mib * 2**20)} if row_group_mib else {}
    if rows_per_file:
        settings["spark.sql.maxConcurrentOutputFileWriters"] = str(OPEN_FILES)
    if is_log:
        settings |= {
            "parquet.enable.dictionary": "false",
            "spark.sql.parquet.compression.codec": "snappy",
            "spark.databricks.delta.stats.collect": "false",
        }
    with session_settings(spark, settings):
        writer.save(workspace.table(table.name))
    commit = latest_commit(spark, workspace, table)
    seconds = time.monotonic() - started
    log.info("  %s: %s rows, %.1f s", table.name, f"{commit.n_rows:,}", seconds)
    append_metrics(workspace.metrics, {"table": table.name, "table/rows": commit.n_rows, "table/seconds": seconds})
    return commit


def latest_commit(spark: SparkSession, workspace: Workspace, table: TableSchema) -> TableCommit:
    """The newest version of a table and the rows that its write reported."""
    row = DeltaTable.forPath(spark, workspace.table(table.name)).history(1).first()
    assert row is not None
    return TableCommit(int(row["version"]), int(row["operationMetrics"].get("numOutputRows", 0)))


def latest_version(path: str) -> int:
    """Number of the newest commit in a table's log."""
    return max(int(commit.stem) for commit in _commits(path))


def has_commit(path: str) -> bool:
    """Whether a write to the folder was ever finished; one that was killed before leaves files without a log."""
    return next(_commits(path), None) is not None


def read_history(spark: SparkSession, path: str) -> list[Row]:
    """The commits that the table's log still holds, oldest first: version, operation, note, seconds (since 1970)."""
    note, seconds = F.col("userMetadata").alias("note"), F.unix_seconds("timestamp").alias("seconds")
    history = DeltaTable.forPath(spark, path).history()
    return history.select("version", "operation", note, seconds).orderBy("version").collect()


def ingest_versions(history: Sequence[Row]) -> dict[int, int]:
    """Number of each ingest -> newest version that holds its rows.

    Upkeep changes the version and not the rows. A write that carries no number counts by its version.
    """
    versions: dict[int, int] = {}
    number = None
    for commit in history:
        if commit["operation"] not in UPKEEP:
            note = commit["note"] or ""
            number = int(note.removeprefix(_INGEST)) if note.startswith(_INGEST) else commit["version"]
        if number is not None:
            versions[number] = commit["version"]
    return versions


def next_ingest(spark: SparkSession, workspace: Workspace, tables: Sequence[TableSchema]) -> int:
    """The number after the highest that one of the tables carries; 0 where there is none.

    An ingest that died leaves its number in some tables only: it is never used again.
    """
    paths = [workspace.table(table.name) for table in tables]
    numbers = [number for path in paths if has_commit(path) for number in ingest_versions(read_history(spark, path))]
    return max(numbers, default=-1) + 1


def list_files(snapshot: DataFrame, partition_by: tuple[str, ...]) -> list[DataFile]:
    """The files of one snapshot with their rows, in a stated order (partition, then file name).

    A Delta folder also holds the files of older versions; only the snapshot knows which are its own.
    Counting by partition columns alone reads no data column.
    """
    url = F.input_file_name().alias("url")
    counts = snapshot.groupBy(*partition_by, url).agg(F.count("*").alias("n_rows")).collect()
    files = [DataFile(row["url"], {name: row[name] for name in partition_by}, row["n_rows"]) for row in counts]
    return sorted(files, key=lambda file: (str(sorted(file.partition.items())), file.url.rsplit("/", 1)[-1]))


def local_path(url: str) -> str:
    """Path of a file that Spark names by an encoded URL; OutputError where it is not on a mounted file system."""
    parts = urlsplit(url)
    if parts.scheme not in ("", "file"):
        raise OutputError(
            f"expected --out on a file system that the driver and the workers mount, found {url}; entries and scores "
            "are read as plain files"
        )
    return unquote(parts.path)


def columns_of(frame: DataFrame) -> list[tuple[str, str]]:
    """Names and types, in order."""
    return [(field.name, field.dataType.simpleString()) for field in frame.schema.fields]


@contextlib.contextmanager
def session_settings(spark: SparkSession, settings: dict[str, str]) -> Iterator[None]:
    """Change settings of the session until the block ends."""
    before = {name: spark.conf.get(name, None) for name in settings}
    try:
        for name, value in settings.items():
            spark.conf.set(name, value)
        yield
    finally:
        for name, former in before.items():
            if former is None:
                spark.conf.unset(name)
            else:
                spark.conf.set(name, former)


def _version_of_ingest(spark: SparkSession, workspace: Workspace, table: TableSchema, number: int) -> int:
    path = workspace.table(table.name)
    versions = ingest_versions(read_history(spark, path)) if has_commit(path) else {}
    if number not in versions:
        raise TableError(
            f"table {table.name!r}: expected ingest {number} (--as-of), found "
            f"{', '.join(map(str, versions)) or 'none'} in {path}; name one that every table of events and "
            "product_properties has (a number is missing where that ingest was stopped before this table), or leave "
            "--as-of out for the newest"
        )
    return versions[number]


def _require_files(frame: DataFrame, table: TableSchema, number: int) -> None:
    """Raise TableError where files of the version are gone; Delta itself would tell in the middle of a stage."""
    files = [Path(local_path(url)) for url in frame.inputFiles()]
    gone = [file for file in files if not file.exists()]
    if gone:
        raise TableError(
            f"table {table.name!r}: expected the {len(files)} files of ingest {number} (--as-of), found {len(gone)} of "
            f"them removed by a vacuum, such as {gone[0]}; name a later ingest or leave --as-of out for the newest"
        )


def _commits(path: str) -> Iterator[Path]:
    return Path(path, "_delta_log").glob("[0-9]*.json")


def _empty(spark: SparkSession, table: TableSchema) -> DataFrame:
    return spark.createDataFrame([], table.ddl)
