"""Reads and writes the Delta tables of a workspace; the only module that does."""

import logging
import time
from dataclasses import dataclass

from delta.tables import DeltaTable
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from jobs.metrics_log import append_metrics
from jobs.workspace import Workspace
from schemas.check import check_columns
from schemas.errors import TableError
from schemas.tables import TableSchema

log = logging.getLogger(__name__)


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
        If the table is missing or its columns are not those of ``schemas/tables.py``.
    """
    path = workspace.table(table.name)
    if not DeltaTable.isDeltaTable(spark, path):
        raise TableError(
            f"table {table.name!r}: expected a Delta table, found none in {workspace.out}; run the stage that writes "
            "it first (`ubp run` runs all of them)"
        )
    reader = spark.read.format("delta")
    frame = (reader if version is None else reader.option("versionAsOf", version)).load(path)
    check_columns(table, columns_of(frame), columns_of(_empty(spark, table)))
    return frame


def write_table(
    frame: DataFrame, workspace: Workspace, table: TableSchema, rows_per_file: int | None = None
) -> TableCommit:
    """Replace a table by ``frame`` in one atomic commit and log its rows.

    Parameters
    ----------
    rows_per_file : most rows of one file; None lets each Spark task write one file per partition

    Raises
    ------
    TableError
        If the frame's columns are not those of ``schemas/tables.py``.
    """
    spark = frame.sparkSession
    check_columns(table, columns_of(frame), columns_of(_empty(spark, table)))
    started = time.monotonic()
    path = workspace.table(table.name)
    (
        frame.write.format("delta")
        .mode("overwrite")
        .option("overwriteSchema", "true")
        .option("maxRecordsPerFile", rows_per_file or 0)
        .partitionBy(*table.partition_by)
        .save(path)
    )
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


def _empty(spark: SparkSession, table: TableSchema) -> DataFrame:
    return spark.createDataFrame([], table.ddl)
