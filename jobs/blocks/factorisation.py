"""Events -> factors of clients: implicit ALS of who did how much with which category or page.

The weights and the 64 factors are those of the 2nd place of RecSys Challenge 2025.
"""

import logging
from collections.abc import Mapping
from contextlib import ExitStack
from datetime import datetime
from functools import reduce

from pyspark.ml.recommendation import ALS
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from conf.factorisation import FactorisationSettings
from conf.inputs import BehaviourSettings
from jobs.blocks.table import Block
from jobs.runtime.caching import cache_rows
from jobs.transforms.pairs import CLIENT_NUMBER, WEIGHT, number_clients, number_items
from jobs.transforms.windows import events_before
from schemas import columns as c
from schemas.behaviours import ADD_TO_CART, PAGE_VISIT, PRODUCT_BUY
from schemas.blocks import ALS_CATEGORY, ALS_URL

WEIGHTS = {ALS_CATEGORY: {PRODUCT_BUY: 3.0, ADD_TO_CART: 1.0}, ALS_URL: {PAGE_VISIT: 1.0}}
"""Block -> behaviour -> weight of one event."""

PAIRS_PER_BLOCK = 250_000
"""About how many pairs a task adds up in half an iteration."""

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
    return known.groupBy(c.CLIENT_ID, c.ITEM).agg(F.sum(WEIGHT).alias(WEIGHT))


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
    clients : who gets a vector; the most active others take part too
    checkpoints : URL of a folder that all executors reach: each iteration adds to the lineage, and a task whose lineage
        has ten of them overflows the JVM's stack
    cached : keeps what is numbered cached; close it after the write
    """
    of = ", ".join(WEIGHTS[name])
    if pairs is None:
        log.info("  %s: left out: the configuration has none of %s", name, of)
        return None
    pairs.sparkSession.sparkContext.setCheckpointDir(checkpoints)
    pairs = cache_rows(pairs, cached)
    numbered = number_pairs(pairs, clients, settings, cached).checkpoint()
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
        checkpointInterval=2,
        numUserBlocks=n_blocks,
        numItemBlocks=n_blocks,
        seed=settings.seed,
        userCol=CLIENT_NUMBER,
        itemCol=c.ITEM_NUMBER,
        ratingCol=WEIGHT,
    )
    factors = als.fit(numbered.select(CLIENT_NUMBER, c.ITEM_NUMBER, F.col(WEIGHT).cast("float"))).userFactors
    own = numbered.select(c.CLIENT_ID, F.col(CLIENT_NUMBER).alias("id")).distinct()
    vectors = own.join(factors, on="id").select(c.CLIENT_ID, F.col("features").alias(c.VECTOR))
    made_from = f"implicit ALS of {n_pairs} pairs of a client and an item in {of}"
    return Block.numbered(name, settings.factors, made_from), vectors


def number_pairs(pairs: DataFrame, clients: DataFrame, settings: FactorisationSettings, cached: ExitStack) -> DataFrame:
    """The pairs to factorise: ``client_id``, ``client_number``, ``item_number``, ``weight``; ALS takes ints."""
    kept = pairs.join(number_clients(pairs, clients, settings.max_other_clients, cached), on=c.CLIENT_ID)
    kept = kept.join(number_items(pairs, settings.max_items, cached, settings.min_clients), on=c.ITEM)
    return kept.select(c.CLIENT_ID, CLIENT_NUMBER, c.ITEM_NUMBER, WEIGHT)
