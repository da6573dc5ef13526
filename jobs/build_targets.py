"""targets: the labels of each task and window.

Reads ``product_buy``, ``product_properties``, ``windows``, ``clients`` and the label files
``target/propensity_*.npy`` with their popularity (each derived where it is missing); writes ``labels`` and
``targets``.
"""

import logging
import sys
from pathlib import Path

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from conf.settings import PipelineConfig
from jobs.challenge_files import TARGET, read_id_array, read_popularity
from jobs.cli import main_stage
from jobs.io import read_ingested, read_table, write_table
from jobs.transforms import targets as t
from jobs.transforms.windows import Windows, collect_windows, events_before_targets, target_events
from jobs.workspace import Workspace
from schemas import columns as c
from schemas import tasks
from schemas.behaviours import PRODUCT_BUY
from schemas.tables import CLIENTS, LABELS, PRODUCT_PROPERTIES, TARGETS, WINDOWS

log = logging.getLogger(__name__)


def run(spark: SparkSession, config: PipelineConfig, workspace: Workspace) -> None:
    """Write one row per label, and one per task, window and client."""
    windows = collect_windows(read_table(spark, workspace, WINDOWS))
    products = read_ingested(spark, workspace, PRODUCT_PROPERTIES)
    purchases = t.purchases_with_properties(read_ingested(spark, workspace, config.events_table(PRODUCT_BUY)), products)
    label_rows = [
        (task, place, label, popularity)
        for task in tasks.PROPENSITY
        for place, (label, popularity) in enumerate(read_labels(purchases, windows, task, workspace.data / TARGET))
    ]
    write_table(spark.createDataFrame(label_rows, LABELS.ddl), workspace, LABELS)
    labels, clients = read_table(spark, workspace, LABELS), read_table(spark, workspace, CLIENTS)
    write_table(t.build_targets(target_events(purchases, windows), labels, clients), workspace, TARGETS)


def read_labels(purchases: DataFrame, windows: Windows, task: str, folder: Path) -> list[t.Label]:
    """The labels of one propensity task in order: from the task's files, derived where they are missing.

    Parameters
    ----------
    purchases : one row per purchase of any time, with ``sku``, ``category``, ``price``
    folder : the challenge's ``target``
    """
    column = tasks.PROPENSITY[task]
    in_train = target_events(purchases, windows).filter(F.col(c.WINDOW) == tasks.TRAIN)
    if task == tasks.NEW_SKU:
        in_train = t.purchases_of_new_skus(in_train, events_before_targets(purchases, windows))
    ids = read_id_array(folder / f"{task}.npy")
    if ids is None:
        labels = t.collect_top_labels(in_train, column)
        log.info("  %s: no label file; the %d most bought of the train window", task, len(labels))
        return labels
    popularity = read_popularity(folder / f"popularity_{task}.npy", len(ids))
    shares = t.collect_popularity(in_train, column, ids.tolist()) if popularity is None else popularity.tolist()
    return list(zip(ids.tolist(), shares, strict=True))


if __name__ == "__main__":
    sys.exit(main_stage("targets"))
