"""One entry on one task in one repeat: a unit of the probe's work, scored on an executor.

The executors must see ``--out`` and the entries as the driver does, or reach the store that ``--out`` is.
"""

import json
import logging
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed, wait
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path

import numpy as np
import psutil
import torch
from pyspark import SparkContext, inheritable_thread_target
from pyspark.sql import DataFrame

from conf.evaluation import ProbeSettings
from jobs.runtime.devices import release_device, task_device
from jobs.runtime.progress import probe_progress
from jobs.storage.delta_tables import list_files
from jobs.storage.entry_files import position_finder, read_client_ids, rectangle, snapshot_files, stream_batches
from jobs.storage.entry_rules import CLIENT_IDS, EMBEDDINGS
from jobs.storage.files import append_line, digest, digest_file
from jobs.storage.locations import readable_path
from jobs.storage.working_copy import WorkingCopy
from ml.evaluation.packed_labels import PackedLabels
from ml.evaluation.probe import score_task
from ml.files.npy import open_npy
from schemas import columns as c
from schemas import tasks
from schemas.errors import PipelineError
from schemas.tables import TARGETS
from schemas.tasks import TaskScore

log = logging.getLogger(__name__)

MAX_JOBS = 64
"""Spark jobs at once; each has a thread in the driver."""
PROCESS_BYTES = 500 * 2**20
"""Of a Python worker with torch, and of what it computes for one batch."""

Outcome = tuple[TaskScore | PipelineError, float]
"""Of a unit: its result, or the error that the user can act on, and seconds."""


@dataclass(frozen=True)
class ProbeUnit:
    """All that an executor needs.

    Attributes
    ----------
    repeat : see ``ml.evaluation.probe.score_task``
    clients : files of the clients table
    targets : window -> files of the task's labels
    popularity : of each label, empty for churn and conversion
    n_threads : torch's CPU threads
    epochs : takes a line per epoch, see ``jobs.runtime.progress.probe_progress``
    working_copy : that the entry may be part of, where ``--out`` is a store
    """

    entry: Path
    task: str
    repeat: int
    clients: tuple[str, ...]
    targets: dict[str, tuple[str, ...]]
    popularity: tuple[float, ...]
    settings: ProbeSettings
    n_threads: int
    epochs: Path
    working_copy: WorkingCopy | None = None

    @property
    def key(self) -> tuple[str, str, int]:
        """Entry, task and repeat."""
        return self.entry.name, self.task, self.repeat

    @property
    def name(self) -> str:
        """``ensemble, churn`` and, beyond the first, which repeat."""
        return f"{self.entry.name}, {self.task}" + (f", repeat {self.repeat}" if self.repeat else "")

    def fingerprint(self, entry_digest: str) -> str:
        """Of all that decides the result: the entry's bytes (``digest_entry``), the labels' files, the settings."""
        # Delta names each file anew that it writes: names stand for contents, and --out may move
        files = [sorted(Path(file).name for file in of) for of in (self.clients, *self.targets.values())]
        return digest((entry_digest, self.task, self.repeat, files, self.popularity, self.settings.of_a_score()))


def digest_entry(entry: Path) -> str:
    """Of the bytes of an entry's two files."""
    return " ".join(digest_file(entry / name) for name in (CLIENT_IDS, EMBEDDINGS))


