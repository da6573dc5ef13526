"""baseline: the organisers' aggregated features as the entry ``baseline``.

Reads the typed events, ``product_properties``, ``windows`` and ``clients``; writes ``entries/baseline`` with
``feature_names.json``.
"""

import json
import logging
import sys

from pyspark.sql import DataFrame, SparkSession

from conf.pipeline import PipelineConfig
from jobs.blocks import organiser_features as b
from jobs.evaluation.labels import purchases_with_properties
from jobs.storage.delta_tables import read_ingested, read_table
from jobs.storage.entry_files import stored, write_entry
from jobs.storage.workspace import Workspace
from jobs.transforms.clients import rows_of_clients
from jobs.transforms.windows import collect_windows, input_events
from schemas import columns as c
from schemas.behaviours import ItemKind
from schemas.errors import InputError
from schemas.tables import CLIENTS, PRODUCT_PROPERTIES, WINDOWS

log = logging.getLogger(__name__)

ENTRY = "baseline"


def run(spark: SparkSession, config: PipelineConfig, workspace: Workspace) -> None:
    """Write the entry ``baseline``: one row per relevant client, in the order of the clients table."""
    windows = collect_windows(read_table(spark, workspace, WINDOWS))
    products = read_ingested(spark, workspace, PRODUCT_PROPERTIES)
    clients = read_table(spark, workspace, CLIENTS)
    events = {
        name: rows_of_clients(input_events(read_ingested(spark, workspace, table), windows), clients)
        for name, table in config.events_tables().items()
    }
    parts = collect_features(events, products, config)
    names = [name for part in parts for name in part.names]
    with stored(b.join_features(clients, parts), workspace.out / ".baseline_features") as features:
        shape = (clients.count(), len(names))
        extra = {"feature_names.json": json.dumps(names, indent=1)}
        write_entry(features, b.FEATURES, workspace.entry(ENTRY), shape, extra)
    log.info("  entry %s: %s clients, %d features", ENTRY, f"{shape[0]:,}", shape[1])


def collect_features(
    events: dict[str, DataFrame], products: DataFrame, config: PipelineConfig
) -> list[b.BehaviourFeatures]:
    """The features of each behaviour, those without events left out; InputError where none has events.

    Parameters
    ----------
    events : behaviour -> input events of the relevant clients
    """
    parts = []
    for name, frame in events.items():
        part = _features_of(name, frame, products, config)
        if part is None:
            log.info("  baseline: %s is left out: the relevant clients have no input event of it", name)
        else:
            parts.append(part)
    if not parts:
        raise InputError(
            f"expected input events of the relevant clients in one of {sorted(events)}, found none; do "
            "input/relevant_clients.npy and the events belong together?"
        )
    return parts


def _features_of(
    name: str, events: DataFrame, products: DataFrame, config: PipelineConfig
) -> b.BehaviourFeatures | None:
    settings = config.behaviours[name]
    if settings.kind == ItemKind.CODES:
        return b.collect_mean_codes(events, name, settings.item)
    with_columns = purchases_with_properties(events, products) if settings.item == c.SKU else events
    return b.collect_count_features(with_columns, name, b.counted_columns(settings.item))


if __name__ == "__main__":
    from jobs.cli import main_stage

    sys.exit(main_stage("baseline"))
