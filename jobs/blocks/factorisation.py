"""Events -> factors of clients: implicit ALS of who did how much with which category or page.

The weights and the 64 factors are those of the 2nd place of RecSys Challenge 2025. Implicit ALS: Hu, Koren and Volinsky
2008, doi:10.1109/ICDM.2008.22.
"""

import itertools
import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from datetime import datetime
from functools import reduce

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray
from pyspark.ml.recommendation import ALS
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from conf.factorisation import FactorisationSettings
from conf.inputs import BehaviourSettings
from jobs.blocks.table import VECTORS_DDL, Block, vector_rows
from jobs.runtime.caching import broadcast_value, cache_rows
from jobs.transforms.pairs import CLIENT_NUMBER, WEIGHT, number_clients, number_items
from jobs.transforms.windows import events_before
from schemas import columns as c
from schemas.behaviours import ADD_TO_CART, PAGE_VISIT, PRODUCT_BUY
from schemas.blocks import ALS_CATEGORY, ALS_URL

WEIGHTS = {ALS_CATEGORY: {PRODUCT_BUY: 3.0, ADD_TO_CART: 1.0}, ALS_URL: {PAGE_VISIT: 1.0}}
"""Block -> behaviour -> weight of one event."""

PAIRS_PER_BLOCK = 250_000
"""About how many pairs a task adds up in half an iteration."""

CLIENTS_PER_SOLUTION = 512
"""Clients that a task solves at once: of 64 factors they take 17 MiB."""

_ITEMS = "items"

log = logging.getLogger(__name__)


def weigh_pairs(
    name: str,
    events: Mapping[str, DataFrame],
    products: DataFrame,
    cutoff: datetime,
    behaviours: Mapping[str, BehaviourSettings],
) -> DataFrame | None:
    """One row per client and item that it has events of before the cutoff: ``client_id``, ``item``, ``weight``.

    None where the configuration has none of the block's behaviours.

    Parameters
    ----------
    name : ``als_category``, whose items are the categories of skus, or ``als_url``, whose items are those of visits
    products : product_properties, for categories
    """
    parts = []
    for behaviour, weight in WEIGHTS[name].items():
        if behaviour not in behaviours or (name == ALS_CATEGORY and behaviours[behaviour].item != c.SKU):
            continue
        rows, item = events_before(events[behaviour], cutoff), behaviours[behaviour].item
        if name == ALS_CATEGORY:
            rows, item = rows.join(products.select(c.SKU, c.CATEGORY), on=c.SKU), c.CATEGORY
        parts.append(rows.select(c.CLIENT_ID, F.col(item).alias(c.ITEM), F.lit(weight).alias(WEIGHT)))
    if not parts:
        return None
    known = reduce(DataFrame.unionAll, parts).filter(F.col(c.ITEM).isNotNull())
    # by client alone: sums over a client's pairs and joins by client then need no second shuffle, of all pairs
    by_client = known.repartition(c.CLIENT_ID)
    return by_client.groupBy(c.CLIENT_ID, c.ITEM).agg(F.sum(WEIGHT).alias(WEIGHT))


def collect_factors(
    name: str,
    pairs: DataFrame | None,
    clients: DataFrame,
    settings: FactorisationSettings,
    checkpoints: str,
    cached: ExitStack,
) -> tuple[Block, DataFrame] | None:
    """A block, and one row per client with a pair: ``client_id``, ``vector``.

    None, with a line that says why, where there are too few pairs for so many factors.

    Parameters
    ----------
    pairs : as ``weigh_pairs`` gives them, of all clients
    clients : who gets a vector; they and the most active others are factorised, ``max_clients`` of them
    checkpoints : URL of a folder that all executors reach: each iteration adds to the lineage, and a task whose lineage
        has ten of them overflows the JVM's stack
    cached : keeps what is numbered cached; close it after the write

    Notes
    -----
    Every vector is the solution of one client against the items' factors, as in the last half of ALS's last iteration.
    So a client's own pairs suffice, and only the items' factors need all iterations.
    """
    of = ", ".join(WEIGHTS[name])
    if pairs is None:
        log.info("  %s: left out: the configuration has none of %s", name, of)
        return None
    pairs.sparkSession.sparkContext.setCheckpointDir(checkpoints)
    pairs = cache_rows(pairs, cached)
    items = number_items(pairs, settings.max_items, cached, settings.min_clients)
    # ALS adds to the lineage in each iteration: it begins anew at these files
    numbered = number_pairs(pairs, items, clients, settings, cached).checkpoint()
    n_pairs = numbered.count()
    log.info("  %s: %d of %d pairs of a client and an item are factorised", name, n_pairs, pairs.count())
    if n_pairs < settings.factors:
        log.info(
            "  %s: left out: %d pairs of a client and an item in %s, fewer than factorisation.factors=%d",
            name, n_pairs, of, settings.factors,
        )  # fmt: skip
        return None
    n_blocks = 1 + n_pairs // PAIRS_PER_BLOCK  # of the pairs alone: the first factors are drawn by block
    als = ALS(
        rank=settings.factors,
        maxIter=settings.iterations,
        regParam=settings.regularisation,
        alpha=settings.alpha,
        implicitPrefs=True,
        checkpointInterval=2,  # iterations: well below the ten that overflow the stack
        numUserBlocks=n_blocks,
        numItemBlocks=n_blocks,
        seed=settings.seed,
        userCol=CLIENT_NUMBER,
        itemCol=c.ITEM_NUMBER,
        ratingCol=WEIGHT,
    )
    factors = als.fit(numbered).itemFactors
    own = pairs.join(clients.select(c.CLIENT_ID), on=c.CLIENT_ID).join(items, on=c.ITEM)
    made_from = f"implicit ALS of {n_pairs} pairs of a client and an item in {of}"
    return Block.numbered(name, settings.factors, made_from), solve_clients(own, factors, settings, cached)


