"""factorisation: factors of clients by categories and pages, as the blocks ``als_category`` and ``als_url``.

Reads the typed events, ``product_properties``, ``windows`` and ``clients``; writes its rows of ``blocks`` and
``block_columns``.
"""

import logging
from contextlib import ExitStack

from pyspark.sql import SparkSession

from conf.pipeline import PipelineConfig
from jobs.blocks.factorisation import WEIGHTS, collect_factors, weigh_pairs
from jobs.blocks.table import remove_block, write_block
from jobs.storage.delta_tables import read_ingested, read_table
from jobs.storage.workspace import Workspace
from jobs.transforms.windows import read_windows
from schemas.tables import CLIENTS, PRODUCT_PROPERTIES

log = logging.getLogger(__name__)


def run(spark: SparkSession, config: PipelineConfig, workspace: Workspace) -> None:
    """Write the blocks that ``ensemble.blocks`` asks for; clients without such events are not present."""
    asked = [name for name in WEIGHTS if name in config.ensemble.named_blocks]
    for name in WEIGHTS:
        if name not in asked:
            log.info("  %s: left out: ensemble.blocks does not name it", name)
    if not asked:
        return
    cutoff = read_windows(spark, workspace).input_end
    clients, products = read_table(spark, workspace, CLIENTS), read_ingested(spark, workspace, PRODUCT_PROPERTIES)
    # of the behaviours that the blocks are made of alone: reading a table looks up its version, and notes it
    read = {of for name in asked for of in WEIGHTS[name]}
    events = {of: read_ingested(spark, workspace, table) for of, table in config.events_tables().items() if of in read}
    for name in asked:
        with ExitStack() as cached:  # one for each block: the first one's pairs are released before the second's
            folder = cached.enter_context(workspace.spark_folder(".factorisation"))
            pairs = weigh_pairs(name, events, products, cutoff, config.behaviours)
            made = collect_factors(name, pairs, clients, config.factorisation, folder, cached)
            if made:
                write_block(*made, clients, cutoff, workspace)
            else:
                remove_block(spark, name, cutoff, workspace)


if __name__ == "__main__":
    from jobs.cli import main_stage

    main_stage("factorisation")
