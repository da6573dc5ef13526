"""Commits Parquet files that Python tasks wrote as a version of a Delta table, by Delta's own transaction."""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from py4j.java_gateway import JavaClass
from pyspark.sql import SparkSession
from pyspark.sql.types import StructType

# a case class inside an object: its name in the JVM is no attribute that Python could spell
_WRITE = "DeltaOperations$Write"


@dataclass(frozen=True)
class WrittenFile:
    """A Parquet file that a task wrote.

    Attributes
    ----------
    name : path in the table's folder
    partition : the values of the partition columns, as text
    """

    name: str
    n_bytes: int
    n_rows: int
    partition: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class ReplacedPart:
    """The part of a partitioned table that a commit replaces.

    Attributes
    ----------
    where : a condition on partition columns, as SQL
    files : gives the files of a version that hold the part, as ``add`` actions of Delta's log
    """

    where: str
    files: Callable[[int], Sequence[Mapping[str, Any]]]


FileWriter = Callable[[SparkSession, Path], list[WrittenFile]]
"""Writes Parquet files into a folder by itself, such as ``TypedFiles.write`` of ``jobs.inputs.typed_files``."""


def can_commit(spark: SparkSession) -> bool:
    """Whether the session has the classes that ``replace_by_files`` calls; Databricks' own Delta has others.

    Py4J gives a package for a name under which there is no class.
    """
    delta = _delta(spark)
    classes = (delta.DeltaLog, getattr(delta, _WRITE), delta.actions.Action)
    return all(isinstance(found, JavaClass) for found in classes)


def replace_by_files(
    spark: SparkSession,
    url: str,
    schema: StructType,
    files: Sequence[WrittenFile],
    note: str | None,
    part: ReplacedPart | None = None,
) -> int:
    """Replace the rows of a table by those of the files, in one atomic commit; its version.

    Parameters
    ----------
    url : folder of the table, which a first commit makes, without partitions
    schema : of the table; a file has its columns but for partition columns
    note : kept in the commit as ``userMetadata``
    part : of a table that is there; its other rows stay. The commit fails where another one has removed the same files
        since, and not where it replaced another part
    """
    jvm: Any = spark._jvm
    delta = _delta(spark)
    # Delta's Python API can only append or overwrite by a DataFrame: a commit of given files is its Scala API's
    transaction = delta.DeltaLog.forTable(spark._jsparkSession, url).startTransaction()
    former = json.loads(transaction.metadata().json())["metaData"]
    if json.loads(former.get("schemaString") or "null") != schema.jsonValue():
        # the rest of the metadata stays: Delta knows a table by the id in it
        metadata = former | {"schemaString": schema.json()}
        # False keeps the default properties that the session gives to new tables; Py4J cannot leave an argument out
        transaction.updateMetadata(_action(delta, "metaData", metadata), False)
    transaction.registerSQLMetrics(spark._jsparkSession, _metrics(spark, jvm, files))
    now = int(time.time() * 1000)
    actions = jvm.java.util.ArrayList()
    if part is not None:
        # no filterFiles here: it would mark other parts as read, and commits that replace those would then conflict
        for former_file in part.files(int(transaction.readVersion())):
            kept = {name: former_file[name] for name in ("path", "partitionValues", "size")}
            # by the protocol, partition values and size count only where extendedFileMetadata says that they are there
            removed = {**kept, "deletionTimestamp": now, "dataChange": True, "extendedFileMetadata": True}
            actions.add(_action(delta, "remove", removed))
    elif int(transaction.readVersion()) >= 0:
        # listing the files also marks them as read: the commit fails where another writer replaced them meanwhile
        active = transaction.filterFiles()
        for index in range(active.size()):
            actions.add(active.apply(index).removeWithTimestamp(now, True))
    for file in files:
        stats = json.dumps({"numRecords": file.n_rows})
        # Delta decodes the paths in its log; = separates a partition's column from its value
        path, values = quote(file.name, safe="/="), dict(file.partition)
        added = {"path": path, "partitionValues": values, "size": file.n_bytes, "modificationTime": now}
        actions.add(_action(delta, "add", {**added, "dataChange": True, "stats": stats}))
    overwrite, option = jvm.org.apache.spark.sql.SaveMode.Overwrite, jvm.scala.Option
    where = option.apply(part.where if part else None)
    operation = getattr(delta, _WRITE)(overwrite, option.empty(), where, option.apply(note))
    # a list, which a Seq may be in Scala 2.12 and 2.13
    actions = jvm.scala.collection.JavaConverters.asScalaBuffer(actions).toList()
    return int(transaction.commit(actions, operation))


def _metrics(spark: SparkSession, jvm: Any, files: Sequence[WrittenFile]) -> Any:
    """The row and byte counts that the table's history shows of the commit."""
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


def _action(delta: Any, kind: str, fields: dict[str, object]) -> Any:
    return delta.actions.Action.fromJson(json.dumps({kind: fields}))


def _delta(spark: SparkSession) -> Any:
    jvm: Any = spark._jvm
    return jvm.org.apache.spark.sql.delta
