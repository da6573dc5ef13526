"""Reads and writes the Delta tables of a workspace; the only module that does.

The tables of one ingest carry its number, counted from 0, in their commits. ``--as-of`` names that number and
not a Delta version: the versions of two tables part as soon as an ingest dies between them or one of them is
compacted, and equal versions would then mix two ingests.
"""

import contextlib
import logging
import re
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from delta.tables import DeltaTable
from py4j.protocol import Py4JJavaError
from pyspark.errors import AnalysisException, PySparkException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from jobs.runtime.caching import cache_rows
from jobs.storage.delta_commit import FileWriter, can_commit, replace_by_files
from jobs.storage.files import digest
from jobs.storage.locations import is_folder, is_mounted, is_name, plain_path, quoted_name, spark_url
from jobs.storage.metrics_log import append_metrics
from jobs.storage.partition_files import replace_part
from jobs.storage.short_log import read_short_log
from jobs.storage.table_history import (
    INGEST_NOTE,
    MADE_EMPTY,
    has_history,
    ingest_versions,
    newest_commits,
    read_history,
    table_url,
)
from jobs.storage.workspace import Workspace
from schemas.errors import TableError
from schemas.tables import TableSchema, check_columns

log = logging.getLogger(__name__)

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")

# the settings are those of all threads; reentrant, for a write within a block of the same thread
_SETTINGS_LOCK = threading.RLock()
_OWN_COMMIT = {
    "spark.databricks.delta.autoCompact.enabled": "false",  # merging files would be a further commit
    "spark.databricks.delta.skipRecordingEmptyCommits": "false",  # no rows instead of none: an ingest's, too
    "spark.sql.sources.partitionOverwriteMode": "static",  # a cluster's may be dynamic: Delta then replaces no columns
}
_LOG_SETTINGS = {
    "parquet.enable.dictionary": "false",
    "spark.sql.parquet.compression.codec": "snappy",
    "spark.databricks.delta.stats.collect": "false",
}


@dataclass(frozen=True)
class TableCommit:
    """What one write did.

    Attributes
    ----------
    version : Delta version that holds it, with its files merged where something else did that since
    n_rows : from the write's own metrics
    """

    version: int
    n_rows: int


@dataclass(frozen=True)
class DataFile:
    """One Parquet file of a pinned snapshot: its encoded URL, the values of its partition columns, its rows."""

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
    location = workspace.table(table.name)
    # an earlier version can be read even where the newest was only made, for other columns, and never filled
    if not (exists(spark, location) if version is None else has_history(spark, location)):
        if is_name(location):
            found = "a table that no write has filled" if spark.catalog.tableExists(location) else "none"
        else:
            found = "a folder that no write has finished" if Path(location).exists() else "none"
        raise TableError(
            f"table {table.name!r}: expected a Delta table, found {found} in "
            f"{workspace.out if is_folder(location) else location}; run the stage that writes it first (`ubp run` runs "
            "all of them)"
        )
    try:
        frame = _read_by_short_log(spark, location, version) or read_version(spark, location, version)
    except AnalysisException as error:
        wanted = "a table that Delta can read" if version is None else f"version {version}"
        raise TableError(
            f"table {table.name!r}: expected {wanted} in {location}, found: {error}; run the stage that writes it again"
        ) from error
    check_columns(table, frame.dtypes, _empty(spark, table).dtypes)
    return frame


def read_as_files(
    spark: SparkSession,
    workspace: Workspace,
    table: TableSchema,
    version: int | None = None,
    row_group_mib: int | None = None,
) -> DataFrame:
    """As ``read_table``, for readers that open the files themselves.

    Where Python does not reach the files, as those of a Unity Catalog or of another store than ``OUT``'s, a copy of the
    version in plain Parquet is read, under ``OUT/copies``; it is kept until another version, or another table of the
    name, is asked for.

    Parameters
    ----------
    row_group_mib : of a copy; as in ``write_table``
    """
    snapshot = read_table(spark, workspace, table, version)
    store = workspace.working_copy.store if workspace.working_copy else None
    if all(is_mounted(url) or (store and url.startswith(f"{store.spark_url}/")) for url in snapshot.inputFiles()):
        return snapshot
    if version is None:  # by its number: what is written from now on would be copied under this one's
        version = latest_commit(spark, workspace, table).version
        snapshot = read_table(spark, workspace, table, version)
    location = workspace.table(table.name)
    if is_name(location):
        described = spark.sql(f"DESCRIBE DETAIL {location}")
    else:
        described = DeltaTable.forPath(spark, table_url(location)).detail()
    # a table that was dropped and made again has another id of Delta's; one in another location is another table
    identity = digest([location, described.collect()[0]["id"]])[:16]
    folder = workspace.copy(table.name) / identity / str(version)
    name = folder.relative_to(workspace.out).as_posix()
    url = f"{store.spark_url}/{name}" if store else spark_url(folder)
    if not (store.describe(f"{name}/_SUCCESS") if store else (folder / "_SUCCESS").exists()):
        # Spark writes _SUCCESS last: a copy without it is half of one
        workspace.remove(workspace.copy(table.name))
        with session_settings(spark, _row_group(row_group_mib)):
            snapshot.write.mode("overwrite").partitionBy(*table.partition_by).parquet(url)
        log.info("  %s: version %d copied to %s, where Python reads its files", table.name, version, url)
    # with the schema: Spark would guess the types of partition columns by the names of folders
    return spark.read.schema(snapshot.schema).parquet(url).select(snapshot.columns)