def number_pairs(
    pairs: DataFrame, items: DataFrame, clients: DataFrame, settings: FactorisationSettings, cached: ExitStack
) -> DataFrame:
    """The pairs to factorise, as ALS takes them: ``client_number`` int, ``item_number`` int, ``weight`` float."""
    numbered = number_clients(pairs, clients, cached).filter(F.col(CLIENT_NUMBER) < settings.max_clients)
    return (
        pairs.join(numbered, on=c.CLIENT_ID)
        .join(items, on=c.ITEM)
        .select(F.col(CLIENT_NUMBER).cast("int"), c.ITEM_NUMBER, F.col(WEIGHT).cast("float"))
    )


def solve_clients(
    pairs: DataFrame, factors: DataFrame, settings: FactorisationSettings, cached: ExitStack
) -> DataFrame:
    """Each client's vector against the items' factors: ``client_id``, ``vector``; none of a client without such items.

    A client's preference p of an item is 1 where it has a pair, else 0, with confidence 1 + alpha w. Its vector x
    minimises the sum over all items of (1 + alpha w) (p - x y)^2 + regularisation n x^2, where y are the item's factors
    and n the client's items: MLlib weighs the regularisation by n too.

    Parameters
    ----------
    pairs : ``client_id``, ``item_number``, ``weight``
    factors : ``id``, the item number, and ``features``; the driver and each Python worker hold them
    cached : keeps the items' factors on the executors; close it after the write
    """
    # sorted: a chunk finds its items by bisection
    of_items: pd.DataFrame = factors.sort("id").toPandas()
    ids = of_items["id"].to_numpy()
    vectors = np.stack(of_items["features"].to_list()).astype(np.float64)  # [items, factors], doubles as in MLlib
    # what all clients share: every item with weight 0
    of_all = vectors.T @ vectors
    # a worker reads a broadcast once, and what a function holds with each of its tasks
    sent = broadcast_value(pairs, (ids, vectors, of_all), cached)

    def solve(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            for start in range(0, batch.num_rows, CLIENTS_PER_SOLUTION):
                yield _solve_chunk(batch.slice(start, CLIENTS_PER_SOLUTION), *sent.value, settings)

    known = pairs.join(factors.select(F.col("id").alias(c.ITEM_NUMBER)), on=c.ITEM_NUMBER)
    # sorted: the order of a sum changes its last bits
    by_item = F.sort_array(F.collect_list(F.struct(c.ITEM_NUMBER, WEIGHT)))
    by_client = known.groupBy(c.CLIENT_ID).agg(by_item.alias(_ITEMS))
    return by_client.mapInArrow(solve, VECTORS_DDL)


def _solve_chunk(
    chunk: pa.RecordBatch,
    ids: NDArray[np.int32],
    vectors: NDArray[np.float64],
    of_all: NDArray[np.float64],
    settings: FactorisationSettings,
) -> pa.RecordBatch:
    own = chunk.column(_ITEMS)
    # a slice keeps the offsets of the whole batch, while flatten gives its own values alone
    bounds = own.offsets.to_numpy() - own.offsets[0].as_py()
    pairs = own.flatten()
    rows = np.searchsorted(ids, pairs.field(c.ITEM_NUMBER).to_numpy())
    extra = settings.alpha * pairs.field(WEIGHT).to_numpy()
    ridge = settings.regularisation * np.eye(len(of_all))
    left = np.empty((chunk.num_rows, *of_all.shape))
    right = np.empty((chunk.num_rows, len(of_all), 1))
    for client, (first, end) in enumerate(itertools.pairwise(bounds)):
        liked, weights = vectors[rows[first:end]], extra[first:end]
        left[client] = of_all + (liked.T * weights) @ liked + (end - first) * ridge
        right[client, :, 0] = (1 + weights) @ liked
    solved = np.linalg.solve(left, right)[..., 0].astype(np.float32)
    return vector_rows(chunk.column(c.CLIENT_ID), solved)
