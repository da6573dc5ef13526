"""Upkeep of ``OUT/tables``: ``ubp vacuum`` removes files of old versions, ``ubp compact`` merges small files.

How long Delta keeps an old version, as its documentation and issues state it (3.3):

- A version can be read while its log entries and all its data files are there. Log entries go when a checkpoint
  (every tenth commit) finds them older than 30 days (``delta.logRetentionDuration``); data files go in a VACUUM only.
- VACUUM removes files that no live version names: those taken out of the table longer than the retention ago, and
  those that were never committed and are older than it, as a killed write leaves them. Below 168 hours it may
  remove the uncommitted files of a write that is running, or what a running job reads; Delta refuses that.
- It knows of removed files only as long as ``delta.deletedFileRetentionDuration`` (a week). Told to keep more than
  that, it still removes files that left the table before (delta-io/delta#140).

So VACUUM alone protects neither a longer retention nor the version that a model was trained on. It is given the
files to choose from (``USING INVENTORY``, Delta 3.2), without those of the versions to keep.
"""

import json
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pyspark.errors import AnalysisException
from pyspark.sql import Row, SparkSession

from jobs.storage.delta_tables import read_version, session_settings
from jobs.storage.locations import delta_name, plain_path, spark_url
from jobs.storage.provenance import MODELS, read_records
from jobs.storage.table_history import has_commit, read_history
from jobs.storage.workspace import Workspace
from schemas.errors import ModelError, TableError
from schemas.tables import SEQUENCES

log = logging.getLogger(__name__)

SAFE_HOURS = 168
"""Delta's default retention, below which it refuses to vacuum."""

_MERGED_FILES = {
    "spark.databricks.delta.optimize.minFileSize": str(64 * 2**20),  # a larger file is left alone
    "spark.databricks.delta.optimize.maxFileSize": str(256 * 2**20),  # of a merged one
}


@dataclass(frozen=True)
class Retention:
    """The flags of ``ubp vacuum``.

    Attributes
    ----------
    keep_hours : a version that was the newest within so many hours stays readable
    is_idle : nothing reads or writes the tables, so that ``keep_hours`` below 168 is safe
    is_forced : remove also the versions that models were trained on
    is_dry_run : only list what would be removed
    """

    keep_hours: int = SAFE_HOURS
    is_idle: bool = False
    is_forced: bool = False
    is_dry_run: bool = False

    def __post_init__(self) -> None:
        if self.keep_hours < 0 or (self.keep_hours < SAFE_HOURS and not self.is_idle):
            raise TableError(
                f"--keep-hours {self.keep_hours}: expected {SAFE_HOURS} or more, Delta's safety period; below it a job "
                "that runs now can lose the files it reads or writes; add --idle (and 0 or more) if nothing is running"
            )


@dataclass(frozen=True)
class Removed:
    """The files of one table that a vacuum removed, or would remove."""

    table: str
    n_files: int
    n_bytes: int


def vacuum(spark: SparkSession, workspace: Workspace, retention: Retention) -> list[Removed]:
    """Remove what no kept version needs from every table, and log files and bytes of each.

    Raises
    ------
    TableError
        If there is no table, or a version that a model was trained on cannot be read, and so not be kept.
    ModelError
        If a recorded model does not tell which version of ``sequences`` it was trained on, or a card cannot be read,
        and ``is_forced`` is not set.
    """
    names = list_tables(workspace)
    trained_on = {} if retention.is_forced or SEQUENCES.name not in names else recorded_versions(workspace)
    # before anything is removed: a version that cannot be kept ends the command
    kept = _files_trained_on(spark, workspace, trained_on)
    done = []
    for name in names:
        removed = _vacuum_table(spark, workspace.table(name), kept, retention)
        done.append(removed)
        verb = "would go" if retention.is_dry_run else "removed"
        log.info("  %s: %d files, %s %s", name, removed.n_files, _mib(removed.n_bytes), verb)
    for version, models in sorted(trained_on.items()):
        log.info("  %s: version %d is kept: %s trained on it", SEQUENCES.name, version, ", ".join(models))
    log.info("%d files, %s in all", sum(each.n_files for each in done), _mib(sum(each.n_bytes for each in done)))
    return done


def compact(spark: SparkSession, workspace: Workspace, names: Sequence[str] = ()) -> dict[str, tuple[int, int]]:
    """Merge the small files of the named tables, or of all; rows and ingests stay the same.

    Gives, and logs, how many files of each table were merged into how many.

    ``sequences`` is never compacted: its files and their row groups are what ranks are dealt.

    Raises
    ------
    TableError
        If a named table is missing, or is ``sequences``.
    """
    known = list_tables(workspace)
    for name in names:
        if name not in known or name == SEQUENCES.name:
            others = ", ".join(table for table in known if table != SEQUENCES.name)
            reason = "its files are laid out for the feed" if name == SEQUENCES.name else "no such table"
            raise TableError(f"table {name!r}: expected one of {others} in {workspace.out}; {reason}")
    merged = {}
    for name in names or known:
        if name == SEQUENCES.name:
            log.info("  %s: left as it is: its files are laid out for the feed", name)
            continue
        with session_settings(spark, _MERGED_FILES):
            # not by DeltaTable's own method: it does not quote the folder's name
            done = spark.sql(f"OPTIMIZE {delta_name(spark_url(Path(workspace.table(name))))}")
            metrics = done.select("metrics.*").collect()[0]
        n_before, n_after = int(metrics["numFilesRemoved"]), int(metrics["numFilesAdded"])
        if n_before:
            message = f"{n_before} small files merged into {n_after}; `ubp vacuum` frees their space"
        else:
            message = "no small files to merge"
        log.info("  %s: %s", name, message)
        merged[name] = (n_before, n_after)
    return merged


