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

from delta.tables import DeltaTable
from pyspark.errors import AnalysisException
from pyspark.sql import DataFrame, Row, SparkSession
from pyspark.sql import functions as F

from jobs.runtime.caching import cache_rows
from jobs.storage.delta_commit import FileWriter, can_commit, replace_by_files
from jobs.storage.files import digest, remove_folder
from jobs.storage.locations import is_folder, is_mounted, is_name, is_url, plain_path, quoted_name, spark_url
from jobs.storage.metrics_log import append_metrics
from jobs.storage.workspace import Workspace
from schemas.check import check_columns
from schemas.errors import TableError
from schemas.tables import TableSchema

log = logging.getLogger(__name__)

UPKEEP = (
    "OPTIMIZE",
    "REORG",
    "VACUUM START",
    "VACUUM END",
    "SET TBLPROPERTIES",
    "UNSET TBLPROPERTIES",
    "UPGRADE PROTOCOL",
    "COMPUTE STATS",
)
"""Delta's names of the commits that leave a table's rows as they are (3.2, 3.3)."""

MADE_EMPTY = ("CREATE TABLE", "REPLACE TABLE", "CREATE OR REPLACE TABLE")
"""Of those that leave none; where they bring rows, their names end in AS SELECT."""

OPEN_FILES = 64
"""Table partitions that one task writes side by side; above this many Spark sorts its rows by them first."""

RECENT = 10
"""Commits that are read first to find the newest write: reading all of a long log takes long."""

