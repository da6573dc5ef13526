"""Events -> what each client did, how often, when, at what prices: the columns of ``jobs/blocks/counter_table.py``.

One shuffle brings each client's events together, with the few attributes that counters need. What follows is arithmetic
in numpy over the events of a bucket of clients.
"""

import logging
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import datetime
from functools import reduce
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyspark.ml.clustering import KMeans, KMeansModel
from pyspark.ml.functions import array_to_vector
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from conf.inputs import BehaviourSettings
from jobs.blocks.counter_aggregates import N_CLUSTERS
from jobs.blocks.counter_table import Counter, list_counters
from jobs.blocks.table import VECTORS_DDL, Block, vector_rows
from jobs.runtime.caching import cache_rows
from jobs.transforms.client_log import (
    CATEGORY_POPULARITY,
    CATEGORY_PRICE,
    CLUSTER,
    ITEM,
    LOG_DDL,
    POPULARITY,
    build_log,
    keep_last_events,
    split_by_clients,
)
from jobs.transforms.clients import rows_of_clients
from jobs.transforms.packed import aggregate_packed
from jobs.transforms.vocabulary import count_items
from jobs.transforms.windows import events_before
from ml.data.counter_rows import NUMBERS, unpack_numbers
from schemas import columns as c
from schemas.behaviours import ItemKind
from schemas.blocks import COUNTERS
from schemas.errors import InputError

EVENTS_AT_ONCE = 200_000
"""Events whose counters are computed together: the parts of a log that counters share take some 650 bytes of each."""
NAMES_FITTED = 20_000
"""Names that the clusters are fitted to, chosen by a hash of the sku."""
CLUSTERS_SEED = 2025
ROWS_ADDED_AT_ONCE = 8192
"""Clients whose numbers are added up together: 30 MB of float64."""
CLIP = 10.0
"""Standard deviations."""
NAMES_SHOWN = 3

Batches = Iterable[pa.RecordBatch]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Scaling:
    """What is known of each column over the clients with events, float64 [columns]; NaN where none has a number.

    Attributes
    ----------
    n_clients : with events
    """

    n_clients: int
    mean: NDArray[np.float64]
    deviation: NDArray[np.float64]
    lowest: NDArray[np.float64]
    highest: NDArray[np.float64]

    @property
    def varies(self) -> NDArray[np.bool_]:
        """Whether a column differs between clients, by more than float32 rounds."""
        largest = np.maximum(np.abs(self.lowest), np.abs(self.highest))
        return self.highest - self.lowest > 2 * np.finfo(np.float32).eps * largest

    def apply(self, numbers: NDArray[np.float32], is_kept: NDArray[np.bool_]) -> NDArray[np.float32]:
        """Float32 [C, columns kept], standardised and clipped; 0, the mean, for a number that is missing."""
        standard = (numbers - self.mean)[:, is_kept] / self.deviation[is_kept]
        return np.nan_to_num(np.clip(standard, -CLIP, CLIP)).astype(np.float32)


@dataclass(frozen=True)
class Shop:
    """What counters and labels are computed from, at any cutoff.

    Attributes
    ----------
    events : behaviour -> one row per event of any client, with its item
    products : product_properties; prices, categories, names
    clients : the clients table, whose events are counted
    clusters : of names, None where there is none; fitted once, so that a cluster is the same at each cutoff
    """

    events: Mapping[str, DataFrame]
    products: DataFrame
    clients: DataFrame
    behaviours: Mapping[str, BehaviourSettings]
    clusters: KMeansModel | None = None

    def before(self, cutoff: datetime) -> dict[str, DataFrame]:
        """The events before a time."""
        return {name: events_before(frame, cutoff) for name, frame in self.events.items()}

    def with_names_before(self, cutoff: datetime, cached: ExitStack) -> "Shop":
        """The same with clusters of the names of what had an event before a time."""
        items = describe_items(self.before(cutoff), self.products, self.behaviours)
        return replace(self, clusters=fit_clusters(cache_rows(items, cached)))

    def count(
        self,
        clients: DataFrame,
        cutoff: datetime,
        cached: ExitStack,
        mask_share: float = 0.0,
        mask_seeds: Sequence[int] = (),
    ) -> DataFrame:
        """``count_events`` of some clients."""
        early = self.before(cutoff)
        items = with_clusters(describe_items(early, self.products, self.behaviours), self.clusters)
        return count_events(early, cache_rows(items, cached), clients, cutoff, self.behaviours, mask_share, mask_seeds)


