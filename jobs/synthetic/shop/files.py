"""The simulated shop as Spark frames in the challenge's columns."""

from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache

import numpy as np
import pandas as pd
import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from conf.synthetic import ShopSettings
from jobs.synthetic.shop.catalogue import Catalogue, build_catalogue
from jobs.synthetic.shop.sessions import NO_ITEM, Events, simulate_block
from schemas import columns as c
from schemas.behaviours import ADD_TO_CART, PAGE_VISIT, PRODUCT_BUY, REMOVE_FROM_CART, SEARCH_QUERY

ITEM_COLUMNS = {
    PRODUCT_BUY: c.SKU,
    ADD_TO_CART: c.SKU,
    REMOVE_FROM_CART: c.SKU,
    PAGE_VISIT: c.URL,
    SEARCH_QUERY: c.QUERY,
}
"""Behaviour -> column of its source file that holds the item."""

_BLOCKS_PER_TASK = 64
_EVENTS_DDL = "behaviour string, client_id bigint, timestamp string, item bigint, query string"


def simulate_events(spark: SparkSession, settings: ShopSettings) -> DataFrame:
    """One row per event of the shop, the same rows however many tasks share the work.

    Columns: behaviour, client_id, timestamp (text), item (sku or url, null for a query), query (text, else null).
    """
    n_tasks = min(settings.n_blocks, max(spark.sparkContext.defaultParallelism, settings.n_blocks // _BLOCKS_PER_TASK))
    return spark.range(0, settings.n_blocks, 1, n_tasks).mapInArrow(_simulator(settings), _EVENTS_DDL)


def select_behaviour(events: DataFrame, behaviour: str) -> DataFrame:
    """One behaviour's events in the columns of its source file."""
    column = ITEM_COLUMNS[behaviour]
    item = F.col("query" if column == c.QUERY else "item").alias(column)
    return events.where(F.col(c.BEHAVIOUR) == behaviour).select(c.CLIENT_ID, c.TIMESTAMP, item)


def product_properties(spark: SparkSession, settings: ShopSettings) -> DataFrame:
    """One row per sku, in the columns of ``product_properties.parquet``."""
    catalogue = build_catalogue(settings)
    values = {
        c.SKU: catalogue.sku,
        c.CATEGORY: catalogue.category_id[catalogue.category],
        c.PRICE: catalogue.price,
        c.NAME: catalogue.name,
    }
    return spark.createDataFrame(pd.DataFrame(values))


@lru_cache(maxsize=1)
def _catalogue_of_worker(settings: ShopSettings) -> Catalogue:
    return build_catalogue(settings)


def _simulator(settings: ShopSettings) -> Callable[[Iterable[pa.RecordBatch]], Iterable[pa.RecordBatch]]:
    def simulate(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        catalogue = _catalogue_of_worker(settings)
        for batch in batches:
            for block in batch.column(0).to_pylist():
                yield from _block_to_arrow(simulate_block(block, catalogue, settings), catalogue, settings)

    return simulate


def _block_to_arrow(
    events: dict[str, Events], catalogue: Catalogue, settings: ShopSettings
) -> Iterator[pa.RecordBatch]:
    first_midnight = np.datetime64(settings.first_day, "s")
    for behaviour, rows in events.items():
        is_query = rows.query != NO_ITEM
        yield pa.RecordBatch.from_arrays(
            [
                pa.array(np.full(len(rows.item), behaviour, dtype=object), type=pa.string()),
                pa.array(rows.client_id),
                pa.array(first_midnight + rows.second).cast(pa.string()),
                pa.array(rows.item, mask=is_query),
                pa.array(catalogue.query[rows.query], type=pa.string(), mask=~is_query),
            ],
            names=["behaviour", "client_id", "timestamp", "item", "query"],
        )
