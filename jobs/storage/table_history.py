"""What was written to a Delta table, and when: its commits, the ingests among them."""

import json
from collections.abc import Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

from delta.tables import DeltaTable
from pyspark.sql import DataFrame, Row, SparkSession
from pyspark.sql import functions as F

from jobs.storage.delta_log import commit_files
from jobs.storage.locations import is_folder, is_name, is_url, spark_url

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

RECENT = 10
"""Commits that are read first to find the newest write: reading all of a long log takes long."""

INGEST_NOTE = "ingest "
"""What the note of an ingest's commit begins with; its number follows."""


def has_commit(path: str) -> bool:
    """Whether a write to the folder was ever finished; one that was killed before leaves files without a log."""
    return bool(commit_files(Path(path)))


def read_history(spark: SparkSession, path: str) -> list[Row]:
    """The commits that the table's log still holds, oldest first: version, operation, note, seconds (since 1970)."""
    if is_folder(path):
        commits = list(_commits_backwards(spark, path))[::-1]
        # Delta, too, dates a commit by its file, and none before the one that it follows
        times = accumulate((commit["modified"] for commit in commits), max)
        return [
            Row(
                version=commit["version"],
                operation=commit["operation"],
                note=commit.get("userMetadata"),
                seconds=int(seconds),
            )
            for commit, seconds in zip(commits, times, strict=True)
        ]
    note, seconds = F.col("userMetadata").alias("note"), F.unix_seconds("timestamp").alias("seconds")
    history = _history(spark, path)
    return history.select("version", "operation", note, seconds).orderBy("version").collect()


def ingest_versions(history: Sequence[Row]) -> dict[int, int]:
    """Number of each ingest -> newest version that holds its rows.

    Upkeep changes the version and not the rows. A write that carries no number counts by its version, and a version
    that was made empty is of no ingest.
    """
    versions: dict[int, int] = {}
    number = None  # of the ingest whose rows the table has at this commit
    for commit in history:
        if commit["operation"] in MADE_EMPTY:
            number = None
        elif commit["operation"] not in UPKEEP:
            note = commit["note"] or ""
            number = int(note.removeprefix(INGEST_NOTE)) if note.startswith(INGEST_NOTE) else commit["version"]
        if number is not None:  # upkeep gives the rows of an ingest a newer version
            versions[number] = commit["version"]
    return versions


def _history(spark: SparkSession, location: str, limit: int | None = None) -> DataFrame:
    """The newest commits first."""
    if is_name(location):  # DeltaTable takes no catalog in a name
        return spark.sql(f"DESCRIBE HISTORY {location}{f' LIMIT {limit}' if limit else ''}")
    return DeltaTable.forPath(spark, table_url(location)).history(limit)


def has_history(spark: SparkSession, location: str) -> bool:
    """Whether there is a table, even one of a catalog that is empty because a write into it died."""
    if is_name(location):
        return spark.catalog.tableExists(location)
    return DeltaTable.isDeltaTable(spark, location) if is_url(location) else has_commit(location)


def newest_commits(
    spark: SparkSession, location: str, note: str | None = None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The newest commit, and the newest that changed the rows; the same one twice where the log has none such left.

    Parameters
    ----------
    note : of the write that is meant: what others wrote since does not count, where the log holds it
    """
    latest = newest = None
    for commit in _commits_backwards(spark, location):
        latest, newest = latest or commit, newest or commit
        if commit["operation"] not in UPKEEP:
            if note in (None, commit.get("userMetadata")):
                return newest, commit
            newest = None  # of another write
    assert latest is not None, f"{location} has a commit"
    # where the log no longer holds the write that is meant, the newest one counts
    return (latest, latest) if note is None else newest_commits(spark, location)


def _commits_backwards(spark: SparkSession, location: str) -> Iterator[dict[str, Any]]:
    """``version``, ``operation``, ``operationMetrics`` and ``userMetadata`` of each commit, the newest first."""
    if is_folder(location):
        # the log's own files: Delta's history starts a Spark job, which takes longer than many a write
        for path in reversed(commit_files(Path(location))):
            actions = map(json.loads, path.read_text(encoding="utf-8").splitlines())
            (info,) = (action["commitInfo"] for action in actions if "commitInfo" in action)
            yield {**info, "version": int(path.stem), "modified": path.stat().st_mtime}
        return
    history = _history(spark, location, RECENT).collect()
    yield from (row.asDict() for row in history)
    if len(history) == RECENT:
        yield from (row.asDict() for row in _history(spark, location).collect()[RECENT:])


def table_url(location: str) -> str:
    """What Spark's readers and writers call a table that lies in a folder or under a URL."""
    return location if is_url(location) else spark_url(Path(location))
