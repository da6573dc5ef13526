"""counters: what each client did, as the blocks ``activity`` and ``counters``.

Reads the typed events, ``product_properties``, ``windows`` and ``clients``; writes its rows of ``blocks`` and
``block_columns``.
"""

import logging
from contextlib import ExitStack

from pyspark.sql import SparkSession

from conf.pipeline import PipelineConfig
from jobs.blocks.activity import client_activity
from jobs.blocks.counters import Shop, collect_counters
from jobs.blocks.table import write_block
from jobs.storage.delta_tables import read_ingested, read_table
from jobs.storage.workspace import Workspace
from jobs.transforms.windows import read_windows
from schemas.blocks import COUNTERS
from schemas.tables import CLIENTS, PRODUCT_PROPERTIES

log = logging.getLogger(__name__)


def run(spark: SparkSession, config: PipelineConfig, workspace: Workspace) -> None:
    """Write ``activity``, where ``ensemble.activity`` asks for it, and ``counters``, where ``ensemble.blocks`` does."""
    asks_for_counters = COUNTERS in config.ensemble.named_blocks
    if not config.ensemble.activity:
        log.info("  activity: left out: ensemble.activity is false")
    if not asks_for_counters:
        log.info("  %s: left out: ensemble.blocks does not name it", COUNTERS)
    if not (config.ensemble.activity or asks_for_counters):
        return
    cutoff = read_windows(spark, workspace).input_end
    clients = read_table(spark, workspace, CLIENTS)
    events = {name: read_ingested(spark, workspace, table) for name, table in config.events_tables().items()}
    if config.ensemble.activity:
        write_block(
            *client_activity(events, clients, cutoff, config.ensemble.activity_days), clients, cutoff, workspace
        )
    if asks_for_counters:
        products = read_ingested(spark, workspace, PRODUCT_PROPERTIES)
        with ExitStack() as cached:
            made = collect_counters(Shop(events, products, clients, config.behaviours), cutoff, cached)
            write_block(*made, clients, cutoff, workspace)


if __name__ == "__main__":
    from jobs.cli import main_stage

    main_stage("counters")