def collect_counters(shop: Shop, cutoff: datetime, cached: ExitStack) -> tuple[Block, DataFrame]:
    """The block ``counters``, and one row per client with an event before the cutoff: ``client_id``, ``vector``.

    Columns that are the same for all clients are left out, with a line that says why.

    Parameters
    ----------
    shop : its clusters are ignored; new ones are fitted to the names before the cutoff
    cached : keeps the products and the clients' numbers cached; close it after the write

    Raises
    ------
    InputError
        If none of the clients has an event before the cutoff.
    """
    early, behaviours = shop.before(cutoff), shop.behaviours
    items = cache_rows(describe_items(early, shop.products, behaviours), cached)
    n_known = items.agg(*(F.count(name).alias(name) for name in (c.CATEGORY, c.PRICE, c.NAME))).collect()[0].asDict()
    items = cache_rows(with_clusters(items, fit_clusters(items)), cached)
    asked = list(list_counters(behaviours))
    counters = known_counters(behaviours)
    counted = cache_rows(count_events(early, items, shop.clients, cutoff, behaviours), cached)
    scaling = collect_scaling(counted, len(counters))
    if not scaling.n_clients:
        raise InputError(
            f"{COUNTERS}: expected events of the relevant clients before {cutoff} in one of {sorted(early)}, found "
            "none; do input/relevant_clients.npy and the events belong together?"
        )
    highest = dict(zip((counter.name for counter in counters), scaling.highest, strict=True))
    silent = [name for name in behaviours if highest[f"{name}/all/events"] == 0]
    has_events = np.array([set(counter.behaviours).isdisjoint(silent) for counter in counters])
    is_kept = scaling.varies & has_events
    columns = tuple(counter.name for counter, kept in zip(counters, is_kept, strict=True) if kept)
    unknown = [name for counter in asked for name in counter.behaviours if name not in behaviours]
    lacking = [name for name, n in n_known.items() if not n]
    _log_left_out([one for one in asked if one.name not in columns], unknown, silent, lacking)

    def scale(batches: Batches) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            vectors = scaling.apply(unpack_numbers(batch.column(NUMBERS), len(scaling.mean)), is_kept)
            yield vector_rows(batch.column(c.CLIENT_ID), vectors)

    block = Block(COUNTERS, columns, f"counters of {', '.join(early)}")
    return block, counted.mapInArrow(scale, VECTORS_DDL)


def describe_items(
    early: Mapping[str, DataFrame], products: DataFrame, behaviours: Mapping[str, BehaviourSettings]
) -> DataFrame:
    """One row per sku with an event: ``sku``, its properties, and how popular and dear it and its category are.

    Parameters
    ----------
    early : the events before the cutoff
    """
    of_skus = [frame.select(c.SKU) for name, frame in early.items() if behaviours[name].item == c.SKU]
    skus = reduce(DataFrame.unionAll, of_skus) if of_skus else products.select(c.SKU).limit(0)
    popularity = count_items(skus, c.SKU, 1).select(c.SKU, F.col("n_events").cast("double").alias(POPULARITY))
    known = popularity.join(products, on=c.SKU, how="left").withColumn(c.PRICE, F.col(c.PRICE).cast("double"))
    categories = known.groupBy(c.CATEGORY).agg(
        F.sum(POPULARITY).alias(CATEGORY_POPULARITY), F.avg(c.PRICE).alias(CATEGORY_PRICE)
    )
    return known.join(categories, on=c.CATEGORY, how="left")


def fit_clusters(items: DataFrame) -> KMeansModel | None:
    """K-means on the 16 codes of the items' names; None where none has one.

    The names are a sample in a stated order and one partition, so that the clusters depend on the names alone.
    """
    named = _named(items)
    if named.isEmpty():
        return None
    sample = named.orderBy(F.xxhash64(c.SKU), c.SKU).limit(NAMES_FITTED).coalesce(1)
    # the solver by blocks fails where there are fewer different names than clusters
    return KMeans(k=N_CLUSTERS, seed=CLUSTERS_SEED, predictionCol=CLUSTER, solver="row").fit(sample)


