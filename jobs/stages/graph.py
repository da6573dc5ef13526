"""graph: vectors of clients in the graph of who bought and added which sku, as the block ``graph``.

Reads the typed events, ``windows`` and ``clients``; writes ``edges``, and its rows of ``blocks`` and ``block_columns``.
"""

import logging
from contextlib import ExitStack

from pyspark.sql import SparkSession

from conf.pipeline import PipelineConfig
from jobs.blocks.graph import RELATIONS, link_clients, number_edges, plan_job, train_share
from jobs.blocks.table import Block, remove_block, write_block
from jobs.runtime.rank_launcher import count_ranks, run_ranks
from jobs.storage.delta_tables import list_files, read_as_files, read_ingested, read_table, write_table
from jobs.storage.locations import plain_location
from jobs.storage.workspace import Workspace
from jobs.transforms.windows import collect_windows
from schemas.blocks import GRAPH
from schemas.columns import CLIENT_ID, SKU, VECTOR
from schemas.tables import CLIENTS, EDGES, WINDOWS

log = logging.getLogger(__name__)


def run(spark: SparkSession, config: PipelineConfig, workspace: Workspace) -> None:
    """Write the block if ``ensemble.blocks`` asks for it; clients without an edge are not present."""
    if GRAPH not in config.ensemble.named_blocks:
        log.info("  %s: left out: ensemble.blocks does not name it", GRAPH)
        return
    n_ranks = count_ranks(spark, config.training)
    cutoff = collect_windows(read_table(spark, workspace, WINDOWS)).input_end
    clients = read_table(spark, workspace, CLIENTS)
    related = [name for name in RELATIONS if name in config.behaviours and config.behaviours[name].item == SKU]
    for name in RELATIONS:
        if name not in related:
            log.info("  %s: no edges of %s: the configuration has no such behaviour of skus", GRAPH, name)
    events = {name: read_ingested(spark, workspace, config.events_table(name)) for name in related}
    with ExitStack() as cached:
        edges = link_clients(spark, events, cutoff)
        numbered = number_edges(edges, clients, config.graph, n_ranks, cached)
        n_edges = write_table(numbered, workspace, EDGES).n_rows
    found = f"{n_edges:,} edges of a client and a sku in {', '.join(related)} before {cutoff}"
    if n_edges < config.graph.dimensions:
        log.info("  %s: left out: %s, fewer than graph.dimensions=%d", GRAPH, found, config.graph.dimensions)
        remove_block(spark, GRAPH, cutoff, workspace)
        return
    with workspace.spark_folder(".graph") as url:
        snapshot = read_as_files(spark, workspace, EDGES)
        files = list_files(snapshot, EDGES.partition_by)
        job = plan_job(snapshot, files, config.graph, config.training, config.feed, f"{plain_location(url)}/vectors")
        notes = workspace.notes_of_ranks(workspace.out / ".graph")
        losses = run_ranks(spark, config.training, train_share, (job,), notes, workspace.logs / "graph.log", GRAPH)
        log.info("  %s: %s, mean loss %.4f in epoch 1, %.4f in the last", GRAPH, found, losses[0], losses[-1])
        vectors = spark.read.schema(f"{CLIENT_ID} bigint, {VECTOR} array<float>").parquet(f"{url}/vectors")
        block = Block.numbered(GRAPH, config.graph.dimensions, f"TwHIN of {found}")
        write_block(block, vectors, clients, cutoff, workspace)


if __name__ == "__main__":
    from jobs.cli import main_stage

    main_stage("graph")