def read_ingested(spark: SparkSession, workspace: Workspace, table: TableSchema) -> DataFrame:
    """A table that ingest wrote, of the newest ingest or of number ``workspace.as_of``; notes the version read.

    Raises
    ------
    TableError
        If the table is missing, or it has no version of that ingest, or a vacuum has removed files of it.
    """
    if workspace.as_of is None:
        read_table(spark, workspace, table)  # refuses one that is not there
        # by its number: a write since would give other rows than those of the version that is noted
        version = latest_commit(spark, workspace, table).version
        frame = read_table(spark, workspace, table, version)
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
    write_files: FileWriter | None = None,
    where: str | None = None,
) -> TableCommit:
    """Replace a table, or its rows of ``where``, by ``frame`` in one atomic commit and log the rows.

    By default Delta gathers the rows of each table partition before it writes them: without that, each Spark task
    writes a file of its own into each of them, thousands of a few rows for a table of many partitions. It does not
    merge files after the write, whatever the session says: the files are as they were laid out.

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
    write_files : writes the frame's rows as Parquet files by itself, which are then committed; called where the table
        lies under a mount and Delta takes such files
    where : a condition on partition columns, as SQL; the other rows stay, and each row of the frame must fulfil it.
        Such writes may run at once, where their conditions exclude each other

    Raises
    ------
    TableError
        If the frame's columns are not those of ``schemas/tables.py``.
    """
    spark, location = frame.sparkSession, workspace.table(table.name)
    # Delta itself would take any columns: the writes below may replace those of the table
    check_columns(table, frame.dtypes, _empty(spark, table).dtypes)
    started = time.monotonic()
    note = None if ingest is None else f"{INGEST_NOTE}{ingest}"
    if write_files is not None and is_folder(location) and can_commit(spark):
        written = write_files(spark, Path(location))
        version = replace_by_files(spark, table_url(location), frame.schema, written, note)
        commit = TableCommit(version, sum(file.n_rows for file in written))
    else:
        settings = _writer_settings(rows_per_file, row_group_mib, is_log, keep_partitions, is_part=bool(where))
        # every write is noted, to find its own commit beside those of stages that write at once
        own_note = note or f"write {uuid.uuid4().hex[:12]}"
        settings["spark.databricks.delta.commitInfo.userMetadata"] = own_note
        done = None
        with session_settings(spark, settings):
            if where:
                _make_table(spark, location, table)
                # files and row groups of a given size are made by Delta's writer alone
                if rows_per_file is None and row_group_mib is None and is_folder(location) and can_commit(spark):
                    columns = _empty(spark, table).schema
                    done = replace_part(frame, Path(location), columns, table.partition_by, where, note)
                if done is None:
                    _replace_rows(location, frame, where)
            else:
                _replace_table(location, frame, table)
        # a writer of Delta does not return the version of its commit
        commit = TableCommit(*done) if done else latest_commit(spark, workspace, table, own_note)
    seconds = time.monotonic() - started
    log.info("  %s: %s rows, %.1f s", table.name, f"{commit.n_rows:,}", seconds)
    figures = {"table/rows": commit.n_rows, "table/seconds": seconds, "table/version": commit.version}
    append_metrics(workspace.metrics, {"table": table.name, **figures, "table/ingest": ingest})
    return commit


def latest_commit(
    spark: SparkSession, workspace: Workspace, table: TableSchema, note: str | None = None
) -> TableCommit:
    """The newest version of a table and the rows that its last write reported; upkeep since then reports none.

    Parameters
    ----------
    note : of the write that is meant, as in ``newest_commits``
    """
    newest, write = newest_commits(spark, workspace.table(table.name), note)
    return TableCommit(int(newest["version"]), int(write["operationMetrics"].get("numOutputRows", 0)))


