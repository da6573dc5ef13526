"""The simulated shop as Spark frames in the challenge's columns."""

from collections.abc import Iterator
from functools import partial

import numpy as np
import pandas as pd
import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from conf.synthetic import ShopSettings
from jobs.blocks.table import VECTORS_DDL, vector_rows
from jobs.synthetic.blocks import ITEM_COLUMNS, map_blocks
from jobs.synthetic.shop.catalogue import build_catalogue
from jobs.synthetic.shop.oracle import describe_state
from jobs.synthetic.shop.simulation import simulate_block
from schemas import columns as c
from schemas.behaviours import SEARCH_QUERY

_BLOCKS_PER_TASK = 64


def simulate_events(spark: SparkSession, settings: ShopSettings) -> DataFrame:
    """One row per event of the shop, the same rows however many tasks share the work.

    Columns: behaviour, client_id, timestamp (text), item (sku or url, null for a query), query (text, else null).
    """
    ddl = "behaviour string, client_id bigint, timestamp string, item bigint, query string"
    return map_blocks(spark, settings.n_blocks, _BLOCKS_PER_TASK, partial(_simulate_rows, settings), ddl)


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


def latent_states(spark: SparkSession, settings: ShopSettings, cutoff_day: int) -> DataFrame:
    """One row per client, its latent state when a day begins: ``client_id``, ``vector`` array<float>."""
    make = partial(_describe_rows, settings, cutoff_day)
    return map_blocks(spark, settings.n_blocks, _BLOCKS_PER_TASK, make, VECTORS_DDL)


def _describe_rows(settings: ShopSettings, cutoff_day: int, block: int) -> Iterator[pa.RecordBatch]:
    catalogue = build_catalogue(settings)
    simulation = simulate_block(block, catalogue, settings)
    states = describe_state(simulation, catalogue, settings, block, cutoff_day)
    yield vector_rows(pa.array(simulation.clients.client_id), states)


def _simulate_rows(settings: ShopSettings, block: int) -> Iterator[pa.RecordBatch]:
    catalogue = build_catalogue(settings)
    first_midnight = np.datetime64(settings.first_day, "s")
    for behaviour, events in simulate_block(block, catalogue, settings).events.items():
        n_events = len(events.item)
        if behaviour == SEARCH_QUERY:
            item, query = pa.nulls(n_events, pa.int64()), pa.array(catalogue.query[events.item], pa.string())
        else:
            item, query = pa.array(events.item), pa.nulls(n_events, pa.string())
        timestamp = pa.array(first_midnight + events.second).cast(pa.string())
        columns = [pa.repeat(behaviour, n_events), pa.array(events.client_id), timestamp, item, query]
        yield pa.RecordBatch.from_arrays(columns, names=["behaviour", "client_id", "timestamp", "item", "query"])