def with_clusters(items: DataFrame, model: KMeansModel | None) -> DataFrame:
    """The items with ``cluster``, null where there is no name, or no model."""
    if model is None:
        return items.withColumn(CLUSTER, F.lit(None).cast("int"))
    return items.join(model.transform(_named(items)).select(c.SKU, CLUSTER), on=c.SKU, how="left")


def _named(items: DataFrame) -> DataFrame:
    codes = F.split(F.btrim(F.col(c.NAME), F.lit("[]")), " ").cast("array<double>")
    return items.filter(F.col(c.NAME).isNotNull()).select(c.SKU, array_to_vector(codes).alias("features"))


def known_counters(behaviours: Mapping[str, BehaviourSettings]) -> list[Counter]:
    """The columns whose behaviours the configuration has."""
    return [counter for counter in list_counters(behaviours) if set(counter.behaviours) <= behaviours.keys()]


def count_events(
    early: Mapping[str, DataFrame],
    items: DataFrame,
    clients: DataFrame,
    cutoff: datetime,
    behaviours: Mapping[str, BehaviourSettings],
    mask_share: float = 0.0,
    mask_seeds: Sequence[int] = (),
) -> DataFrame:
    """One row per client with an event before the cutoff: ``client_id``, ``numbers``, see ``count_clients``.

    Parameters
    ----------
    early : the events before the cutoff
    items : as ``with_clusters`` gives them
    clients : whose events are counted
    """
    rows = log_rows({name: rows_of_clients(frame, clients) for name, frame in early.items()}, items, early, behaviours)
    finish = count_clients(known_counters(behaviours), list(behaviours), cutoff, mask_share, mask_seeds)
    return aggregate_packed([(rows, None)], keep_last_events, finish, f"{c.CLIENT_ID} bigint, {NUMBERS} binary")


def log_rows(
    own: Mapping[str, DataFrame],
    items: DataFrame,
    early: Mapping[str, DataFrame],
    behaviours: Mapping[str, BehaviourSettings],
) -> DataFrame:
    """One row per event of ``own``, in the columns of ``LOG_DDL``.

    Parameters
    ----------
    early : the events of all clients, by which the popularity of ids that are no skus is counted
    """
    parts = []
    for number, (name, frame) in enumerate(own.items()):
        item = behaviours[name].item
        if item == c.SKU:
            frame = frame.join(items, on=c.SKU, how="left")
        elif behaviours[name].kind == ItemKind.ID:
            counts = count_items(early[name], item, 1).withColumnRenamed("n_events", POPULARITY)
            frame = frame.join(counts, on=item, how="left")
        # the column's name is hashed too: a sku and a url of one number are different items
        frame = frame.withColumns({c.BEHAVIOUR: F.lit(number), ITEM: F.xxhash64(F.lit(item), F.col(item))})
        wanted = [part.split() for part in LOG_DDL.split(", ")]
        columns = [F.col(column) if column in frame.columns else F.lit(None) for column, _ in wanted]
        parts.append(
            frame.select(*(at.cast(kind).alias(column) for at, (column, kind) in zip(columns, wanted, strict=True)))
        )
    return reduce(DataFrame.unionAll, parts)


