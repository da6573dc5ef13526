"""probe: every entry's scores on the six tasks.

Reads ``entries/*``, ``targets``, ``labels``, ``clients`` and ``windows``; writes ``scores`` and
``scores.json``. Each entry and task is one unit of work; the units run side by side on the executors, which
must see ``--out`` as the driver does.
"""

import json
import logging
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from pyspark import SparkContext, inheritable_thread_target
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from conf.settings import PipelineConfig, ProbeSettings
from jobs.cli import main_stage
from jobs.entries import CLIENT_IDS, EMBEDDINGS, rectangle, snapshot_files, stream_batches, validate_entry
from jobs.io import list_files, local_path, read_table, write_table
from jobs.metrics_log import append_metrics
from jobs.transforms.windows import ENTRY_MODE, collect_windows
from jobs.workspace import Workspace
from ml.folders import replace_text
from ml.probe import score_task
from schemas import columns as c
from schemas import tasks
from schemas.errors import ConfigError, EntryError, PipelineError
from schemas.tables import CLIENTS, LABELS, SCORES, TARGETS, WINDOWS
from schemas.tasks import TaskScore

log = logging.getLogger(__name__)

Scores = dict[str, dict[str, TaskScore]]
"""Entry -> task -> result."""


@dataclass(frozen=True)
class ProbeUnit:
    """One entry on one task: all that an executor needs.

    Attributes
    ----------
    entry : folder of the entry
    clients : files of the clients table
    targets : window -> files of the task's labels
    popularity : of each label, empty for churn and conversion
    n_threads : torch's CPU threads
    """

    entry: Path
    task: str
    clients: tuple[str, ...]
    targets: dict[str, tuple[str, ...]]
    popularity: tuple[float, ...]
    settings: ProbeSettings
    n_threads: int


def run(spark: SparkSession, config: PipelineConfig, workspace: Workspace) -> None:
    """Write one row per entry and task."""
    if collect_windows(read_table(spark, workspace, WINDOWS)).mode == ENTRY_MODE:
        raise ConfigError(
            "expected profiles of the input window, found windows.mode=entry: they have seen the targets; run the "
            "stages from split with windows.mode=evaluate"
        )
    clients, targets = read_table(spark, workspace, CLIENTS), read_table(spark, workspace, TARGETS)
    entries = list_entries(workspace, list(config.behaviours))
    client_ids = read_client_ids(snapshot_files(clients))
    for entry in entries:
        validate_entry(entry, client_ids)
    units = _list_units(entries, clients, targets, read_table(spark, workspace, LABELS), config.probe)
    scores: Scores = {entry.name: {} for entry in entries}
    for unit, result in score_units(spark.sparkContext, units):
        scores[unit.entry.name][unit.task] = result
        log.info("  %s, %s: %.4f", unit.entry.name, unit.task, result.score)
        figures = {f"probe/{unit.task}/{name}": value for name, value in _figures(result).items()}
        append_metrics(workspace.metrics, {"entry": unit.entry.name, **figures})
    _write_scores(spark, scores, workspace)


def list_entries(workspace: Workspace, behaviours: list[str]) -> list[Path]:
    """The entries' folders: baseline, the behaviours in order, ensemble, then any other by name."""
    order = ["baseline", *behaviours, "ensemble"]
    folders = [path for path in (workspace.out / "entries").glob("*") if path.is_dir() and path.name[0] != "."]
    if not folders:
        raise EntryError(
            f"expected entries to score, found none in {workspace.out / 'entries'}; run embed or baseline first"
        )
    return sorted(folders, key=lambda path: (order.index(path.name) if path.name in order else len(order), path.name))


def collect_scorable_tasks(targets: DataFrame) -> list[str]:
    """The tasks whose validation labels hold both a 0 and a 1: without them AUROC is undefined.

    Logs a line for each of the others.
    """
    ones = F.aggregate(c.LABELS, F.lit(0).cast("bigint"), lambda total, label: total + label)
    counts = (
        targets.filter(F.col(c.WINDOW) == tasks.VALIDATION)
        .groupBy(c.TASK)
        .agg(F.sum(ones).alias("n_ones"), F.sum(F.size(c.LABELS)).alias("n_labels"))
    )
    found = {row[c.TASK]: (row["n_ones"], row["n_labels"]) for row in counts.collect()}
    scorable = []
    for task in tasks.TASKS:
        n_ones, n_labels = found.get(task, (0, 0))
        if 0 < n_ones < n_labels:
            scorable.append(task)
        else:
            log.info(
                "  %s is left out: of %d validation labels %d are 1, so AUROC is undefined", task, n_labels, n_ones
            )
    return scorable


