"""Embed: each relevant client's vectors from all behaviours' models, and the entries made of them."""

import contextlib
import logging
import shutil
import sys
from math import ceil

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from conf.settings import PipelineConfig
from jobs.cli import main_stage
from jobs.entries import EntryWriter, rectangle, snapshot_files, stream_batches
from jobs.io import read_table, write_table
from jobs.transforms.profiles import ModelSource, embed_clients, join_sequences
from jobs.transforms.vocabulary import collect_summaries
from jobs.workspace import Workspace
from ml.ensemble import compose_profiles, profile_width
from schemas.columns import BEHAVIOUR, CLIENT_ID, EMBEDDING, POSITION, PRESENT
from schemas.errors import ModelError
from schemas.tables import CLIENTS, EMBEDDINGS, SEQUENCES, VOCABULARIES

log = logging.getLogger(__name__)

ENSEMBLE = "ensemble"


def run(spark: SparkSession, config: PipelineConfig, workspace: Workspace) -> None:
    """Write the table of vectors, the entry of each behaviour alone, and the entry ``ensemble``."""
    sources = find_models(spark, config, workspace)
    names = [source.behaviour for source in sources]
    clients = read_table(spark, workspace, CLIENTS)
    sequences = read_table(spark, workspace, SEQUENCES).filter(F.col(BEHAVIOUR).isin(names))
    n_clients = clients.count()
    n_parts = max(spark.sparkContext.defaultParallelism, ceil(n_clients / config.inference.clients_per_partition))
    rows = join_sequences(clients, sequences, names).repartitionByRange(n_parts, POSITION)
    embed = embed_clients(sources, config.inference.tokens_per_batch)
    vectors = rows.sortWithinPartitions(POSITION).mapInArrow(embed, EMBEDDINGS.ddl)
    write_table(vectors, workspace, EMBEDDINGS, keep_partitions=True)
    write_entries(spark, config, workspace, names, n_clients)
    for name in config.behaviours.keys() - set(names):  # of an earlier run; it would be scored with this one's
        shutil.rmtree(workspace.entry(name), ignore_errors=True)


def find_models(spark: SparkSession, config: PipelineConfig, workspace: Workspace) -> list[ModelSource]:
    """The trained models in the configuration's order, each loaded once to be refused here and not in a Spark task."""
    vocabularies = collect_summaries(read_table(spark, workspace, VOCABULARIES))
    sources = [
        ModelSource(name, workspace.model(name).resolve(), vocabularies[name].fingerprint)
        for name in config.behaviours
        if name in vocabularies and workspace.model(name).is_dir()
    ]
    if not sources:
        raise ModelError(f"no model in {workspace.model('').resolve()}; run train first")
    for source in sources:
        source.load()
    return sources


def write_entries(
    spark: SparkSession, config: PipelineConfig, workspace: Workspace, names: list[str], n_clients: int
) -> None:
    """Stream the table of vectors once into all entries."""
    hidden_size = config.model.hidden_size
    widths = {name: hidden_size for name in names}
    widths[ENSEMBLE] = profile_width(len(names), hidden_size, config.ensemble)
    files = snapshot_files(read_table(spark, workspace, EMBEDDINGS))
    with contextlib.ExitStack() as stack:
        writers = {
            name: stack.enter_context(EntryWriter(workspace.entry(name), n_clients, width))
            for name, width in widths.items()
        }
        for batch in stream_batches(files, [POSITION, CLIENT_ID, EMBEDDING, PRESENT]):
            positions, client_ids = batch.column(POSITION).to_numpy(), batch.column(CLIENT_ID).to_numpy()
            vectors = np.split(rectangle(batch.column(EMBEDDING), np.dtype(np.float32)), len(names), axis=1)
            is_present = presence_matrix(batch.column(PRESENT), names)
            for name, block in zip(names, vectors, strict=True):
                writers[name].write(positions, client_ids, block)
            blocks = {
                name: (np.flatnonzero(has_it), block[has_it])
                for name, block, has_it in zip(names, vectors, is_present.T, strict=True)
            }
            profiles = compose_profiles(blocks, len(positions), config.ensemble)
            writers[ENSEMBLE].write(positions, client_ids, profiles)
    for name, width in widths.items():
        log.info("  entry %s: %s clients x %d", name, f"{n_clients:,}", width)


def presence_matrix(present: pa.ListArray, names: list[str]) -> NDArray[np.bool_]:
    """Whether each row's list holds each name, bool [rows, names]."""
    is_present = np.zeros((len(present), len(names)), np.bool_)
    columns = pc.index_in(present.flatten(), pa.array(names)).to_numpy()
    is_present[pc.list_parent_indices(present).to_numpy(), columns] = True
    return is_present


if __name__ == "__main__":
    sys.exit(main_stage("embed"))
