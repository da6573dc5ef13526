"""Events -> what a network of crosses makes of each client's counters, and the rows that it is trained on.

A training row stands at an earlier cutoff: its counters look at the events before it, its labels at the purchases of
the days after it, and these end before the cutoff of the profile.
"""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from datetime import datetime, timedelta
from functools import reduce
from math import ceil

import pyarrow as pa
import torch
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from conf.interactions import InteractionSettings
from jobs.blocks.counters import Shop, known_counters
from jobs.blocks.table import VECTORS_DDL, vector_rows
from jobs.runtime.caching import cache_rows
from jobs.runtime.devices import release_device, task_device
from jobs.storage.stored_rows import timestamp_literal
from jobs.transforms.purchases import purchases_with_properties
from jobs.transforms.windows import events_before
from ml.data.counter_rows import NUMBERS, unpack_numbers
from ml.training.interactions import load_network
from ml.training.step import mix_seed
from schemas import columns as c
from schemas.behaviours import PRODUCT_BUY

ROWS_PER_FILE = 20_000
"""Training rows in a file, which one task of Spark sorts: 37 MB at 465 counters, three times that with views."""
ROW_GROUP_BYTES = 16 * 2**20
"""What a rank reads at once. It draws the order of row groups anew in each epoch: a file has several."""
ROWS_PER_PASS = 1024
"""Clients whose vectors are computed at once."""
DAYS_BEFORE = "days_before"

Batches = Iterable[pa.RecordBatch]


def earlier_cutoffs(cutoff: datetime, first_event: datetime, days_before: Sequence[int]) -> dict[int, datetime]:
    """Days before the profile's cutoff -> the earlier cutoff, of those after the first event."""
    cutoffs = {days: cutoff - timedelta(days=days) for days in sorted(days_before)}
    return {days: each for days, each in cutoffs.items() if each > first_event}


def training_rows(
    shop: Shop,
    cutoffs: Mapping[int, datetime],
    label_ids: DataFrame,
    label_days: int,
    settings: InteractionSettings,
    seed: int,
    cached: ExitStack,
) -> DataFrame:
    """One row per chosen client and earlier cutoff that it has events before.

    Its columns are ``client_id``, ``days_before``, ``numbers``, ``is_active`` and ``labels``. The numbers are by all
    events, then by two parts of them if ``view_weight`` asks for these. A client is active if it has bought before the
    cutoff. Labels, array<int>, are what it buys after it, null where it buys nothing.

    Parameters
    ----------
    cutoffs : days before the profile's cutoff -> the earlier cutoff
    label_ids : ``column``, ``id``, ``label``: which categories and skus are asked for, and their numbers
    label_days : how long after a cutoff purchases are labels
    """
    # by a hash: whom it takes depends on the ids alone, and shows no order of them
    chosen = cache_rows(
        shop.clients.select(c.CLIENT_ID).orderBy(F.xxhash64(c.CLIENT_ID), c.CLIENT_ID).limit(settings.max_clients),
        cached,
    )
    purchases = shop.events[PRODUCT_BUY].join(chosen, on=c.CLIENT_ID, how="left_semi")
    bought = cache_rows(purchases_with_properties(purchases, shop.products), cached)
    parts = []
    for days, cutoff in cutoffs.items():
        seeds = [mix_seed(seed, days, view) for view in range(1, settings.n_views)]
        counted = shop.count(chosen, cutoff, cached, settings.mask_share, seeds)
        active = events_before(bought, cutoff).select(c.CLIENT_ID, F.lit(True).alias(c.IS_ACTIVE)).distinct()
        labels = labels_after(bought, label_ids, cutoff, label_days)
        rows = counted.join(active, on=c.CLIENT_ID, how="left").join(labels, on=c.CLIENT_ID, how="left")
        is_active = F.coalesce(c.IS_ACTIVE, F.lit(False)).alias(c.IS_ACTIVE)
        parts.append(rows.select(c.CLIENT_ID, F.lit(days).alias(DAYS_BEFORE), NUMBERS, is_active, c.LABELS))
    return reduce(DataFrame.unionAll, parts)


def labels_after(bought: DataFrame, label_ids: DataFrame, cutoff: datetime, n_days: int) -> DataFrame:
    """One row per client that buys in the days after a cutoff: ``client_id``, ``labels`` rising, maybe none.

    Parameters
    ----------
    bought : one row per purchase, with ``sku`` and ``category``
    """
    start, end = timestamp_literal(cutoff), timestamp_literal(cutoff + timedelta(days=n_days))
    moment = F.col(c.TIMESTAMP)
    ids = [F.struct(F.lit(name).alias(c.COLUMN), F.col(name).alias(c.ID)) for name in (c.CATEGORY, c.SKU)]
    values = bought.filter((moment >= start) & (moment < end)).select(c.CLIENT_ID, F.explode(F.array(*ids)).alias("of"))
    # labels are at most a few hundred rows: purchases need not move for this join. Left: a client that buys other
    # things has a row too, without labels, for it does buy
    known = values.select(c.CLIENT_ID, "of.*").join(F.broadcast(label_ids), on=[c.COLUMN, c.ID], how="left")
    return known.groupBy(c.CLIENT_ID).agg(F.array_sort(F.collect_set("label")).alias(c.LABELS))


def write_rows(rows: DataFrame, n_most: int, url: str) -> DataFrame:
    """The training rows as Parquet files, in an order that says nothing, and the same whatever partitions they had.

    Parameters
    ----------
    n_most : rows that there may be
    url : of a folder
    """
    order = [F.xxhash64(c.CLIENT_ID, DAYS_BEFORE), F.col(c.CLIENT_ID), F.col(DAYS_BEFORE)]
    # by a bound: to count the rows would compute all counters once more
    parted = rows.repartition(max(1, ceil(n_most / ROWS_PER_FILE)), order[0]).sortWithinPartitions(*order)
    parted.write.mode("overwrite").option("parquet.block.size", ROW_GROUP_BYTES).parquet(url)
    return rows.sparkSession.read.parquet(url)


def client_vectors(
    shop: Shop, cutoff: datetime, network: bytes, settings: InteractionSettings, cached: ExitStack
) -> DataFrame:
    """One row per client with an event before the cutoff: ``client_id``, ``vector``.

    Parameters
    ----------
    network : as ``train_interactions`` returns it; Spark broadcasts it with the function
    """
    n_counters = len(known_counters(shop.behaviours))

    def make(batches: Batches) -> Batches:
        torch.set_num_threads(1)  # one Spark task, one core
        device = task_device()
        model: torch.nn.Module | None = None
        try:
            model = load_network(network, settings).to(device)
            for batch in batches:
                # a copy: Arrow's memory must not be written to, and torch has no such tensors
                numbers = torch.tensor(unpack_numbers(batch.column(NUMBERS), n_counters))
                with torch.inference_mode():
                    made = [model(part.to(device)).cpu() for part in numbers.split(ROWS_PER_PASS)]
                # with an empty one, for a batch without rows: torch.cat takes no empty list
                vectors = torch.cat([torch.empty(0, sum(settings.ranks)), *made]).numpy()
                yield vector_rows(batch.column(c.CLIENT_ID), vectors)
        finally:
            del model  # a GPU frees only what nobody holds
            release_device()

    return shop.count(shop.clients, cutoff, cached).mapInArrow(make, VECTORS_DDL)
