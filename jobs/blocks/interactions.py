"""Events -> what a network of crosses makes of each client's counters, and the rows that it is trained on.

A training row stands at an earlier cutoff: its counters look at the events before it, its labels at the purchases of
the days after it, and these end before the cutoff of the profile.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import reduce

import pyarrow as pa
import torch
from pyspark.ml.clustering import KMeansModel
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from conf.inputs import BehaviourSettings
from conf.interactions import InteractionSettings
from jobs.blocks.counters import count_events, describe_items, fit_clusters, known_counters, with_clusters
from jobs.blocks.table import Block, vector_lists
from jobs.runtime.caching import cache_rows
from jobs.runtime.devices import release_device, task_device
from jobs.storage.stored_rows import timestamp_literal
from jobs.transforms.windows import events_before
from ml.data.counter_rows import NUMBERS, unpack_numbers
from ml.training.interactions import load_network
from ml.training.step import mix_seed
from schemas import columns as c
from schemas.behaviours import PRODUCT_BUY
from schemas.blocks import INTERACTIONS

N_VIEWS = 3
"""All events of a client, and two parts of them."""
ROWS_PER_FILE = 20_000
ROW_GROUP_BYTES = 16 * 2**20
ROWS_PER_PASS = 1024
"""Clients whose vectors are computed at once."""
DAYS_BEFORE = "days_before"

Batches = Iterable[pa.RecordBatch]


@dataclass(frozen=True)
class Shop:
    """What counters and labels are computed from, at any cutoff.

    Attributes
    ----------
    events : behaviour -> one row per event of any client, with its item
    products : product_properties
    clients : the clients table
    clusters : of names, None where there is none; fitted once, so that a cluster is the same at each cutoff
    """

    events: Mapping[str, DataFrame]
    products: DataFrame
    clients: DataFrame
    behaviours: Mapping[str, BehaviourSettings]
    clusters: KMeansModel | None = None

    def with_names_before(self, cutoff: datetime, cached: ExitStack) -> "Shop":
        """The same with clusters of the names of what had an event before a time."""
        items = cache_rows(self._items(self._before(cutoff)), cached)
        clusters = None if items.filter(F.col(c.NAME).isNotNull()).isEmpty() else fit_clusters(items)
        return replace(self, clusters=clusters)

    def count(
        self,
        clients: DataFrame,
        cutoff: datetime,
        cached: ExitStack,
        mask_share: float = 0.0,
        mask_seeds: Sequence[int] = (),
    ) -> DataFrame:
        """``count_events`` of some clients."""
        early = self._before(cutoff)
        items = cache_rows(with_clusters(self._items(early), self.clusters), cached)
        return count_events(early, items, clients, cutoff, self.behaviours, mask_share, mask_seeds)

    def _before(self, cutoff: datetime) -> dict[str, DataFrame]:
        return {name: events_before(frame, cutoff) for name, frame in self.events.items()}

    def _items(self, early: Mapping[str, DataFrame]) -> DataFrame:
        return describe_items(early, self.products, self.behaviours)


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

    Its columns: ``client_id``, ``days_before``, ``numbers`` (by all events, then by two parts of them), ``is_active``
    (it has bought before the cutoff), ``labels`` (array<int>, what it buys after it, null where it buys nothing).

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
    properties = shop.products.select(c.SKU, c.CATEGORY)
    purchases = shop.events[PRODUCT_BUY].join(chosen, on=c.CLIENT_ID, how="left_semi")
    bought = cache_rows(purchases.join(properties, on=c.SKU, how="left"), cached)
    parts = []
    for days, cutoff in cutoffs.items():
        seeds = [mix_seed(seed, days, view) for view in range(1, N_VIEWS)]
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
    # labels are at most a few hundred rows: purchases need not move for this join
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
    parted = rows.repartition(max(1, -(-n_most // ROWS_PER_FILE)), order[0]).sortWithinPartitions(*order)
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
    counted = shop.count(shop.clients, cutoff, cached)
    n_counters = len(known_counters(shop.behaviours))
    return counted.mapInArrow(
        _make_vectors(network, settings, n_counters), f"{c.CLIENT_ID} bigint, {c.VECTOR} array<float>"
    )


def describe_block(settings: InteractionSettings, made_from: str) -> Block:
    """The block's columns, one per rank of a cross."""
    return Block(INTERACTIONS, tuple(f"{INTERACTIONS}/{number}" for number in range(sum(settings.ranks))), made_from)


def _make_vectors(trained: bytes, settings: InteractionSettings, n_counters: int) -> Callable[[Batches], Batches]:
    def make(batches: Batches) -> Batches:
        torch.set_num_threads(1)  # one Spark task, one core
        device = task_device()
        try:
            network = load_network(trained, settings).to(device)
            for batch in batches:
                # a copy: Arrow's memory must not be written to, and torch has no such tensors
                numbers = torch.tensor(unpack_numbers(batch.column(NUMBERS), n_counters))
                with torch.inference_mode():
                    made = [network(part.to(device)).cpu() for part in numbers.split(ROWS_PER_PASS)]
                # with an empty one, for a batch without rows: torch.cat takes no empty list
                vectors = torch.cat([torch.empty(0, sum(settings.ranks)), *made]).numpy()
                yield pa.RecordBatch.from_arrays(
                    [batch.column(c.CLIENT_ID), vector_lists(vectors)], names=[c.CLIENT_ID, c.VECTOR]
                )
        finally:
            release_device()

    return make
