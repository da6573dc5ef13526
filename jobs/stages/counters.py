"""counters: how much each client did, and how recently, as the block ``activity``.

Reads the typed events, ``windows`` and ``clients``; writes its rows of ``blocks`` and ``block_columns``.
"""

import logging
import sys

from pyspark.sql import SparkSession

from conf.pipeline import PipelineConfig
from jobs.blocks.counters import client_activity
from jobs.blocks.table import write_block
from jobs.storage.delta_tables import read_ingested, read_table
from jobs.storage.workspace import Workspace
from jobs.transforms.windows import collect_windows
from schemas.tables import CLIENTS, WINDOWS

log = logging.getLogger(__name__)


def run(spark: SparkSession, config: PipelineConfig, workspace: Workspace) -> None:
    """Write the block ``activity``, where ``ensemble.activity`` asks for it."""
    if not config.ensemble.activity:
        log.info("  activity: left out: ensemble.activity is false")
        return
    cutoff = collect_windows(read_table(spark, workspace, WINDOWS)).input_end
    clients = read_table(spark, workspace, CLIENTS)
    events = {name: read_ingested(spark, workspace, table) for name, table in config.events_tables().items()}
    block, vectors = client_activity(events, clients, cutoff, config.ensemble.activity_days)
    write_block(block, vectors, clients, cutoff, workspace)


if __name__ == "__main__":
    from jobs.cli import main_stage

    sys.exit(main_stage("counters"))