def exists(spark: SparkSession, location: str) -> bool:
    """Whether a write to the table (``workspace.table(name)``) was ever finished."""
    if not is_name(location):
        return has_history(spark, location)
    # a write that died may have left the table of a catalog without rows, made anew for other columns
    return has_history(spark, location) and newest_commits(spark, location)[1]["operation"] not in MADE_EMPTY


def require_schema(spark: SparkSession, workspace: Workspace) -> None:
    """Raise TableError where the tables are to have names and their schema is not there; making it is an admin's."""
    if workspace.catalog and workspace.schema:
        name = quoted_name(workspace.catalog, workspace.schema)
        if not spark.catalog.databaseExists(name):
            raise TableError(
                f"expected the schema {name} (--catalog, --schema), found none that this session may see; "
                f"make it with CREATE SCHEMA {name}, or ask for USE SCHEMA and CREATE TABLE on it"
            )


def read_version(spark: SparkSession, location: str, version: int | None = None) -> DataFrame:
    """A version of a table (``workspace.table(name)``), None for the newest; its columns unchecked."""
    if is_name(location):
        # not by the option versionAsOf: it reads the former files with the columns of the newest version
        wanted = "" if version is None else f" VERSION AS OF {version:d}"
        return spark.sql(f"SELECT * FROM {location}{wanted}")
    reader = spark.read.format("delta")
    return (reader if version is None else reader.option("versionAsOf", version)).load(table_url(location))


def next_ingest(spark: SparkSession, workspace: Workspace, tables: Sequence[TableSchema]) -> int:
    """The number after the highest that one of the tables carries; 0 where there is none.

    An ingest that died leaves its number in some tables only: it is never used again.
    """
    paths = [workspace.table(table.name) for table in tables]
    histories = [read_history(spark, path) for path in paths if has_history(spark, path)]
    return max((number for history in histories for number in ingest_versions(history)), default=-1) + 1


def list_files(snapshot: DataFrame, partition_by: tuple[str, ...]) -> list[DataFile]:
    """The files of one snapshot with their rows, in a stated order (partition, then which task wrote it, and when).

    A Delta folder also holds the files of older versions; only the snapshot knows which are its own.
    Counting by partition columns alone reads no data column.
    """
    url = F.input_file_name().alias("url")
    counts = snapshot.groupBy(*partition_by, url).agg(F.count("*").alias("n_rows")).collect()
    files = [DataFile(row["url"], {name: row[name] for name in partition_by}, row["n_rows"]) for row in counts]

    def order(file: DataFile) -> tuple[str, str, str]:
        # by the name and not the URL: the order is the same wherever the table lies. Last by what is drawn anew for
        # each file: of part-00000-<UUID>.c000 and .c001 the same one comes first in each run
        name = file.url.rsplit("/", 1)[-1]
        return str(sorted(file.partition.items())), _UUID.sub("", name), name

    return sorted(files, key=order)


@contextlib.contextmanager
def session_settings(spark: SparkSession, settings: dict[str, str]) -> Iterator[None]:
    """Change settings of the session until the block ends; threads that do so take turns."""
    with _SETTINGS_LOCK:
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


def _read_by_short_log(spark: SparkSession, location: str, version: int | None) -> DataFrame | None:
    # Databricks refuses to read the files of a Delta table as Parquet
    if not is_folder(location) or not can_commit(spark):
        return None
    short_log = read_short_log(Path(location), version)
    return short_log.read(spark, Path(location)) if short_log else None


def _version_of_ingest(spark: SparkSession, workspace: Workspace, table: TableSchema, number: int) -> int:
    path = workspace.table(table.name)
    versions = ingest_versions(read_history(spark, path)) if has_history(spark, path) else {}
    if number not in versions:
        raise TableError(
            f"table {table.name!r}: expected ingest {number} (--as-of), found "
            f"{', '.join(map(str, versions)) or 'none'} in {path}; name one that every table of events and "
            "product_properties has (a number is missing where that ingest was stopped before this table), or leave "
            "--as-of out for the newest"
        )
    return versions[number]


def _require_files(frame: DataFrame, table: TableSchema, number: int) -> None:
    """Raise TableError where files of the version are gone; Delta itself would fail in the middle of a stage."""
    files = [Path(plain_path(name)) for name in frame.inputFiles() if is_mounted(name)]
    gone = [file for file in files if not file.exists()]
    if gone:
        raise TableError(
            f"table {table.name!r}: expected the {len(files)} files of ingest {number} (--as-of), found {len(gone)} of "
            f"them removed by a vacuum, such as {gone[0]}; name a later ingest or leave --as-of out for the newest"
        )


