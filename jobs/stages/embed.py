"""Embed: each relevant client's vectors from all behaviours' models, and the entries made of them."""

import contextlib
import logging
import shutil
import sys
from collections.abc import Sequence
from functools import reduce
from math import ceil

import numpy as np
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from conf.pipeline import PipelineConfig
from jobs.blocks.activity import client_activity
from jobs.blocks.vectors import ModelSource, embed_clients, join_sequences
from jobs.profiles.composition import ENSEMBLE, imported_entries, open_blocks, require_blocks, write_profiles
from jobs.profiles.moments import collect_moments
from jobs.storage.delta_tables import read_as_files, read_ingested, read_table, write_table
from jobs.storage.entry_files import EntryWriter, rectangle, snapshot_files, stream_batches
from jobs.storage.workspace import Workspace
from jobs.transforms.vocabulary import collect_summaries
from jobs.transforms.windows import collect_windows
from schemas.columns import BEHAVIOUR, CLIENT_ID, EMBEDDING, POSITION
from schemas.errors import ModelError
from schemas.tables import CLIENTS, EMBEDDINGS, SEQUENCES, VOCABULARIES, WINDOWS

log = logging.getLogger(__name__)


def run(spark: SparkSession, config: PipelineConfig, workspace: Workspace) -> None:
    """Write the table of vectors, the entry of each behaviour alone, and the entries composed of them."""
    require_blocks(config.ensemble, workspace)
    sources = find_models(spark, config, workspace)
    names = [source.behaviour for source in sources]
    clients = read_table(spark, workspace, CLIENTS)
    sequences = read_table(spark, workspace, SEQUENCES).filter(F.col(BEHAVIOUR).isin(names))
    n_clients = clients.count()
    n_parts = max(spark.sparkContext.defaultParallelism, ceil(n_clients / config.inference.clients_per_partition))
    activity = read_activity(spark, config, workspace, clients, names) if config.ensemble.activity else None
    rows = join_sequences(clients, sequences, names, activity).repartitionByRange(n_parts, POSITION)
    n_counts = config.ensemble.activity * (1 + len(config.ensemble.activity_days))
    embed = embed_clients(sources, config.inference, n_counts)
    vectors = rows.sortWithinPartitions(POSITION).mapInArrow(embed, EMBEDDINGS.ddl)
    write_table(vectors, workspace, EMBEDDINGS, keep_partitions=True, is_log=True)
    shape = n_clients, config.model.hidden_size + n_counts
    write_behaviours(spark, workspace, names, shape)
    written = write_ensembles(spark, config, workspace, names)
    remove_other_entries(config, workspace, {*names, *written})


def find_models(spark: SparkSession, config: PipelineConfig, workspace: Workspace) -> list[ModelSource]:
    """The trained models in the configuration's order, each loaded once to be refused here and not in a Spark task."""
    vocabularies = collect_summaries(read_table(spark, workspace, VOCABULARIES))
    sources = [
        ModelSource(name, workspace.model(name).resolve(), vocabularies[config.stream(name)].fingerprint)
        for name in config.encoders
        if config.stream(name) in vocabularies and workspace.model(name).is_dir()
    ]
    if not sources:
        raise ModelError(f"no model in {workspace.model('').resolve()}; run train first")
    for source in sources:
        source.load()
    return sources


def read_activity(
    spark: SparkSession, config: PipelineConfig, workspace: Workspace, clients: DataFrame, behaviours: Sequence[str]
) -> DataFrame:
    """Behaviour, client_id and activity of the clients, see ``client_activity``."""
    windows = collect_windows(read_table(spark, workspace, WINDOWS))
    days = config.ensemble.activity_days
    parts = [
        client_activity(read_ingested(spark, workspace, config.events_table(name)), clients, windows, days).select(
            F.lit(name).alias(BEHAVIOUR), "*"
        )
        for name in behaviours
    ]
    return reduce(DataFrame.unionByName, parts)


def write_behaviours(spark: SparkSession, workspace: Workspace, names: list[str], shape: tuple[int, int]) -> None:
    """Stream the table of vectors once into the behaviours' entries."""
    files = snapshot_files(read_as_files(spark, workspace, EMBEDDINGS))
    with contextlib.ExitStack() as stack:
        writers = [stack.enter_context(EntryWriter(workspace.entry(name), *shape)) for name in names]
        for batch in stream_batches(files, [POSITION, CLIENT_ID, EMBEDDING]):
            positions, client_ids = batch.column(POSITION).to_numpy(), batch.column(CLIENT_ID).to_numpy()
            vectors = np.split(rectangle(batch.column(EMBEDDING), np.dtype(np.float32)), len(names), axis=1)
            for writer, block in zip(writers, vectors, strict=True):
                writer.write(positions, client_ids, block)
    for name in names:
        log.info("  entry %s: %s clients x %d", name, f"{shape[0]:,}", shape[1])


def write_ensembles(
    spark: SparkSession, config: PipelineConfig, workspace: Workspace, behaviours: list[str]
) -> list[str]:
    """Compose ``ensemble`` of the behaviours and, where there are further blocks, ``ensemble+NAME``; their names."""
    blocks = open_blocks(workspace, behaviours, config.ensemble)
    moments = collect_moments(spark.sparkContext, blocks)
    composed = {ENSEMBLE: blocks[: len(behaviours)]}
    if further := blocks[len(behaviours) :]:
        composed["+".join([ENSEMBLE, *(block.name for block in further)])] = blocks
    for name, parts in composed.items():
        write_profiles(parts, moments, workspace.entry(name), config.ensemble)
    return list(composed)


def remove_other_entries(config: PipelineConfig, workspace: Workspace, written: set[str]) -> None:
    """Delete the entries that an earlier run of this stage wrote and this one did not: they would be scored too.

    Copies of blocks (``NAME=DIR``) stay while ``ensemble.blocks`` names them.
    """
    composed = {folder.name for folder in workspace.entry("").glob(f"{ENSEMBLE}+*")}
    copied = imported_entries(workspace) - set(config.ensemble.named_blocks)
    for name in (composed | copied | set(config.behaviours)) - written:
        shutil.rmtree(workspace.entry(name), ignore_errors=True)


if __name__ == "__main__":
    from jobs.cli import main_stage

    sys.exit(main_stage("embed"))
