"""The benchmark log as Spark frames in the challenge's columns."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession

from conf.synthetic import BenchmarkLogSettings
from jobs.synthetic.benchmark_log.events import draw_block, plan_log
from jobs.synthetic.benchmark_log.marginals import category_counts, find_n_events, item_counts, scale_sizes
from jobs.synthetic.benchmark_log.permutations import Use, draw_permutation, hash_to_codes
from jobs.synthetic.benchmark_log.text import codes_to_text, timestamps_to_text
from jobs.synthetic.shop.files import ITEM_COLUMNS
from schemas import columns as c
from schemas.behaviours import CODES_PER_QUERY, PAGE_VISIT, SEARCH_QUERY

_BLOCKS_PER_TASK = 8
_SKUS_PER_BLOCK = 50_000
_N_PRICES = 100  # quantile buckets

_Batches = Callable[[Iterable[pa.RecordBatch]], Iterator[pa.RecordBatch]]


def write_behaviour(spark: SparkSession, path: Path, behaviour: str, n_rows: int, seed: int = 7) -> None:
    """Write one behaviour alone, with so many rows, as part of the log of the size that has as many.

    Examples
    --------
    ``write_behaviour(spark, directory / "page_visit.parquet", "page_visit", 20_000_000)``
    """
    settings = BenchmarkLogSettings(n_events=find_n_events(behaviour, n_rows), seed=seed)
    behaviour_rows(spark, behaviour, settings).write.parquet(str(path))


def behaviour_rows(spark: SparkSession, behaviour: str, settings: BenchmarkLogSettings) -> DataFrame:
    """One row per event of a behaviour, in the columns of its source file; the same for any number of tasks.

    The rows of a block of clients follow those of the block before; within it they are in random order.
    """
    item = ITEM_COLUMNS[behaviour]
    ddl = f"{c.CLIENT_ID} bigint, {c.TIMESTAMP} string, {item} {'string' if item == c.QUERY else 'bigint'}"
    n_blocks = plan_log(settings).n_blocks
    return _blocks(spark, n_blocks).mapInArrow(_event_maker(behaviour, settings), ddl)


def product_rows(spark: SparkSession, settings: BenchmarkLogSettings) -> DataFrame:
    """One row per sku, in the columns of ``product_properties.parquet``."""
    n_blocks = -(-scale_sizes(settings.n_events).n_skus // _SKUS_PER_BLOCK)
    ddl = f"{c.SKU} bigint, {c.CATEGORY} bigint, {c.PRICE} bigint, {c.NAME} string"
    return _blocks(spark, n_blocks).mapInArrow(_product_maker(settings), ddl)


def _blocks(spark: SparkSession, n_blocks: int) -> DataFrame:
    n_tasks = min(n_blocks, max(spark.sparkContext.defaultParallelism, n_blocks // _BLOCKS_PER_TASK))
    return spark.range(0, n_blocks, 1, n_tasks)


def _event_maker(behaviour: str, settings: BenchmarkLogSettings) -> _Batches:
    plan = plan_log(settings)
    items = item_counts(behaviour, plan.sizes)
    name_items = _item_namer(behaviour, settings)
    columns = [c.CLIENT_ID, c.TIMESTAMP, ITEM_COLUMNS[behaviour]]

    def make(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for block in _numbers(batches):
            events = draw_block(block, behaviour, plan)
            timestamp = timestamps_to_text(settings.first_day, events.second)
            item = name_items(items.owner_of(events.number))
            yield pa.RecordBatch.from_arrays([pa.array(events.client_id), timestamp, item], names=columns)

    return make


def _item_namer(behaviour: str, settings: BenchmarkLogSettings) -> Callable[[np.ndarray], pa.Array]:
    """What turns ranks of popularity into the items of the source file: ids tell nothing of the rank."""
    sizes, seed = scale_sizes(settings.n_events), settings.seed
    if behaviour == SEARCH_QUERY:
        return lambda rank: codes_to_text(hash_to_codes(rank, seed, CODES_PER_QUERY))
    size, use = (sizes.n_urls, Use.URL) if behaviour == PAGE_VISIT else (sizes.n_skus, Use.SKU)
    ids = draw_permutation(size, seed, use)
    return lambda rank: pa.array(ids(rank))


def _product_maker(settings: BenchmarkLogSettings) -> _Batches:
    sizes, seed = scale_sizes(settings.n_events), settings.seed
    categories = category_counts(sizes)
    sku_ids, in_category, by_price = (
        draw_permutation(sizes.n_skus, seed, use) for use in (Use.SKU, Use.CATEGORY_OF_SKU, Use.PRICE_OF_SKU)
    )
    category_ids = draw_permutation(sizes.n_categories, seed, Use.CATEGORY)

    def make(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for block in _numbers(batches):
            rank = np.arange(block * _SKUS_PER_BLOCK, min((block + 1) * _SKUS_PER_BLOCK, sizes.n_skus))
            category = category_ids(categories.owner_of(in_category(rank)))
            price = by_price(rank) * _N_PRICES // sizes.n_skus
            name = codes_to_text(hash_to_codes(rank, seed + 1, CODES_PER_QUERY))
            numbers = [pa.array(values) for values in (sku_ids(rank), category, price)]
            yield pa.RecordBatch.from_arrays([*numbers, name], names=[c.SKU, c.CATEGORY, c.PRICE, c.NAME])

    return make


def _numbers(batches: Iterable[pa.RecordBatch]) -> Iterator[int]:
    for batch in batches:
        yield from batch.column(0).to_pylist()
