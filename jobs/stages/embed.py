"""embed: each relevant client's vectors of every trained encoder, one block per encoder.

Reads ``windows``, ``clients``, ``vocabularies``, ``sequences`` and the models; writes its rows of ``blocks`` and
``block_columns``.
"""

import logging
import sys
from dataclasses import replace
from math import ceil

from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from conf.pipeline import PipelineConfig
from jobs.blocks.table import collect_blocks, write_blocks
from jobs.blocks.vectors import ROWS_DDL, ModelSource, embed_clients, join_sequences
from jobs.storage.delta_tables import read_table
from jobs.storage.workspace import Workspace
from jobs.transforms.vocabulary import collect_summaries
from jobs.transforms.windows import collect_windows
from schemas.columns import BEHAVIOUR, POSITION
from schemas.errors import ModelError
from schemas.tables import CLIENTS, SEQUENCES, VOCABULARIES, WINDOWS

log = logging.getLogger(__name__)


def run(spark: SparkSession, config: PipelineConfig, workspace: Workspace) -> None:
    """Write the block of each encoder; clients without a sequence are not present."""
    sources = find_models(spark, config, workspace)
    blocks = [source.block() for source in sources]
    for block in blocks:
        log.info("  %s: %d columns", block.name, len(block.columns))
    cutoff = collect_windows(read_table(spark, workspace, WINDOWS)).input_end
    clients, streams = read_table(spark, workspace, CLIENTS), list(dict.fromkeys(source.stream for source in sources))
    sequences = read_table(spark, workspace, SEQUENCES).filter(F.col(BEHAVIOUR).isin(streams))
    n_parts = max(spark.sparkContext.defaultParallelism, ceil(clients.count() / config.inference.clients_per_partition))
    # ranges of positions, sorted: a file then holds clients in the order of the entries
    rows = join_sequences(clients, sequences, streams).repartitionByRange(n_parts, POSITION)
    vectors = rows.sortWithinPartitions(POSITION).mapInArrow(embed_clients(sources), ROWS_DDL)
    former = sorted(collect_blocks(spark, workspace).keys() & config.encoders.keys() - {block.name for block in blocks})
    write_blocks(blocks, vectors, cutoff, workspace, former)
    for name in former:
        log.info("  %s: its rows of an earlier run are removed: it has no model now", name)


def find_models(spark: SparkSession, config: PipelineConfig, workspace: Workspace) -> list[ModelSource]:
    """The trained models in the configuration's order."""
    vocabularies = collect_summaries(read_table(spark, workspace, VOCABULARIES))
    sources = []
    for name, encoder in config.encoders.items():
        stream, folder = config.stream(name), workspace.model(name).resolve()
        if stream in vocabularies and folder.is_dir():
            fingerprint = vocabularies[stream].fingerprint
            source = ModelSource(name, stream, folder, fingerprint, encoder.inference, encoder.reads_events)
            sources.append(replace(source, working_copy=workspace.working_copy))
        else:
            log.info("  %s: left out: there is no %s", name, "model" if stream in vocabularies else "vocabulary")
    if not sources:
        raise ModelError(f"no model in {workspace.model('').resolve()}; run train first")
    return sources


if __name__ == "__main__":
    from jobs.cli import main_stage

    sys.exit(main_stage("embed"))
