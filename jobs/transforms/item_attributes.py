"""What is known of the items of merged streams: from the vocabulary and ``product_properties``."""

from collections.abc import Collection, Iterable, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from jobs.transforms.vocabulary import split_keys
from ml.data.item_attributes import ItemAttributes
from schemas.behaviours import CODES_PER_QUERY
from schemas.columns import BEHAVIOUR, CATEGORY, CODES, ITEM, KEY, N_EVENTS, NAME, PRICE, SKU, TOKEN_ID

ATTRIBUTE_COLUMNS = (TOKEN_ID, ITEM, CATEGORY, PRICE, CODES, N_EVENTS)


def build_item_attributes(vocabulary: DataFrame, products: DataFrame, columns_of_codes: Collection[str]) -> DataFrame:
    """One row per token, in the columns of ``tables/item_attributes``.

    Parameters
    ----------
    vocabulary : of merged streams
    products : of the table ``product_properties``; a sku without a row there has no attributes
    columns_of_codes : the item columns whose items are codes themselves
    """
    items = split_keys(vocabulary)
    # skus apart from the rest: in a join, the rows without a sku would all be one task's
    known = products.select(F.col(SKU).cast("string").alias(KEY), CATEGORY, PRICE, _codes())
    skus = items.filter(F.col(ITEM) == SKU).join(known, on=KEY, how="left")
    own_codes = F.when(F.col(ITEM).isin(*columns_of_codes), F.col(KEY))
    # nulls without a type: the union gives them that of the skus' columns
    others = items.filter(F.col(ITEM) != SKU).select(
        "*", F.lit(None).alias(CATEGORY), F.lit(None).alias(PRICE), own_codes.alias(NAME)
    )
    rows = skus.unionByName(others.withColumn(CODES, _codes()).drop(NAME))
    price = F.col(PRICE).cast("int").alias(PRICE)
    return rows.select(BEHAVIOUR, TOKEN_ID, ITEM, CATEGORY, price, CODES, N_EVENTS)


def collect_unknown(attributes: DataFrame) -> list[tuple[str, str, int, dict[str, int]]]:
    """Stream, item column, tokens, and how many of these have no category, no price, no codes."""
    missing = {name: F.count_if(F.col(name).isNull()) for name in (CATEGORY, PRICE, CODES)}
    counts = attributes.groupBy(BEHAVIOUR, ITEM).agg(F.count("*"), *missing.values()).orderBy(BEHAVIOUR, ITEM).collect()
    return [(stream, item, n, dict(zip(missing, absent, strict=True))) for stream, item, n, *absent in counts]


def read_item_attributes(
    batches: Iterable[pa.RecordBatch], item_columns: Sequence[str], n_tokens: int
) -> ItemAttributes:
    """The rows of one stream in arrays by token id.

    Parameters
    ----------
    batches : ``ATTRIBUTE_COLUMNS``, in any order
    item_columns : of the stream, in its order
    """
    found = ItemAttributes.unknown(n_tokens)
    kinds = pa.array(item_columns)
    category, has_category = np.zeros(n_tokens, np.int64), np.zeros(n_tokens, np.bool_)
    for batch in batches:
        token_ids = batch.column(TOKEN_ID).to_numpy()
        # 0 stands for unknown, hence the ones that are added
        found.item_kind[token_ids] = 1 + pc.index_in(batch.column(ITEM), value_set=kinds).to_numpy(zero_copy_only=False)
        found.n_events[token_ids] = batch.column(N_EVENTS).to_numpy()
        found.price[token_ids] = 1 + batch.column(PRICE).fill_null(-1).to_numpy()
        has_category[token_ids] = batch.column(CATEGORY).is_valid().to_numpy(zero_copy_only=False)
        category[token_ids] = batch.column(CATEGORY).fill_null(0).to_numpy()
        codes = batch.column(CODES)
        has_codes = token_ids[codes.is_valid().to_numpy(zero_copy_only=False)]
        # flatten leaves out the lists that are null, as ``has_codes`` does
        found.codes[has_codes] = 1 + codes.flatten().to_numpy().reshape(-1, CODES_PER_QUERY)
    categories, number = np.unique(category[has_category], return_inverse=True)
    n_events = np.bincount(number, weights=found.n_events[has_category], minlength=len(categories))
    # numbers by falling events, then category: so they depend on no order of the rows
    rank = np.empty(len(categories), np.int32)
    rank[np.lexsort((categories, -n_events))] = np.arange(1, len(categories) + 1)
    found.category[has_category] = rank[number]
    return found


def _codes() -> Column:
    """The numbers of ``name``, a text in the canonical form ``[a b ...]``; null where that is null."""
    # with commas for spaces it is JSON
    return F.from_json(F.translate(NAME, " ", ","), "array<smallint>").alias(CODES)
