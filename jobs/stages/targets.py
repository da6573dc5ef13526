"""targets: the labels of each task and window.

Reads ``product_buy``, ``product_properties``, ``windows``, ``clients`` and the label files
``target/propensity_*.npy`` with their popularity (each derived where it is missing); writes ``labels`` and
``targets``.
"""

import logging
from contextlib import ExitStack
from math import ceil
from pathlib import Path

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from conf.pipeline import PipelineConfig
from jobs.evaluation import labels as t
from jobs.inputs.challenge_directory import TARGET, read_id_array, read_popularity
from jobs.inputs.data_files import lists_folder
from jobs.runtime.caching import cache_rows
from jobs.storage.delta_tables import read_ingested, read_table, write_table
from jobs.storage.workspace import Workspace
from jobs.transforms.purchases import purchases_with_properties
from jobs.transforms.windows import events_before, read_windows, target_events
from schemas import columns as c
from schemas import tasks
from schemas.behaviours import PRODUCT_BUY
from schemas.errors import InputError
from schemas.tables import CLIENTS, LABELS, PRODUCT_PROPERTIES, TARGETS

log = logging.getLogger(__name__)

CLIENTS_PER_PART = 50_000
"""Of a task of Spark that writes targets: a file of each task and window."""


def run(spark: SparkSession, config: PipelineConfig, workspace: Workspace) -> None:
    """Write one row per label, and one per task, window and client."""
    windows = read_windows(spark, workspace)
    products = read_ingested(spark, workspace, PRODUCT_PROPERTIES)
    purchases = read_ingested(spark, workspace, config.events_table(PRODUCT_BUY))
    clients = read_table(spark, workspace, CLIENTS)
    with ExitStack() as cached:
        bought = cache_rows(purchases_with_properties(target_events(purchases, windows), products), cached)
        in_train = bought.filter(F.col(c.WINDOW) == tasks.TRAIN)
        counts = cache_rows(t.count_values(in_train, events_before(purchases, windows.train_start)), cached)
        lists = lists_folder(config, workspace)
        labels_of, from_files = read_labels(counts, lists / TARGET if lists else None)
        if lists:
            check_labels(from_files, bought, products, lists / TARGET)
        rows = [
            (task, position, label, popularity)
            for task, of_task in labels_of.items()
            for position, (label, popularity) in enumerate(of_task)
        ]
        labels = spark.createDataFrame(rows, LABELS.ddl)
        write_table(labels, workspace, LABELS)
        # the parts make the files: gathering rows by task and window would move the arrays once more, and sort them
        targets = t.build_targets(bought, labels, clients, count_parts(clients))
        write_table(targets, workspace, TARGETS, keep_partitions=True)


def count_parts(clients: DataFrame) -> int:
    """Tasks that write the targets of these clients."""
    return ceil(max(clients.count(), 1) / CLIENTS_PER_PART)


def read_labels(counts: DataFrame, folder: Path | None) -> tuple[dict[str, list[t.Label]], dict[str, list[int]]]:
    """Each propensity task's labels and popularity: from the task's files, derived where they are missing.

    The labels by task, in order; and the ids of the tasks that have a label file.

    Parameters
    ----------
    counts : purchases of each value in the train window, as ``count_values`` gives them
    folder : the challenge's ``target``; None where there is none
    """
    files = {task: read_id_array(folder / f"{task}.npy") if folder else None for task in tasks.PROPENSITY}
    ids = {task: of_task.tolist() for task, of_task in files.items() if of_task is not None}
    given = {task: read_popularity(folder / f"popularity_{task}.npy", len(ids[task])) for task in ids if folder}
    popularity = {task: values.tolist() for task, values in given.items() if values is not None}
    if missing := {task: ids[task] for task in ids if task not in popularity}:
        popularity |= t.collect_popularity(counts, missing)
    derived = t.collect_top_labels(counts) if len(ids) < len(files) else {}
    for task in files.keys() - ids.keys():
        n_labels = len(derived.get(task, []))
        log.info("  %s: no label file; the %d most bought of the train window", task, n_labels)
    from_files = {task: list(zip(ids[task], popularity[task], strict=True)) for task in ids}
    return {task: (derived | from_files).get(task, []) for task in tasks.PROPENSITY}, ids


def check_labels(ids: dict[str, list[int]], bought: DataFrame, products: DataFrame, folder: Path) -> None:
    """Log which labels belong to no product and no purchase; InputError where none of a task's does.

    Parameters
    ----------
    ids : task -> the labels of its file
    bought : purchases of the target windows
    """
    for task, unknown in t.collect_unknown(ids, products, bought).items():
        if not unknown:
            continue
        examples = f"{', '.join(map(str, unknown[:3]))}{', ...' if len(unknown) > 3 else ''}"
        message = f"{folder / task}.npy: {len(unknown)} of {len(ids[task])} labels are of no product and no purchase"
        if len(unknown) == len(ids[task]):
            raise InputError(
                f"{message} ({examples}); expected values of {tasks.PROPENSITY[task]} in this data set: is the file of "
                "another one? Write it anew, or remove it to have the labels derived"
            )
        log.warning("  %s (%s): nobody can have them, and each counts 0 in AUROC", message, examples)


if __name__ == "__main__":
    from jobs.cli import main_stage

    main_stage("targets")