_INGEST = "ingest "
_OWN_COMMIT = {
    "spark.databricks.delta.autoCompact.enabled": "false",  # merging files would be a further commit
    "spark.databricks.delta.skipRecordingEmptyCommits": "false",  # no rows instead of none: an ingest's, too
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
    n_rows : rows written, from the write's own metrics
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
    if not (exists(spark, path) if version is None else _has_history(spark, path)):
        raise TableError(
            f"table {table.name!r}: expected a Delta table, found {_unfinished(spark, path)} in "
            f"{workspace.out if is_folder(path) else path}; run the stage that writes it first (`ubp run` runs all of "
            "them)"
        )
    try:
        frame = read_version(spark, path, version)
    except AnalysisException as error:
        wanted = "a table that Delta can read" if version is None else f"version {version}"
        raise TableError(
            f"table {table.name!r}: expected {wanted} in {path}, found: {error}; run the stage that writes it again"
        ) from error
    check_columns(table, columns_of(frame), columns_of(_empty(spark, table)))
    return frame


def read_as_files(
    spark: SparkSession,
    workspace: Workspace,
    table: TableSchema,
    version: int | None = None,
    row_group_mib: int | None = None,
) -> DataFrame:
    """As ``read_table``, for readers that open the files themselves.

    Where no mount reaches the files, as those of a Unity Catalog or an object store, a copy of the version in plain
    Parquet is read, under ``OUT/copies``; it is kept until another version, or another table of the name, is asked for.

    Parameters
    ----------
    row_group_mib : of a copy; as in ``write_table``
    """
    snapshot = read_table(spark, workspace, table, version)
    if all(map(is_mounted, snapshot.inputFiles())):
        return snapshot
    version = _newest(spark, workspace, table) if version is None else version
    folder = workspace.copy(table.name) / _identity(spark, workspace.table(table.name)) / str(version)
    if not (folder / "_SUCCESS").exists():
        remove_folder(workspace.copy(table.name))
        with session_settings(spark, _row_group(row_group_mib)):
            snapshot.write.mode("overwrite").partitionBy(*table.partition_by).parquet(spark_url(folder))
        log.info("  %s: version %d copied to %s, where Python reads its files", table.name, version, folder)
    return spark.read.schema(snapshot.schema).parquet(spark_url(folder)).select(snapshot.columns)


def read_ingested(spark: SparkSession, workspace: Workspace, table: TableSchema) -> DataFrame:
    """A table that ingest wrote, of the newest ingest or of number ``workspace.as_of``; notes the version read.

    Raises
    ------
    TableError
        If the table is missing, or it has no version of that ingest, or a vacuum has removed files of it.
    """
    if workspace.as_of is None:
        frame = read_table(spark, workspace, table)
        version = _newest(spark, workspace, table)
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
    files: FileWriter | None = None,
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
    files : writes the frame's rows as Parquet files by itself, which are then committed; used where the table lies
        under a mount and Delta takes such files
    where : a condition on partition columns, as SQL; the other rows stay, and each row of the frame must fulfil it.
        Such writes may run at once, where their conditions exclude each other

    Raises
    ------
    TableError
        If the frame's columns are not those of ``schemas/tables.py``.
    """
    spark, place = frame.sparkSession, workspace.table(table.name)
    check_columns(table, columns_of(frame), columns_of(_empty(spark, table)))
    started = time.monotonic()
    note = None if ingest is None else f"{_INGEST}{ingest}"
    if files is not None and is_folder(place) and can_commit(spark):
        written = files.write(spark, Path(place))
        version = replace_by_files(spark, _url(place), frame.schema, written, note)
        commit = TableCommit(version, sum(file.n_rows for file in written))
    else:
        settings = _OWN_COMMIT | _row_group(row_group_mib) | (_LOG_SETTINGS if is_log else {})
        is_gathered = not keep_partitions and rows_per_file is None
        settings["spark.databricks.delta.optimizeWrite.enabled"] = str(is_gathered).lower()
        settings["spark.sql.files.maxRecordsPerFile"] = str(rows_per_file or 0)
        if not is_gathered:
            settings["spark.sql.maxConcurrentOutputFileWriters"] = str(OPEN_FILES)
        if where:
            # without statistics of the files, a commit that replaces a part does not know its rows
            settings["spark.databricks.delta.stats.collect"] = "true"
        if note is not None:
            settings["spark.databricks.delta.commitInfo.userMetadata"] = note
        with session_settings(spark, settings):
            _replace(place, frame, table, where)
        commit = latest_commit(spark, workspace, table)
    seconds = time.monotonic() - started
    log.info("  %s: %s rows, %.1f s", table.name, f"{commit.n_rows:,}", seconds)
    figures = {"rows": commit.n_rows, "seconds": seconds, "version": commit.version, "ingest": ingest}
    append_metrics(workspace.metrics, {"table": table.name, **{f"table/{key}": of for key, of in figures.items()}})
    return commit


def latest_commit(spark: SparkSession, workspace: Workspace, table: TableSchema) -> TableCommit:
    """The newest version of a table and the rows that its last write reported; upkeep since then reports none."""
    newest, write = _newest_commits(spark, workspace.table(table.name))
    return TableCommit(int(newest["version"]), int(write["operationMetrics"].get("numOutputRows", 0)))


def latest_version(path: str) -> int:
    """Number of the newest commit in a table's log."""
    return max(int(commit.stem) for commit in _commits(path))


def has_commit(path: str) -> bool:
    """Whether a write to the folder was ever finished; one that was killed before leaves files without a log."""
    return next(_commits(path), None) is not None


def exists(spark: SparkSession, place: str) -> bool:
    """Whether a write to the table (``workspace.table(name)``) was ever finished."""
    return _has_history(spark, place) and (not is_name(place) or _was_filled(spark, place))


def require_schema(spark: SparkSession, workspace: Workspace) -> None:
    """Raise TableError where the tables are to have names and their schema is not there; making it is an admin's."""
    if workspace.catalog and workspace.schema:
        name = quoted_name(workspace.catalog, workspace.schema)
        if not spark.catalog.databaseExists(name):
            raise TableError(
                f"expected the schema {name} (--catalog, --schema), found none that this session may see; "
                f"make it with CREATE SCHEMA {name}, or ask for USE SCHEMA and CREATE TABLE on it"
            )


def read_version(spark: SparkSession, place: str, version: int | None = None) -> DataFrame:
    """A version of the table in a place (``workspace.table(name)``), None for the newest; its columns unchecked."""
    if is_name(place):
        # not by the option versionAsOf: it reads the former files with the columns of the newest version
        wanted = "" if version is None else f" VERSION AS OF {version:d}"
        return spark.sql(f"SELECT * FROM {place}{wanted}")
    reader = spark.read.format("delta")
    return (reader if version is None else reader.option("versionAsOf", version)).load(_url(place))


def read_history(spark: SparkSession, path: str) -> list[Row]:
    """The commits that the table's log still holds, oldest first: version, operation, note, seconds (since 1970)."""
    note, seconds = F.col("userMetadata").alias("note"), F.unix_seconds("timestamp").alias("seconds")
    history = _history(spark, path)
    return history.select("version", "operation", note, seconds).orderBy("version").collect()


def ingest_versions(history: Sequence[Row]) -> dict[int, int]:
    """Number of each ingest -> newest version that holds its rows.

    Upkeep changes the version and not the rows. A write that carries no number counts by its version, and a version
    that was made empty is of no ingest.
    """
    versions: dict[int, int] = {}
    number = None
    for commit in history:
        if commit["operation"] in MADE_EMPTY:
            number = None
        elif commit["operation"] not in UPKEEP:
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
    histories = [read_history(spark, path) for path in paths if _has_history(spark, path)]
    return max((number for history in histories for number in ingest_versions(history)), default=-1) + 1


def list_files(snapshot: DataFrame, partition_by: tuple[str, ...]) -> list[DataFile]:
    """The files of one snapshot with their rows, in a stated order (partition, then file name).

    A Delta folder also holds the files of older versions; only the snapshot knows which are its own.
    Counting by partition columns alone reads no data column.
    """
    url = F.input_file_name().alias("url")
    counts = snapshot.groupBy(*partition_by, url).agg(F.count("*").alias("n_rows")).collect()
    files = [DataFile(row["url"], {name: row[name] for name in partition_by}, row["n_rows"]) for row in counts]
    return sorted(files, key=lambda file: (str(sorted(file.partition.items())), file.url.rsplit("/", 1)[-1]))


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
    versions = ingest_versions(read_history(spark, path)) if _has_history(spark, path) else {}
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
    files = [Path(plain_path(name)) for name in frame.inputFiles() if is_mounted(name)]
    gone = [file for file in files if not file.exists()]
    if gone:
        raise TableError(
            f"table {table.name!r}: expected the {len(files)} files of ingest {number} (--as-of), found {len(gone)} of "
            f"them removed by a vacuum, such as {gone[0]}; name a later ingest or leave --as-of out for the newest"
        )


def _newest(spark: SparkSession, workspace: Workspace, table: TableSchema) -> int:
    place = workspace.table(table.name)
    return latest_version(place) if is_folder(place) else latest_commit(spark, workspace, table).version


def _history(spark: SparkSession, place: str, limit: int | None = None) -> DataFrame:
    """The newest commits first."""
    if is_name(place):  # DeltaTable takes no catalog in a name
        return spark.sql(f"DESCRIBE HISTORY {place}{f' LIMIT {limit}' if limit else ''}")
    table = DeltaTable.forPath(spark, _url(place))
    return table.history(limit) if limit else table.history()


def _has_history(spark: SparkSession, place: str) -> bool:
    """Whether there is a table, even one of a catalog that is empty because a write into it died."""
    if is_name(place):
        return spark.catalog.tableExists(place)
    return DeltaTable.isDeltaTable(spark, place) if is_url(place) else has_commit(place)


def _newest_commits(spark: SparkSession, place: str) -> tuple[Row, Row]:
    """The newest commit, and the newest that changed the rows; the same one twice where the log has none such left."""
    for limit in (RECENT, None):
        history = _history(spark, place, limit).select("version", "operation", "operationMetrics").collect()
        changes = [commit for commit in history if commit["operation"] not in UPKEEP]
        if changes or len(history) < RECENT:
            break
    return history[0], (changes or history)[0]


def _was_filled(spark: SparkSession, name: str) -> bool:
    """Whether a table of a catalog has the rows of a write; one that died may have made it anew, for other columns."""
    _, change = _newest_commits(spark, name)
    return change["operation"] not in MADE_EMPTY


def _unfinished(spark: SparkSession, place: str) -> str:
    """What is found in the place of a table that does not exist."""
    if is_name(place):
        return "a table that no write has filled" if spark.catalog.tableExists(place) else "none"
    return "a folder that no write has finished" if is_folder(place) and Path(place).exists() else "none"


def _identity(spark: SparkSession, place: str) -> str:
    """Of a table, which others of its name do not share: those in other places, and one that was made after a drop."""
    if is_name(place):
        described = spark.sql(f"DESCRIBE DETAIL {place}")
    else:
        described = DeltaTable.forPath(spark, _url(place)).detail()
    row = described.select("id").first()
    assert row is not None
    return digest([place, row["id"]])[:16]


def _replace(place: str, frame: DataFrame, table: TableSchema, where: str | None) -> None:
    if where and not _has_history(frame.sparkSession, place):
        # before the rows: of two writes that both make the table, Delta refuses the one that ends last
        _create_empty(frame.sparkSession, place, table)
    if where and is_name(place):
        frame.writeTo(place).overwrite(F.expr(where))
    elif where:
        frame.write.format("delta").mode("overwrite").option("replaceWhere", where).save(_url(place))
    elif not is_name(place):
        writer = frame.write.format("delta").mode("overwrite").option("overwriteSchema", "true")
        writer.partitionBy(*table.partition_by).save(_url(place))
    elif not frame.sparkSession.catalog.tableExists(place):
        _create(place, frame, table)
    elif columns_of(frame.sparkSession.table(place)) != columns_of(frame):
        _replace_columns(place, frame, table)
    else:
        # not by saveAsTable: Delta 3.3 refuses the plan that Spark 3.5.6 makes of it ("does not support truncate")
        frame.writeTo(place).overwrite(F.lit(True))


def _create_empty(spark: SparkSession, place: str, table: TableSchema) -> None:
    if is_name(place):  # Delta's builder takes no catalog in a name
        spark.sql(f"CREATE TABLE IF NOT EXISTS {place} {_definition(table)}")
        return
    builder = DeltaTable.createIfNotExists(spark).location(_url(place))
    builder.addColumns(_empty(spark, table).schema).partitionedBy(*table.partition_by).execute()


def _create(name: str, frame: DataFrame, table: TableSchema) -> None:
    writer = frame.writeTo(name).using("delta")
    (writer.partitionedBy(*map(F.col, table.partition_by)) if table.partition_by else writer).create()


def _replace_columns(name: str, frame: DataFrame, table: TableSchema) -> None:
    """As ``_replace``, of a named table of other columns: an overwrite would drop its partitions, so it is made anew.

    That takes two commits. The rows are computed before the first, so that the former ones stay if they cannot be.
    """
    with contextlib.ExitStack() as held:
        rows = cache_rows(frame, held)
        rows.count()
        frame.sparkSession.sql(f"CREATE OR REPLACE TABLE {name} {_definition(table)}")
        rows.writeTo(name).overwrite(F.lit(True))


def _definition(table: TableSchema) -> str:
    """Columns, format and partitions of a table, as SQL."""
    partitions = f" PARTITIONED BY ({', '.join(table.partition_by)})" if table.partition_by else ""
    return f"({table.ddl}) USING delta{partitions}"


def _url(place: str) -> str:
    return place if is_url(place) else spark_url(Path(place))


def _row_group(mib: int | None) -> dict[str, str]:
    """The session's setting: Delta passes no Parquet option on to the writer."""
    return {"parquet.block.size": str(mib * 2**20)} if mib else {}


def _commits(path: str) -> Iterator[Path]:
    return Path(path, "_delta_log").glob("[0-9]*.json")


def _empty(spark: SparkSession, table: TableSchema) -> DataFrame:
    return spark.createDataFrame([], table.ddl)
