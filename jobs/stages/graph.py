"""graph: vectors of clients in the graph of who bought and added which sku, as the block ``graph``.

Reads the typed events, ``windows`` and ``clients``, for ``graph.item_encoder`` also its model and ``vocabularies``;
writes ``edges``, and its rows of ``blocks`` and ``block_columns``.
"""

import logging
from contextlib import ExitStack

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from conf.pipeline import PipelineConfig
from jobs.blocks.graph import (
    RELATIONS,
    GraphJob,
    ItemFiles,
    item_vectors,
    link_clients,
    number_edges,
    tokens_of_skus,
    train_share,
)
from jobs.blocks.table import VECTORS_DDL, Block, remove_block, write_block
from jobs.blocks.vectors import find_models
from jobs.runtime.rank_launcher import count_ranks, run_ranks
from jobs.storage.delta_tables import list_files, read_as_files, read_ingested, read_table, write_table
from jobs.storage.locations import file_url, plain_location
from jobs.storage.workspace import Workspace
from jobs.transforms.windows import read_windows
from schemas.blocks import GRAPH
from schemas.columns import BEHAVIOUR, PART, SKU, TARGET_NUMBER
from schemas.tables import CLIENTS, EDGES, VOCABULARIES

log = logging.getLogger(__name__)


def run(spark: SparkSession, config: PipelineConfig, workspace: Workspace) -> None:
    """Write the block if ``ensemble.blocks`` asks for it; clients without an edge are not present."""
    if GRAPH not in config.ensemble.named_blocks:
        log.info("  %s: left out: ensemble.blocks does not name it", GRAPH)
        return
    n_ranks = count_ranks(spark, config.training)
    cutoff = read_windows(spark, workspace).input_end
    clients = read_table(spark, workspace, CLIENTS)
    related = [name for name in RELATIONS if name in config.behaviours and config.behaviours[name].item == SKU]
    for name in RELATIONS:
        if name not in related:
            log.info("  %s: no edges of %s: the configuration has no such behaviour of skus", GRAPH, name)
    events = {name: read_ingested(spark, workspace, config.events_table(name)) for name in related}
    with workspace.spark_folder(".graph") as url:
        # what is cached serves these two writes, and is released before the ranks start
        with ExitStack() as cached:
            edges = link_clients(spark, events, cutoff)
            numbered, items = number_edges(edges, clients, config.graph, n_ranks, cached)
            n_edges = write_table(numbered, workspace, EDGES).n_rows
            found = f"{n_edges:,} edges of a client and a sku in {', '.join(related)} before {cutoff}"
            if n_edges < config.graph.dimensions:
                log.info("  %s: left out: %s, fewer than graph.dimensions=%d", GRAPH, found, config.graph.dimensions)
                remove_block(spark, GRAPH, cutoff, workspace)
                return
            given = write_item_vectors(spark, config, workspace, items, f"{url}/items")
        snapshot = read_as_files(spark, workspace, EDGES)
        listed = list_files(snapshot, EDGES.partition_by)
        files = tuple((file_url(file.url), int(str(file.partition[PART])), file.n_rows) for file in listed)
        # by the highest target: items are numbered over all edges, and some have none of those that are kept
        n_items = snapshot.agg(F.max(TARGET_NUMBER)).collect()[0][0] // len(RELATIONS) + 1
        folder = f"{plain_location(url)}/vectors"
        job = GraphJob(files, n_items, given, config.graph, config.feed.reader, config.training.device, folder)
        notes = workspace.notes_of_ranks(workspace.out / ".graph")
        losses = run_ranks(spark, config.training, train_share, (job,), notes, workspace.logs / "graph.log", GRAPH)
        log.info("  %s: %s, mean loss %.4f in epoch 1, %.4f in the last", GRAPH, found, losses[0], losses[-1])
        vectors = spark.read.schema(VECTORS_DDL).parquet(f"{url}/vectors")
        of_items = f", skus by the vectors of {config.graph.item_encoder}" if given else ""
        block = Block.numbered(GRAPH, config.graph.dimensions, f"TwHIN of {found}{of_items}")
        write_block(block, vectors, clients, cutoff, workspace)


def write_item_vectors(
    spark: SparkSession, config: PipelineConfig, workspace: Workspace, items: DataFrame, url: str
) -> ItemFiles | None:
    """What ``graph.item_encoder`` knows of the skus, as Parquet files; None, where there is none, or no model of it."""
    name = config.graph.item_encoder
    if name is None:
        return None
    if not workspace.model(name).is_dir():
        log.info("  %s: skus have learnt vectors: there is no model of graph.item_encoder=%s", GRAPH, name)
        return None
    (source,) = find_models(spark, config, workspace, [name])
    width = source.load().hidden_size  # here, so that a damaged model is refused before Spark's tasks begin
    vocabulary = read_table(spark, workspace, VOCABULARIES).filter(F.col(BEHAVIOUR) == config.stream(name))
    tokens = tokens_of_skus(vocabulary, config.encoders[name].is_merged)
    item_vectors(items, tokens, source).write.parquet(url)
    files = list_files(spark.read.parquet(url), ())
    n_known, n_items = sum(file.n_rows for file in files), items.count()
    if not n_known:
        log.info("  %s: skus have learnt vectors: graph.item_encoder=%s knows none of %d", GRAPH, name, n_items)
        return None
    log.info("  %s: %d of %d skus have vectors of %s, the others zeros", GRAPH, n_known, n_items, name)
    return ItemFiles(tuple(file_url(file.url) for file in files), width)


if __name__ == "__main__":
    from jobs.cli import main_stage

    main_stage("graph")
