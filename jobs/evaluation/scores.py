"""Scores of entries on the six tasks, and the file that holds them."""

import logging
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from conf.pipeline import PipelineConfig
from jobs.evaluation.comparison import RUN_PROBE, Scores, ScoresFile
from jobs.evaluation.probe_units import ProbeUnit, count_at_once, digest_entry, list_units, score_units
from jobs.storage.delta_tables import read_as_files, read_table
from jobs.storage.entry_files import read_client_ids, snapshot_files
from jobs.storage.entry_rules import validate_entry
from jobs.storage.files import read_json, write_json
from jobs.storage.locations import mounted_path
from jobs.storage.workspace import Workspace
from jobs.transforms.windows import ENTRY_MODE, read_windows
from ml.evaluation.probe import over_repeats
from schemas import columns as c
from schemas import tasks
from schemas.blocks import ACTIVITY, BASELINE, ENSEMBLE
from schemas.errors import ConfigError, EntryError, InputError
from schemas.tables import CLIENTS, LABELS, TARGETS
from schemas.tasks import TaskScore

log = logging.getLogger(__name__)

EntryScores = dict[str, dict[str, TaskScore]]
"""Entry -> task -> result."""


def score_entries(
    spark: SparkSession, config: PipelineConfig, workspace: Workspace, entries: Sequence[Path]
) -> EntryScores:
    """Score entries on the labels of the workspace; what was scored before is taken from ``probe_units.json``.

    Parameters
    ----------
    entries : folders, each of another name; all of the workspace's where none is named

    Raises
    ------
    ConfigError
        If the windows are those of mode ``entry``: profiles have seen the targets.
    EntryError
        Naming all that is wrong with the entries.
    """
    if read_windows(spark, workspace).mode == ENTRY_MODE:
        raise ConfigError(
            "expected profiles of the input window, found windows.mode=entry: they have seen the targets; run the "
            "stages from split with windows.mode=evaluate"
        )
    # absolute: executors have a working directory of their own
    further = [mounted_path(entry).resolve() for entry in config.probe.entries]
    entries = entries or [*list_entries(workspace, list(config.encoders)), *further]
    clients, targets = read_as_files(spark, workspace, CLIENTS), read_as_files(spark, workspace, TARGETS)
    check_entries(entries, read_client_ids(snapshot_files(clients)))
    scorable = collect_scorable_tasks(targets, config.probe.tasks)
    labels, epochs = read_table(spark, workspace, LABELS), workspace.logs / "probe.jsonl"
    units = list_units(entries, scorable, clients, targets, labels, config.probe, epochs, workspace.working_copy)
    results = collect_results(spark, units, workspace.out / "probe_units.json")
    return {
        entry.name: {
            task: over_repeats([results[entry.name, task, repeat] for repeat in range(config.probe.repeats)])
            for task in scorable
        }
        for entry in entries
    }


def list_entries(workspace: Workspace, encoders: list[str]) -> list[Path]:
    """The entries' folders: baseline, activity, the encoders in order, ensemble, then any other by name."""
    order = [BASELINE, ACTIVITY, *encoders, ENSEMBLE]
    # a dot begins the names of entries that are being written
    folders = [path for path in (workspace.out / "entries").glob("*") if path.is_dir() and path.name[0] != "."]
    if not folders:
        raise EntryError(
            f"expected entries to score, found none in {workspace.out / 'entries'}; run the stage profile first"
        )
    return sorted(folders, key=lambda path: (order.index(path.name) if path.name in order else len(order), path.name))


def check_entries(entries: Sequence[Path], client_ids: np.ndarray) -> None:
    """Raise EntryError with what is wrong with each of the entries, or if two of them have one name.

    Parameters
    ----------
    client_ids : int64 [N], the relevant clients
    """
    problems = []
    for entry in entries:
        try:
            validate_entry(entry, client_ids)
        except EntryError as error:
            problems.append(str(error))
    names = [entry.name for entry in entries]
    problems += [
        f"{names.count(name)} entries are in folders called {name!r}, which names them in the scores; rename some"
        for name in sorted(set(names))
        if names.count(name) > 1
    ]
    if problems:
        raise EntryError("\n".join(problems))


