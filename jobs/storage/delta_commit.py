"""Commits Parquet files that Python tasks wrote as a version of a Delta table, by Delta's own transaction."""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from py4j.java_gateway import JavaClass
from pyspark.sql import SparkSession
from pyspark.sql.types import StructType

_PACKAGE, _WRITE = "org.apache.spark.sql.delta", "DeltaOperations$Write"


@dataclass(frozen=True)
class WrittenFile:
    """A Parquet file that a task wrote: its name in the table's folder, its size in bytes, its rows."""

    name: str
    n_bytes: int
    n_rows: int


class FileWriter(Protocol):
    """What writes rows as Parquet files by itself, such as ``jobs.inputs.typed_files``."""

    def write(self, spark: SparkSession, folder: Path) -> list[WrittenFile]:
        """Write the files into a folder."""


def can_commit(spark: SparkSession) -> bool:
    """Whether the session has the classes that ``replace_by_files`` calls; Databricks' own Delta has others.

    Py4J gives a package for a name under which there is no class.
    """
    delta = _delta(spark)
    classes = (delta.DeltaLog, getattr(delta, _WRITE), delta.actions.Action)
    return all(isinstance(found, JavaClass) for found in classes)


def replace_by_files(
    spark: SparkSession, url: str, schema: StructType, files: Sequence[WrittenFile], note: str | None = None
) -> int:
    """Replace the rows of an unpartitioned table by those of the files, in one atomic commit; its version.

    Parameters
    ----------
    url : folder of the table, which a first commit makes
    schema : of the table and of each file
    note : kept in the commit as ``userMetadata``
    """
    delta, scala = _delta(spark), _jvm(spark).scala
    transaction = delta.DeltaLog.forTable(spark._jsparkSession, url).startTransaction()
    former = json.loads(transaction.metadata().json())["metaData"]
    if json.loads(former.get("schemaString") or "null") != schema.jsonValue():
        metadata = former | {"schemaString": schema.json()}
        transaction.updateMetadata(_action(spark, "metaData", metadata), False)
    transaction.registerSQLMetrics(spark._jsparkSession, _metrics(spark, files))
    now = int(time.time() * 1000)
    actions = _jvm(spark).java.util.ArrayList()
    active = transaction.filterFiles()
    for place in range(active.size()):
        actions.add(active.apply(place).removeWithTimestamp(now, True))
    for file in files:
        stats = json.dumps({"numRecords": file.n_rows})
        added = {"path": file.name, "partitionValues": {}, "size": file.n_bytes, "modificationTime": now}
        actions.add(_action(spark, "add", {**added, "dataChange": True, "stats": stats}))
    overwrite = _jvm(spark).org.apache.spark.sql.SaveMode.Overwrite
    none, noted = scala.Option.empty(), scala.Option.apply(note)
    operation = getattr(delta, _WRITE)(overwrite, none, none, noted)
    return int(transaction.commit(scala.collection.JavaConverters.asScalaBuffer(actions), operation))


def _metrics(spark: SparkSession, files: Sequence[WrittenFile]) -> Any:
    """What the table's history says of the commit."""
    jvm = _jvm(spark)
    metrics = jvm.scala.collection.immutable.HashMap()
    for name, value in {
        "numFiles": len(files),
        "numOutputBytes": sum(file.n_bytes for file in files),
        "numOutputRows": sum(file.n_rows for file in files),
    }.items():
        metric = jvm.org.apache.spark.sql.execution.metric.SQLMetrics.createMetric(spark.sparkContext._jsc.sc(), name)
        metric.set(value)
        metrics = metrics.updated(name, metric)
    return metrics


def _action(spark: SparkSession, kind: str, fields: dict[str, object]) -> Any:
    return _delta(spark).actions.Action.fromJson(json.dumps({kind: fields}))


def _delta(spark: SparkSession) -> Any:
    package = _jvm(spark)
    for name in _PACKAGE.split("."):
        package = getattr(package, name)
    return package


def _jvm(spark: SparkSession) -> Any:
    return spark.sparkContext._jvm