def _list_units(
    entries: list[Path], clients: DataFrame, targets: DataFrame, labels: DataFrame, settings: ProbeSettings
) -> list[ProbeUnit]:
    client_files = tuple(snapshot_files(clients))
    files = list_files(targets, TARGETS.partition_by)
    popularity: dict[str, list[float]] = {task: [] for task in tasks.TASKS}
    for row in labels.orderBy(c.TASK, "label").collect():
        popularity[row[c.TASK]].append(row["popularity"])
    n_threads = int(clients.sparkSession.sparkContext.getConf().get("spark.task.cpus", "1") or 1)
    units = []
    for task in collect_scorable_tasks(targets):
        of_task = {
            window: tuple(local_path(file.url) for file in files if file.partition == {c.TASK: task, c.WINDOW: window})
            for window in tasks.WINDOWS
        }
        units += [
            ProbeUnit(entry, task, client_files, of_task, tuple(popularity[task]), settings, n_threads)
            for entry in entries
        ]
    return units


def score_units(context: SparkContext, units: list[ProbeUnit]) -> Iterator[tuple[ProbeUnit, TaskScore]]:
    """Each unit with its result, as they finish.

    One Spark job per unit, so that a result is known when it is there: one job over all units would tell at
    its end, and toLocalIterator runs them one after another.
    """

    def submit(unit: ProbeUnit) -> TaskScore | PipelineError:
        return context.parallelize([unit], 1).map(score_unit).collect()[0]

    with ThreadPoolExecutor(max_workers=max(1, context.defaultParallelism)) as pool:
        futures = {pool.submit(inheritable_thread_target(submit), unit): unit for unit in units}
        try:
            for future in as_completed(futures):
                result = future.result()
                if isinstance(result, PipelineError):
                    raise result
                yield futures[future], result
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def score_unit(unit: ProbeUnit) -> TaskScore | PipelineError:
    """The result of one unit, or the error that the user can act on; runs on an executor."""
    torch.set_num_threads(unit.n_threads)
    embeddings = np.load(unit.entry / EMBEDDINGS, mmap_mode="r", allow_pickle=False)
    positions = _entry_positions(unit)
    n_labels = len(unit.popularity) or 1
    train, in_train = read_label_rows(unit.targets[tasks.TRAIN], len(positions), n_labels)
    validation, in_validation = read_label_rows(unit.targets[tasks.VALIDATION], len(positions), n_labels)
    assert (in_train == in_validation).all(), "both windows ask the same clients"
    rows = np.flatnonzero(in_train[positions])
    try:
        return score_task(
            embeddings,
            train[positions[rows]],
            validation[positions[rows]],
            unit.task,
            np.array(unit.popularity) if unit.popularity else None,
            unit.settings,
            rows=None if len(rows) == len(embeddings) else rows,
            device="cuda" if torch.cuda.is_available() else "cpu",
        )
    except PipelineError as error:
        return type(error)(f"entry {unit.entry.name}: {error}")


def read_label_rows(paths: tuple[str, ...], n_clients: int, n_labels: int) -> tuple[np.ndarray, np.ndarray]:
    """One task's labels of one window: uint8 [n_clients, n_labels] by position, and which clients have any, bool."""
    labels = np.zeros((n_clients, n_labels), dtype=np.uint8)
    is_there = np.zeros(n_clients, dtype=bool)
    for batch in stream_batches(paths, [c.POSITION, c.LABELS]):
        positions = batch.column(c.POSITION).to_numpy()
        labels[positions] = rectangle(batch.column(c.LABELS), np.dtype(np.uint8))
        is_there[positions] = True
    return labels, is_there


def read_client_ids(paths: list[str] | tuple[str, ...]) -> np.ndarray:
    """The relevant clients, int64 [N], by position."""
    batches = [
        (batch.column(c.POSITION).to_numpy(), batch.column(c.CLIENT_ID).to_numpy())
        for batch in stream_batches(paths, [c.POSITION, c.CLIENT_ID])
    ]
    client_ids = np.empty(sum(len(positions) for positions, _ in batches), dtype=np.int64)
    for positions, ids in batches:
        client_ids[positions] = ids
    return client_ids


def _entry_positions(unit: ProbeUnit) -> np.ndarray:
    """Position of each row of the entry, int64 [N]; our own entries have them in order, others need not."""
    client_ids = read_client_ids(unit.clients)
    entry_ids = np.load(unit.entry / CLIENT_IDS, allow_pickle=False)
    by_id = np.argsort(client_ids)
    return by_id[np.searchsorted(client_ids, entry_ids, sorter=by_id)]


def _write_scores(spark: SparkSession, scores: Scores, workspace: Workspace) -> None:
    ordered = {
        entry: {task: of_entry[task] for task in tasks.TASKS if task in of_entry} for entry, of_entry in scores.items()
    }
    rows = [
        (entry, task, result.score, result.auroc, result.novelty, result.diversity)
        for entry, of_entry in ordered.items()
        for task, result in of_entry.items()
    ]
    write_table(spark.createDataFrame(rows, SCORES.ddl), workspace, SCORES)
    as_json = {
        entry: {task: _figures(result) for task, result in of_entry.items()} for entry, of_entry in ordered.items()
    }
    replace_text(workspace.out / "scores.json", json.dumps(as_json, indent=2) + "\n")


def _figures(result: TaskScore) -> dict[str, float]:
    return {name: value for name, value in asdict(result).items() if value is not None}


if __name__ == "__main__":
    sys.exit(main_stage("probe"))