def list_units(
    entries: Sequence[Path],
    scorable: Sequence[str],
    clients: DataFrame,
    targets: DataFrame,
    labels: DataFrame,
    settings: ProbeSettings,
    epochs: Path,
    working_copy: WorkingCopy | None = None,
) -> list[ProbeUnit]:
    """Every entry on every task, the organisers' run of all before the further repeats.

    Parameters
    ----------
    clients, targets, labels : snapshots of these tables
    epochs : file for the progress of all units
    """
    client_files = tuple(snapshot_files(clients))
    files = list_files(targets, TARGETS.partition_by)
    popularity: dict[str, list[float]] = {task: [] for task in tasks.TASKS}
    for row in labels.orderBy(c.TASK, "label").collect():
        popularity[row[c.TASK]].append(row["popularity"])
    # a task may use the cores that Spark reserves for it, and no more: others run beside it
    n_threads = int(clients.sparkSession.sparkContext.getConf().get("spark.task.cpus", "1") or 1)
    of_task = {
        task: {
            window: tuple(
                readable_path(file.url) for file in files if file.partition == {c.TASK: task, c.WINDOW: window}
            )
            for window in tasks.WINDOWS
        }
        for task in scorable
    }
    # a run that is stopped among the repeats has the organisers' run of each entry on each task
    return [
        ProbeUnit(
            *(entry, task, repeat, client_files, of_task[task], tuple(popularity[task]), settings, n_threads, epochs),
            working_copy=working_copy,
        )
        for repeat in range(settings.repeats)
        for task in scorable
        for entry in entries
    ]


def unit_bytes(n_rows: int, width: int, n_labels: int, settings: ProbeSettings) -> int:
    """About what a unit needs beside the entry's own pages: logits, labels, positions, and the network in training."""
    n_weights = (width + n_labels + 4 * settings.hidden_size * settings.n_blocks) * settings.hidden_size
    # weights, gradients and two moments; 450 bytes are positions, and copies of one label's logits while it is ranked
    return PROCESS_BYTES + 16 * n_weights + n_rows * (4 * n_labels + 4 * ceil(n_labels / 8) + 450)