def _replace_table(location: str, frame: DataFrame, table: TableSchema) -> None:
    """Replace all rows, and the columns where they are others."""
    spark = frame.sparkSession
    # the comments of columns are metadata of the frame's
    own = _empty(spark, table).schema
    frame = frame.select(*(F.col(field.name).alias(field.name, metadata=field.metadata) for field in own))
    if not is_name(location):
        # where there is no table yet, Delta would run a query to list the files to replace
        mode = "overwrite" if has_history(spark, location) else "append"
        writer = frame.write.format("delta").mode(mode).option("overwriteSchema", "true")
        writer.partitionBy(*table.partition_by).save(table_url(location))
    elif not spark.catalog.tableExists(location):
        created = frame.writeTo(location).using("delta")
        (created.partitionedBy(*map(F.col, table.partition_by)) if table.partition_by else created).create()
    elif _described(spark.table(location)) == _described(frame):
        # not by saveAsTable: Delta 3.3 refuses the plan that Spark 3.5.6 makes of it ("does not support truncate")
        frame.writeTo(location).overwrite(F.lit(True))
    else:
        # an overwrite would drop the partitions, so the table is made anew, which takes two commits; the rows are
        # computed before the first, so that the former ones stay if they cannot be
        with contextlib.ExitStack() as cached:
            rows = cache_rows(frame, cached)
            rows.count()
            spark.sql(f"CREATE OR REPLACE TABLE {location} {_definition(table)}")
            rows.writeTo(location).overwrite(F.lit(True))


def _described(frame: DataFrame) -> list[tuple[str, str, str | None]]:
    """Name, type and comment of each column."""
    fields = frame.schema.fields
    return [(field.name, field.dataType.simpleString(), field.metadata.get("comment")) for field in fields]


def _make_table(spark: SparkSession, location: str, table: TableSchema) -> None:
    """Make the table where it is not there.

    Before rows of a part are written: of two writes that both make the table, Delta refuses the one that ends last.
    """
    if has_history(spark, location):
        return
    if is_name(location):  # Delta's builder takes no catalog in a name
        spark.sql(f"CREATE TABLE IF NOT EXISTS {location} {_definition(table)}")
    else:
        builder = DeltaTable.createIfNotExists(spark).location(table_url(location))
        try:
            builder.addColumns(_empty(spark, table).schema).partitionedBy(*table.partition_by).execute()
        except (PySparkException, Py4JJavaError):
            if not has_history(spark, location):  # else another stage, which runs at once, has just made it
                raise


def _replace_rows(location: str, frame: DataFrame, where: str) -> None:
    """Replace the rows of ``where`` of a table that is there."""
    if is_name(location):
        frame.writeTo(location).overwrite(F.expr(where))
    else:
        frame.write.format("delta").mode("overwrite").option("replaceWhere", where).save(table_url(location))


def _definition(table: TableSchema) -> str:
    """Columns, format and partitions of a table, as SQL."""
    partitions = f" PARTITIONED BY ({', '.join(table.partition_by)})" if table.partition_by else ""
    return f"({table.ddl}) USING delta{partitions}"


def _row_group(mib: int | None) -> dict[str, str]:
    """The session's setting: Delta passes no Parquet option on to the writer."""
    return {"parquet.block.size": str(mib * 2**20)} if mib else {}


def _writer_settings(
    rows_per_file: int | None, row_group_mib: int | None, is_log: bool, keep_partitions: bool, is_part: bool
) -> dict[str, str]:
    """The session's while Delta writes a table, or a part of it; the arguments are those of ``write_table``."""
    is_gathered = not keep_partitions and rows_per_file is None
    settings = _OWN_COMMIT | _row_group(row_group_mib) | (_LOG_SETTINGS if is_log else {})
    settings["spark.databricks.delta.optimizeWrite.enabled"] = str(is_gathered).lower()
    settings["spark.sql.files.maxRecordsPerFile"] = str(rows_per_file or 0)  # 0 is no limit
    if not is_gathered:
        # table partitions that a task writes side by side; above this many Spark sorts its rows by them first
        settings["spark.sql.maxConcurrentOutputFileWriters"] = "64"
    if is_part:
        # without statistics of the files, a commit that replaces a part does not know its rows
        settings["spark.databricks.delta.stats.collect"] = "true"
        # Python tasks may write the files: vectors on the way to them take little memory, three of embed's chunks
        settings["spark.sql.execution.arrow.maxRecordsPerBatch"] = str(3 * 4096)
    return settings


@cache  # the JVM parses the DDL
def _empty(spark: SparkSession, table: TableSchema) -> DataFrame:
    return spark.createDataFrame([], table.ddl)
