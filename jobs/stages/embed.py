"""embed: each relevant client's vectors of every trained encoder, one block per encoder.

Reads ``windows``, ``clients``, ``vocabularies``, ``sequences`` and the models; writes its rows of ``blocks`` and
``block_columns``.
"""

import logging
from math import ceil

from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from conf.pipeline import PipelineConfig
from jobs.blocks.table import collect_blocks, write_blocks
from jobs.blocks.vectors import ROWS_DDL, embed_chunk, find_models, join_sequences, map_chunks
from jobs.storage.delta_tables import read_table
from jobs.storage.workspace import Workspace
from jobs.transforms.ranks import in_parts
from jobs.transforms.windows import read_windows
from schemas.columns import BEHAVIOUR, POSITION
from schemas.tables import CLIENTS, SEQUENCES

log = logging.getLogger(__name__)


def run(spark: SparkSession, config: PipelineConfig, workspace: Workspace) -> None:
    """Write the block of each encoder; clients without a sequence are not present."""
    sources = find_models(spark, config, workspace)
    blocks = [source.block() for source in sources]
    for block in blocks:
        log.info("  %s: %d columns", block.name, len(block.columns))
    cutoff = read_windows(spark, workspace).input_end
    clients, streams = read_table(spark, workspace, CLIENTS), list(dict.fromkeys(source.stream for source in sources))
    sequences = read_table(spark, workspace, SEQUENCES).filter(F.col(BEHAVIOUR).isin(streams))
    n_clients = clients.count()
    # a part for each core at least, so that none waits while few clients are embedded
    n_parts = max(spark.sparkContext.defaultParallelism, ceil(n_clients / config.inference.clients_per_partition))
    # by position, sorted: a file then holds clients in the order of the entries
    rows = in_parts(join_sequences(clients, sequences, streams), POSITION, n_clients, n_parts)
    vectors = rows.sortWithinPartitions(POSITION).mapInArrow(map_chunks(sources, embed_chunk), ROWS_DDL)
    # of encoders alone: the other blocks of the table are not this stage's to remove
    former = sorted(collect_blocks(spark, workspace).keys() & config.encoders.keys() - {block.name for block in blocks})
    write_blocks(blocks, vectors, cutoff, workspace, former)
    for name in former:
        log.info("  %s: its rows of an earlier run are removed: it has no model now", name)


if __name__ == "__main__":
    from jobs.cli import main_stage

    main_stage("embed")