def count_at_once(context: SparkContext, units: Sequence[ProbeUnit]) -> int:
    """How many units to hand to Spark at once.

    In local mode as many as there are cores and memory for. A cluster is given more than it has slots for: where it
    has executors by the work that waits, that work must be known.
    """
    if not str(context.master).startswith("local"):
        return min(len(units), MAX_JOBS)
    shapes = {entry: open_npy(entry / EMBEDDINGS).shape for entry in {unit.entry for unit in units}}
    largest = max(
        unit_bytes(shapes[unit.entry][0], shapes[unit.entry][1], len(unit.popularity) or 1, unit.settings)
        for unit in units
    )
    n_fitting = max(1, psutil.virtual_memory().available // largest)
    if n_fitting < min(len(units), context.defaultParallelism):
        log.info("  %d units at once: each may take %.1f GiB", n_fitting, largest / 2**30)
    return min(n_fitting, max(1, context.defaultParallelism))


def score_units(
    context: SparkContext, units: Sequence[ProbeUnit], n_at_once: int
) -> Iterator[tuple[ProbeUnit, TaskScore]]:
    """Each unit with its result, as they finish; logs which are handed to Spark, and their ends.

    One Spark job per unit, so that a result is known when it is there: one job over all units would tell at
    its end, and toLocalIterator runs them one after another. Where a unit fails, the others are cancelled: its
    error comes after the results that were there by then, and not when hours of other units are over.
    """
    tag = f"probe-{uuid.uuid4().hex}"

    def submit(unit: ProbeUnit) -> Outcome:
        log.info("  %s: started", unit.name)
        started = time.monotonic()
        context.addJobTag(tag)
        result = context.parallelize([unit], 1).map(score_unit).collect()[0]
        return result, time.monotonic() - started

    if not units:
        return
    n_epochs = len(units) * units[0].settings.epochs
    with probe_progress(units[0].epochs, n_epochs), ThreadPoolExecutor(n_at_once) as pool:
        # a Python thread has a thread of the JVM for itself, which would lack the local properties of this one
        futures = {pool.submit(inheritable_thread_target(submit), unit): unit for unit in units}
        try:
            for number, future in enumerate(as_completed(futures), start=1):
                # popped first: what is left for _stop was neither given to the caller, nor has it failed here
                unit, (result, seconds) = futures.pop(future), future.result()
                if isinstance(result, PipelineError):
                    raise result
                log.info("  %s: %.4f (%.1f s, %d of %d)", unit.name, result.score, seconds, number, len(units))
                yield unit, result
        except BaseException as error:
            results = _stop(context, tag, futures)
            if isinstance(error, Exception):  # else nobody asks for more
                yield from results
            raise


def _stop(
    context: SparkContext, tag: str, futures: "Mapping[Future[Outcome], ProbeUnit]"
) -> list[tuple[ProbeUnit, TaskScore]]:
    """Cancel what still runs or waits; the results of what had ended.

    Parameters
    ----------
    tag : of the futures' Spark jobs
    """
    begun = {future: unit for future, unit in futures.items() if not future.cancel()}
    running = set(begun)
    while running:
        context.cancelJobsWithTag(tag)  # again and again: a job may only be about to start
        running = wait(running, timeout=1.0).not_done
    results = [(unit, future.result()[0]) for future, unit in begun.items() if future.exception() is None]
    log.info("  stopped: %d other units had no result yet", len(futures) - len(results))
    return [(unit, result) for unit, result in results if isinstance(result, TaskScore)]


def score_unit(unit: ProbeUnit) -> TaskScore | PipelineError:
    """The result of one unit, or the error that the user can act on; runs on an executor."""
    torch.set_num_threads(unit.n_threads)
    if unit.working_copy:
        unit = replace(unit, entry=unit.working_copy.fetch(unit.entry))
    # mapped: the units of a host share an entry's pages in memory
    embeddings = np.load(unit.entry / EMBEDDINGS, mmap_mode="r", allow_pickle=False)
    positions = _entry_positions(unit)
    n_labels = len(unit.popularity) or 1
    train, in_train = read_label_rows(unit.targets[tasks.TRAIN], len(positions), n_labels)
    validation, in_validation = read_label_rows(unit.targets[tasks.VALIDATION], len(positions), n_labels)
    assert (in_train == in_validation).all(), "both windows ask the same clients"
    rows = np.flatnonzero(in_train[positions])
    started = time.monotonic()

    def append_epoch(epoch: int, score: float) -> None:
        nonlocal started
        now = time.monotonic()
        line = {"unit": unit.name, "epoch": epoch, "epochs": unit.settings.epochs, "score": round(score, 4)}
        if unit.epochs.parent.is_dir():  # not on an executor that reaches ``--out`` as a store only
            append_line(unit.epochs, json.dumps({**line, "seconds": round(now - started, 1)}))
        started = now

    try:
        return score_task(
            embeddings,
            train[positions[rows]],
            validation[positions[rows]],
            unit.task,
            np.array(unit.popularity) if unit.popularity else None,
            unit.settings,
            # where all clients are asked, batches are slices of the map, and no copies of chosen rows
            rows=None if len(rows) == len(embeddings) else rows,
            device=task_device(),
            repeat=unit.repeat,
            on_epoch=append_epoch,
        )
    except PipelineError as error:
        # returned, not raised: Spark would try again, and hide the message in its own
        return type(error)(f"entry {unit.entry.name}: {error}")
    finally:
        release_device()


def read_label_rows(paths: tuple[str, ...], n_clients: int, n_labels: int) -> tuple[PackedLabels, np.ndarray]:
    """One task's labels of one window: of n_clients, by position, and which clients have any, bool."""
    labels = PackedLabels(np.zeros((n_clients, ceil(n_labels / 8)), dtype=np.uint8), n_labels)
    is_there = np.zeros(n_clients, dtype=bool)
    for batch in stream_batches(paths, [c.POSITION, c.LABELS]):
        positions = batch.column(c.POSITION).to_numpy()
        labels.bits[positions] = np.packbits(rectangle(batch.column(c.LABELS), np.dtype(np.uint8)), axis=1)
        is_there[positions] = True
    return labels, is_there


def _entry_positions(unit: ProbeUnit) -> np.ndarray:
    """Position of each row of the entry, int64 [N]; our own entries have them in order, others need not."""
    find_positions = position_finder(read_client_ids(unit.clients))
    return find_positions(np.load(unit.entry / CLIENT_IDS, allow_pickle=False))
