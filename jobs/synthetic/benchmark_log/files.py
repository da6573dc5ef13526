"""The benchmark log as Spark frames in the challenge's columns."""

from collections.abc import Callable, Iterator

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession

from conf.synthetic import BenchmarkLogSettings
from jobs.synthetic.benchmark_log.events import draw_block, plan_log
from jobs.synthetic.benchmark_log.marginals import Sizes, category_counts, item_counts, scale_sizes
from jobs.synthetic.benchmark_log.permutations import Use, draw_permutation, hash_to_codes
from jobs.synthetic.blocks import ITEM_COLUMNS, map_blocks
from schemas import columns as c
from schemas.behaviours import CODES_PER_QUERY, PAGE_VISIT, SEARCH_QUERY

_BLOCKS_PER_TASK = 8
_SKUS_PER_BLOCK = 50_000
_N_PRICES = 100  # quantile buckets
_CODES = np.array([f"{code:3d} " for code in range(256)], dtype="S4")


def behaviour_rows(spark: SparkSession, behaviour: str, settings: BenchmarkLogSettings) -> DataFrame:
    """One row per event of a behaviour, in the columns of its source file; the same for any number of tasks.

    The rows of a block of clients follow those of the block before; within it they are in random order.
    """
    item = ITEM_COLUMNS[behaviour]
    columns = [c.CLIENT_ID, c.TIMESTAMP, item]
    plan = plan_log(settings)
    items = item_counts(behaviour, plan.sizes)
    name_items = _item_namer(behaviour, plan.sizes, settings.seed)
    first_midnight = np.datetime64(settings.first_day, "s")

    def make(block: int) -> Iterator[pa.RecordBatch]:
        events = draw_block(block, behaviour, plan)
        timestamp = pa.array(first_midnight + events.second).cast(pa.string())
        names = name_items(items.owner_of(events.number))
        yield pa.RecordBatch.from_arrays([pa.array(events.client_id), timestamp, names], names=columns)

    ddl = f"{c.CLIENT_ID} bigint, {c.TIMESTAMP} string, {item} {'string' if item == c.QUERY else 'bigint'}"
    return map_blocks(spark, plan.n_blocks, _BLOCKS_PER_TASK, make, ddl)


def product_rows(spark: SparkSession, settings: BenchmarkLogSettings) -> DataFrame:
    """One row per sku, in the columns of ``product_properties.parquet``."""
    sizes, seed = scale_sizes(settings.n_events), settings.seed
    categories = category_counts(sizes)
    sku_ids, in_category, by_price = (
        draw_permutation(sizes.n_skus, seed, use) for use in (Use.SKU, Use.CATEGORY_OF_SKU, Use.PRICE_OF_SKU)
    )
    category_ids = draw_permutation(sizes.n_categories, seed, Use.CATEGORY)

    def make(block: int) -> Iterator[pa.RecordBatch]:
        rank = np.arange(block * _SKUS_PER_BLOCK, min((block + 1) * _SKUS_PER_BLOCK, sizes.n_skus))
        category = category_ids(categories.owner_of(in_category(rank)))
        price = by_price(rank) * _N_PRICES // sizes.n_skus
        name = codes_to_text(hash_to_codes(rank, seed + 1))  # another seed than queries: no name is a query
        numbers = [pa.array(values) for values in (sku_ids(rank), category, price)]
        yield pa.RecordBatch.from_arrays([*numbers, name], names=[c.SKU, c.CATEGORY, c.PRICE, c.NAME])

    ddl = f"{c.SKU} bigint, {c.CATEGORY} bigint, {c.PRICE} bigint, {c.NAME} string"
    return map_blocks(spark, -(-sizes.n_skus // _SKUS_PER_BLOCK), _BLOCKS_PER_TASK, make, ddl)


def _item_namer(behaviour: str, sizes: Sizes, seed: int) -> Callable[[np.ndarray], pa.Array]:
    """What turns ranks of popularity into the items of the source file: ids tell nothing of the rank."""
    if behaviour == SEARCH_QUERY:
        return lambda rank: codes_to_text(hash_to_codes(rank, seed))
    size, use = (sizes.n_urls, Use.URL) if behaviour == PAGE_VISIT else (sizes.n_skus, Use.SKU)
    ids = draw_permutation(size, seed, use)
    return lambda rank: pa.array(ids(rank))


def codes_to_text(codes: np.ndarray) -> pa.Array:
    """``[ 12 255   0 ...]``, the numbers in columns as numpy prints them: uint8 [E, CODES_PER_QUERY] -> string [E]."""
    width = 1 + 4 * CODES_PER_QUERY
    text = np.empty((len(codes), width), dtype=np.uint8)
    text[:, 0] = ord("[")
    text[:, 1:] = _CODES[codes].reshape(len(codes), -1).view(np.uint8)
    text[:, -1] = ord("]")  # in place of the blank after the last code
    # rows of one width are Arrow strings already: nothing is copied per row
    offsets = np.arange(len(text) + 1, dtype=np.int32) * np.int32(width)
    return pa.StringArray.from_buffers(len(text), pa.py_buffer(offsets), pa.py_buffer(text))