def list_tables(workspace: Workspace) -> list[str]:
    """Names of the tables under ``OUT/tables``; TableError if there is none."""
    folder = workspace.out / "tables"
    names = [path.name for path in sorted(folder.glob("*")) if has_commit(str(path))]
    if not names:
        raise TableError(f"expected Delta tables in {folder}, found none; name the --out of a run")
    return names


def recorded_versions(workspace: Workspace) -> dict[int, list[str]]:
    """Version of ``sequences`` -> the models in ``OUT/models`` that were trained on it; ModelError if one is silent.

    What tells a version counts, recorded or not: the records may have been removed. What tells none, and has no record,
    is somebody's own.
    """
    versions: dict[int, list[str]] = {}
    recorded = read_records(workspace)
    for folder in sorted(workspace.model("").glob("[!.]*")):  # hidden ones are what a killed training left
        card = folder / "config.json"
        try:
            versions.setdefault(int(json.loads(card.read_text())["sequences_version"]), []).append(folder.name)
        except (OSError, ValueError, KeyError, TypeError) as error:
            # a card that is there and cannot be read may be one of ours
            is_unread = isinstance(error, OSError) and not isinstance(error, FileNotFoundError | NotADirectoryError)
            if MODELS + folder.name not in recorded and not is_unread:
                log.warning("  %s keeps no version: no record has it, and it tells none", folder)
                continue
            raise ModelError(
                f"{card}: expected the version of {SEQUENCES.name} that the model was trained on, found {error!r}; "
                "remove the folder or train again, or give --force to keep no version for models"
            ) from error
    return versions


def _vacuum_table(spark: SparkSession, path: str, kept: set[Path], retention: Retention) -> Removed:
    folder = Path(path).resolve()
    start = time.time() - retention.keep_hours * 3600
    needed = set(kept)
    for version in versions_within(read_history(spark, path), start):
        try:
            needed |= _files_of_version(spark, path, version)
        except AnalysisException:
            log.warning("  %s: version %d cannot be read any more: its log is gone", folder.name, version)
    # as Spark does, what begins with . or _ is taken for no data
    data_files = {file for file in folder.rglob("[!._]*") if file.is_file() and "_delta_log" not in file.parts}
    # a younger file may be one of a write that runs
    sizes = {file: file.stat().st_size for file in data_files - needed if file.stat().st_mtime < start}
    # a vacuum of nothing would still make two commits
    gone = _run_vacuum(spark, folder, set(sizes), retention) if sizes else set()
    return Removed(folder.name, len(gone), sum(sizes[file] for file in gone))


def _run_vacuum(spark: SparkSession, folder: Path, files: set[Path], retention: Retention) -> set[Path]:
    """Let Delta choose from the files of a table those that no version needs; what it removed, or would remove."""
    stats = {file: file.stat() for file in files}
    rows = [(spark_url(file), stat.st_size, False, int(stat.st_mtime * 1000)) for file, stat in stats.items()]
    # a folder is listed with its files, else VACUUM would take it for empty and try to remove it
    folders = {parent for file in files for parent in file.parents if folder in parent.parents}
    rows += [(spark_url(parent), 0, True, 0) for parent in folders]
    inventory = spark.createDataFrame(rows, "path string, length bigint, isDir boolean, modificationTime bigint")
    view = "vacuum_inventory"
    inventory.createOrReplaceTempView(view)
    inventory_rows = f"(SELECT * FROM {view})"
    name = delta_name(spark_url(folder))
    command = f"VACUUM {name} USING INVENTORY {inventory_rows} RETAIN {retention.keep_hours} HOURS"
    check = {"spark.databricks.delta.retentionDurationCheck.enabled": str(not retention.is_idle).lower()}
    try:
        with session_settings(spark, check):
            if retention.is_dry_run:
                doomed = spark.sql(f"{command} DRY RUN").collect()
                return files & {Path(plain_path(row["path"])) for row in doomed}
            spark.sql(command)
            return {file for file in files if not file.exists()}
    finally:
        spark.catalog.dropTempView(view)


def versions_within(history: Sequence[Row], start: float) -> set[int]:
    """The versions that were the newest at some time since ``start``, in seconds since 1970; at least the last."""
    # a version was the newest until the next one was written; the last one still is
    ends = [commit["seconds"] for commit in history[1:]] + [float("inf")]
    return {commit["version"] for commit, end in zip(history, ends, strict=True) if end >= start}


def _files_trained_on(spark: SparkSession, workspace: Workspace, trained_on: Mapping[int, Sequence[str]]) -> set[Path]:
    """The data files of the versions of ``sequences`` that models were trained on."""
    files: set[Path] = set()
    for version, models in trained_on.items():
        try:
            files |= _files_of_version(spark, workspace.table(SEQUENCES.name), version)
        except AnalysisException as error:
            raise TableError(
                f"table {SEQUENCES.name!r}: expected version {version}, as {', '.join(models)} trained on it, found "
                f"that it cannot be read: {error}; nothing was removed; train again on the tables that are there, or "
                "give --force to keep no version for models"
            ) from error
    return files


def _files_of_version(spark: SparkSession, path: str, version: int) -> set[Path]:
    return {Path(plain_path(name)).resolve() for name in read_version(spark, path, version).inputFiles()}


def _mib(n_bytes: int) -> str:
    return f"{n_bytes / 2**20:,.1f} MiB"