def collect_scorable_tasks(targets: DataFrame, wanted: Sequence[str] = tasks.TASKS) -> list[str]:
    """The wanted tasks whose labels of either window hold both a 0 and a 1.

    Without them AUROC is undefined in validation, and there is nothing to learn in train.

    Logs a line for each of the others, and for labels of one class, which count 0 in a mean over labels.

    Raises
    ------
    InputError
        If not all tasks are wanted and none of those can be scored.
    """
    scorable, reasons = [], []
    counts = _collect_ones(targets, wanted)
    for task in (task for task in tasks.TASKS if task in wanted):
        found = []
        for window in tasks.WINDOWS:
            n_clients, ones = counts.get((task, window), (0, []))
            n_values = n_clients * len(ones)
            if not 0 < sum(ones) < n_values:
                found.append(f"of {n_values} {window} labels {sum(ones)} are 1")
        if found:
            reasons.append(f"{task}: {', '.join(found)}; a score needs both 0 and 1 in each window")
            log.warning("  left out: %s", reasons[-1])
            continue
        scorable.append(task)
        n_clients, ones = counts[task, tasks.VALIDATION]
        n_empty = sum(n_ones in (0, n_clients) for n_ones in ones)
        if n_empty:
            log.info(
                "  %s: %d of %d labels are the same for all clients in validation; each counts 0 in AUROC",
                *(task, n_empty, len(ones)),
            )
    # all tasks are a run's default, and a small data set still gets its page; whoever names tasks expects a score
    if not scorable and set(wanted) != set(tasks.TASKS):
        raise InputError(f"expected a task to score, found none: {'; '.join(reasons)}; ask for other probe.tasks")
    return scorable


def _collect_ones(targets: DataFrame, wanted: Sequence[str]) -> dict[tuple[str, str], tuple[int, list[int]]]:
    """(task, window) -> its clients, and how many of them have a 1 at each label."""
    # of the many labels the few ones alone become rows, which are counted in one job for all tasks
    number_of_one = F.transform(c.LABELS, lambda label, number: F.when(label == 1, number))
    numbers = F.concat(F.array(F.lit(-1)), F.array_compact(number_of_one))  # -1 counts the clients themselves
    rows = (
        targets.filter(F.col(c.TASK).isin(*wanted))
        .select(c.TASK, c.WINDOW, F.size(c.LABELS).alias("n_labels"), F.explode(numbers).alias("number"))
        .groupBy(c.TASK, c.WINDOW, "n_labels", "number")
        .agg(F.count("*").alias("n"))
        .collect()
    )
    counts: dict[tuple[str, str], tuple[int, list[int]]] = {}
    # by number: the row of -1, which makes the list, comes before those that fill it
    for row in sorted(rows, key=lambda row: row["number"]):
        key = row[c.TASK], row[c.WINDOW]
        if row["number"] < 0:
            counts[key] = (row["n"], [0] * row["n_labels"])
        else:
            counts[key][1][row["number"]] = row["n"]
    return counts


def collect_results(
    spark: SparkSession, units: Sequence[ProbeUnit], path: Path
) -> dict[tuple[str, str, int], TaskScore]:
    """(entry, task, repeat) -> result; what a killed run has scored is not scored again.

    Parameters
    ----------
    path : file of results by fingerprint, that takes each further result as soon as it is there

    Raises
    ------
    TableError
        If the file is damaged.
    """
    fix = "remove it; all units are then scored again"
    known: dict[str, dict[str, Any]] = read_json(path, dict[str, TaskScore], fix) if path.exists() else {}
    # by contents: an entry of the same name that was made anew is scored again, and one that was moved is not
    digests = {entry: digest_entry(entry) for entry in {unit.entry for unit in units}}
    fingerprints = {unit.key: unit.fingerprint(digests[unit.entry]) for unit in units}
    results = {key: TaskScore(**known[found]) for key, found in fingerprints.items() if found in known}
    waiting = [unit for unit in units if unit.key not in results]
    names = ", ".join(dict.fromkeys(unit.entry.name for unit in units))
    of_tasks = ", ".join(dict.fromkeys(unit.task for unit in units))
    log.info("  entries %s; tasks %s; %d units, %d of them scored before", names, of_tasks, len(units), len(results))
    n_at_once = count_at_once(spark.sparkContext, waiting) if waiting else 0
    for unit, result in score_units(spark.sparkContext, waiting, n_at_once):
        results[unit.key] = result
        known[fingerprints[unit.key]] = asdict(result)
        write_json(path, known)  # after each: what is there survives a kill
    return results


def read_scores(config: PipelineConfig, workspace: Workspace) -> Scores:
    """``scores.json``; empty in mode ``entry``, where a file there is another run's."""
    if config.windows.mode == ENTRY_MODE:
        return {}
    scores: Scores = read_json(workspace.out / "scores.json", ScoresFile, RUN_PROBE)
    return scores
