"""Reads small Delta tables by their log's own files, without a Spark job.

Delta starts three jobs to know a table that it has not read yet, and one more at each read: more work than all that a
stage does with a small table. Long logs, large tables and whatever this module does not know are left to Delta.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.types import StructType

from jobs.storage.delta_log import commit_files
from jobs.storage.locations import spark_url

MAX_LOG_BYTES = 2**20
MAX_FILES = 128
"""Spark lists more by a job (``spark.sql.sources.parallelPartitionDiscovery.threshold``)."""

_KNOWN_FEATURES = {"timestampNtz"}
_PATTERN = set("*?[]{}\\:")
"""What Spark would take for more than a character of a file's name."""


@dataclass(frozen=True)
class ShortLog:
    """One version of a table.

    Attributes
    ----------
    version : its number
    schema : as Delta keeps it
    added : the action of the log that added each file
    """

    version: int
    schema: StructType
    added: tuple[dict[str, Any], ...]

    @property
    def files(self) -> tuple[str, ...]:
        """Paths below the table's folder, sorted."""
        return tuple(sorted(unquote(action["path"]) for action in self.added))

    def read(self, spark: SparkSession, folder: Path) -> DataFrame:
        """The rows of the version."""
        if not self.files:
            jvm: Any = spark._jvm
            # by the JVM's method, whose rows are part of the plan: PySpark's makes an RDD, and reading it is a job
            schema = spark._jsparkSession.parseDataType(self.schema.json())
            return DataFrame(spark._jsparkSession.createDataFrame(jvm.java.util.ArrayList(), schema), spark)
        root = spark_url(folder)
        reader = spark.read.schema(self.schema).option("basePath", root)
        # Spark puts partition columns last
        return reader.parquet(*(f"{root}/{name}" for name in self.files)).select(self.schema.names)


def read_short_log(folder: Path, version: int | None) -> ShortLog | None:
    """A version of a table, None for the newest; no result where Delta must read it.

    Delta must read it if the log does not begin with version 0, or is long or damaged, or if its protocol knows more
    than files that are added and removed. So it must if the table has many files or lacks one of them, or if names of
    folders or files are unusual.
    """
    # Spark names the files of Parquet otherwise than Delta does where URLs encode something in their path
    if quote(str(folder)) != str(folder):
        return None
    commits = commit_files(folder)
    if version is not None:
        commits = commits[: version + 1]
    numbers = [int(path.stem) for path in commits]
    if numbers != list(range(len(commits))) or (version is not None and len(commits) != version + 1):
        return None
    if sum(path.stat().st_size for path in commits) > MAX_LOG_BYTES:
        return None
    try:
        found = _replay(commits)
    except (OSError, ValueError, LookupError, TypeError):  # Delta says what is wrong
        return None
    if found is None or len(found.files) > MAX_FILES or not all((folder / name).exists() for name in found.files):
        return None
    return found if not any(_PATTERN & set(name) for name in found.files) else None


def _replay(commits: Sequence[Path]) -> ShortLog | None:
    schema: dict[str, Any] = {}
    added = {}
    # oldest first: the last action on a path says whether the version has it
    for path in commits:
        for line in path.read_text(encoding="utf-8").splitlines():
            ((kind, values),) = json.loads(line).items()
            if kind == "metaData":
                schema = json.loads(values["schemaString"])
            elif kind == "add":
                added[values["path"]] = values
            elif kind == "remove":
                added.pop(values["path"], None)
            elif kind == "protocol" and not _is_known(values):
                return None
    return ShortLog(int(commits[-1].stem), StructType.fromJson(schema), tuple(added.values()))


def _is_known(protocol: dict[str, Any]) -> bool:
    """Whether a table of this protocol is nothing but the files of its log."""
    # column mapping needs version 2; deletion vectors are a feature, which version 3 names one by one
    return protocol["minReaderVersion"] == 1 or (
        protocol["minReaderVersion"] == 3 and set(protocol["readerFeatures"]) <= _KNOWN_FEATURES
    )