def count_clients(
    counters: Sequence[Counter],
    behaviours: Sequence[str],
    cutoff: datetime,
    mask_share: float = 0.0,
    mask_seeds: Sequence[int] = (),
) -> Callable[[pa.Table], pa.Table]:
    """What makes one row per client, ``client_id`` and its ``numbers`` (float32, one per counter), of its events.

    For each of ``mask_seeds``, as many numbers follow: those of the client without a share of its events.
    """
    until = int(np.datetime64(cutoff, "us").astype(np.int64))

    def count(rows: pa.Table) -> pa.Table:
        events = build_log(rows, behaviours, until)
        logs = [events, *(events.masked(mask_share, seed) for seed in mask_seeds)]
        numbers = np.empty((events.n_clients, len(logs), len(counters)), np.float32)
        for view, own in enumerate(logs):
            for column, counter in enumerate(counters):
                numbers[:, view, column] = counter.compute(own)
        numbers[np.isnan(numbers)] = np.nan  # the sign of one may follow the order of the rows
        # bytes and not lists: between two Python tasks, the JVM need not look into them
        packed = pa.FixedSizeBinaryArray.from_buffers(
            pa.binary(len(logs) * len(counters) * numbers.itemsize), len(numbers), [None, pa.py_buffer(numbers)]
        )
        # the buffer is taken as it is, of one size for each client; Spark knows binary of any size alone
        return pa.table({c.CLIENT_ID: events.client_ids, NUMBERS: packed.cast(pa.binary())})

    def finish(rows: pa.Table) -> pa.Table:
        # once more: where a client's rows lay decides whether they came shrunk, and that must change no number
        rows = keep_last_events(rows)
        return pa.concat_tables([count(rows[:0]), *map(count, split_by_clients(rows, EVENTS_AT_ONCE))])

    return finish


def collect_scaling(counted: DataFrame, n_columns: int) -> Scaling:
    """Mean, deviation, lowest and highest number of each column, in one pass.

    Parameters
    ----------
    counted : rows of ``count_clients``
    """

    def add_up(batches: Batches) -> Iterator[pa.RecordBatch]:
        # in parts: beside the float64 numbers of each there are their squares, and which are known
        n_rows = ROWS_ADDED_AT_ONCE
        for part in (batch.slice(at, n_rows) for batch in batches for at in range(0, len(batch), n_rows)):
            numbers = unpack_numbers(part.column(NUMBERS), n_columns).astype(np.float64)
            known = np.isfinite(numbers)
            of_known: dict[str, Any] = {"where": known, "axis": 0}
            moments = np.stack([
                known.sum(axis=0), numbers.sum(**of_known), (numbers**2).sum(**of_known),
                numbers.min(initial=np.inf, **of_known), numbers.max(initial=-np.inf, **of_known),
            ])  # fmt: skip
            yield pa.RecordBatch.from_pydict({"n": [len(numbers)], "moments": [moments.tobytes()]})

    rows = counted.mapInArrow(add_up, "n bigint, moments binary").collect()
    nobody = np.zeros((5, n_columns))
    parts = np.stack([nobody, *(np.frombuffer(row["moments"]).reshape(5, n_columns) for row in rows)])
    n, total, squares = parts[:, :3].sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = total / n
        # not below 0, where rounding would bring a column that hardly varies
        deviation = np.sqrt(np.maximum(0, squares / n - mean**2))
    lowest, highest = parts[1:, 3].min(axis=0, initial=np.inf), parts[1:, 4].max(axis=0, initial=-np.inf)
    return Scaling(sum(row["n"] for row in rows), mean, deviation, lowest, highest)


def _log_left_out(
    left_out: Sequence[Counter], unknown: Collection[str], silent: Collection[str], lacking: Collection[str]
) -> None:
    """One line per reason: a column that is the same for all clients says nothing, and must not look as if it did.

    Parameters
    ----------
    unknown : behaviours that the configuration lacks
    silent : behaviours of which the clients have no event
    lacking : columns of the products in which none with an event has a value
    """
    reasons: dict[str, list[str]] = defaultdict(list)
    for counter in left_out:
        reason = "all clients have the same number"
        if without := [name for name in counter.behaviours if name in unknown]:
            reason = f"the configuration has no behaviour {without[0]}"
        elif without := [name for name in counter.behaviours if name in silent]:
            reason = f"the clients have no event of {without[0]} before the cutoff"
        elif counter.family.needs in lacking:
            reason = f"no product with an event has a {counter.family.needs}"
        reasons[reason].append(counter.name)
    for reason, names in reasons.items():
        more = ", ..." if len(names) > NAMES_SHOWN else ""
        shown = ", ".join(names[:NAMES_SHOWN])
        log.info("  %s: %d columns are left out: %s: %s%s", COUNTERS, len(names), reason, shown, more)
