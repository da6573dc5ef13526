"""interactions: what a network of crosses makes of each client's counters, as the block ``interactions``.

Reads the typed events, ``product_properties``, ``windows`` and ``clients``; writes its rows of ``blocks`` and
``block_columns``.
"""

import logging
from collections.abc import Mapping
from contextlib import ExitStack
from datetime import datetime
from functools import reduce

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from conf.pipeline import PipelineConfig
from jobs.blocks.counters import Shop, known_counters
from jobs.blocks.interactions import client_vectors, earlier_cutoffs, training_rows, write_rows
from jobs.blocks.table import Block, remove_block, write_block
from jobs.evaluation.labels import collect_top_labels, count_values
from jobs.runtime.rank_launcher import count_ranks, run_ranks
from jobs.storage.delta_tables import list_files, read_ingested, read_table
from jobs.storage.locations import file_url
from jobs.storage.stored_rows import timestamp_literal
from jobs.storage.workspace import Workspace
from jobs.transforms.purchases import purchases_with_properties
from jobs.transforms.windows import events_before, read_windows
from ml.data.counter_rows import RowLayout
from ml.data.sharding import FeedFile
from ml.training.interactions import InteractionJob, train_interactions
from schemas import columns as c
from schemas.behaviours import PRODUCT_BUY
from schemas.blocks import INTERACTIONS
from schemas.tables import CLIENTS, PRODUCT_PROPERTIES
from schemas.tasks import PROPENSITY

log = logging.getLogger(__name__)

HEADS = ("propensity_category", "propensity_sku")
"""The tasks whose labels the network learns, beside churn."""


def run(spark: SparkSession, config: PipelineConfig, workspace: Workspace) -> None:
    """Write the block, where ``ensemble.blocks`` asks for it and there is enough to train on."""
    if INTERACTIONS not in config.ensemble.named_blocks:
        log.info("  %s: left out: ensemble.blocks does not name it", INTERACTIONS)
        return
    count_ranks(spark, config.training)  # refuses more than this machine has cores for, before anything is made
    cutoff = read_windows(spark, workspace).input_end
    events = {name: read_ingested(spark, workspace, table) for name, table in config.events_tables().items()}
    clients, products = read_table(spark, workspace, CLIENTS), read_ingested(spark, workspace, PRODUCT_PROPERTIES)
    shop = Shop(events, products, clients, config.behaviours)
    with workspace.spark_folder(".interactions") as url:
        job = None
        if cutoffs := find_cutoffs(events, cutoff, config):
            with ExitStack() as cached:  # nothing is kept in the executors' memory while the ranks train beside them
                # clusters of names as of the earliest cutoff: the same at each, and none has seen what came later
                shop = shop.with_names_before(min(cutoffs.values()), cached)
                job = prepare_training(shop, cutoffs, cutoff, config, f"{url}/rows", cached)
        if not job:
            remove_block(spark, INTERACTIONS, cutoff, workspace)
            return
        notes = workspace.notes_of_ranks(workspace.out / ".interactions")
        ranks_log = workspace.logs / "interactions.log"
        losses, network = run_ranks(spark, config.training, train_interactions, (job,), notes, ranks_log, INTERACTIONS)
        n_rows = sum(file.n_rows for file in job.files)
        log.info("  %s: %d training rows, loss %.4f to %.4f", INTERACTIONS, n_rows, losses[0], losses[-1])
        dates = ", ".join(f"{each:%Y-%m-%d}" for each in cutoffs.values())
        width, made_from = sum(config.interactions.ranks), f"crosses of counters, trained on {n_rows} rows at {dates}"
        block = Block.numbered(INTERACTIONS, width, made_from)
        with ExitStack() as cached:
            vectors = client_vectors(shop, cutoff, network, config.interactions, cached)
            write_block(block, vectors, clients, cutoff, workspace)


def find_cutoffs(events: Mapping[str, DataFrame], cutoff: datetime, config: PipelineConfig) -> dict[int, datetime]:
    """Days before the cutoff -> the earlier cutoffs that training rows stand at, with a line for each other one."""
    if PRODUCT_BUY not in events:
        log.info("  %s: left out: the configuration has no behaviour %s", INTERACTIONS, PRODUCT_BUY)
        return {}
    times = reduce(DataFrame.unionAll, (frame.select(c.TIMESTAMP) for frame in events.values()))
    first = times.agg(F.min(c.TIMESTAMP)).collect()[0][0]
    asked = [number * config.windows.target_days for number in config.interactions.windows_before]
    cutoffs = earlier_cutoffs(cutoff, first, asked) if first else {}
    for days in (days for days in asked if days not in cutoffs):
        log.info("  %s: no training rows of %d days before %s: no event is so early", INTERACTIONS, days, cutoff)
    if not cutoffs:
        windows = list(config.interactions.windows_before)
        log.info("  %s: left out: no event before any of interactions.windows_before=%s", INTERACTIONS, windows)
    return cutoffs


def prepare_training(
    shop: Shop,
    cutoffs: Mapping[int, datetime],
    cutoff: datetime,
    config: PipelineConfig,
    url: str,
    cached: ExitStack,
) -> InteractionJob | None:
    """Write the training rows into the folder of ``url``; None, with a line, where too few clients buy."""
    settings, label_days, spark = config.interactions, config.windows.target_days, shop.clients.sparkSession
    asked = collect_labels(shop, min(cutoffs.values()), cutoff)
    numbered = [(name, own) for name, ids in asked.items() for own in ids]
    label_ids = spark.createDataFrame(
        [(name, own, number) for number, (name, own) in enumerate(numbered)],
        f"{c.COLUMN} string, {c.ID} bigint, label int",
    )
    rows = training_rows(shop, cutoffs, label_ids, label_days, settings, config.seed, cached)
    n_clients = min(settings.max_clients, shop.clients.count())
    written = write_rows(rows, n_clients * len(cutoffs), url)
    n_buyers = written.filter(F.col(c.LABELS).isNotNull()).count()
    if n_buyers < settings.min_buyers:
        log.info(
            "  %s: left out: %d times a client bought in the %d days after an earlier cutoff, fewer than "
            "interactions.min_buyers=%d", INTERACTIONS, n_buyers, label_days, settings.min_buyers,
        )  # fmt: skip
        return None
    # churn's head is the first, and has one label
    layout = RowLayout(settings.n_views, len(known_counters(shop.behaviours)), (1, *map(len, asked.values())))
    # the width is that of sequences: rows of counters have none
    files = tuple(FeedFile(file_url(file.url), file.n_rows, width=1) for file in list_files(written, ()))
    return InteractionJob(settings, files, layout, config.feed.reader, config.training.device, config.seed)


def collect_labels(shop: Shop, start: datetime, end: datetime) -> dict[str, list[int]]:
    """Column of the products -> its values that are bought most from one time to another, as the probe counts them.

    A column without a purchase is absent.
    """
    bought = events_before(shop.events[PRODUCT_BUY], end).filter(F.col(c.TIMESTAMP) >= timestamp_literal(start))
    purchases = purchases_with_properties(bought, shop.products)
    # without earlier purchases: those tell new skus apart, which no head asks for
    top = collect_top_labels(count_values(purchases, purchases.limit(0)))
    return {PROPENSITY[task]: [own for own, _ in top[task]] for task in HEADS if task in top}


if __name__ == "__main__":
    from jobs.cli import main_stage

    main_stage("interactions")
