"""Events -> token ids."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from jobs.stored_rows import StoredRows
from jobs.transforms.packed import aggregate_packed
from jobs.transforms.radix import rising_order
from jobs.transforms.ranks import with_global_rank
from schemas.columns import BEHAVIOUR, KEY, N_EVENTS, TOKEN_ID
from schemas.tokens import FIRST_ITEM

PARTS_PER_BUCKET = 2
"""How much of stored rows one task counts: the counts are cached, and nothing joins the small buckets of a cache."""


@dataclass(frozen=True)
class VocabularySummary:
    """What a model must know of its vocabulary.

    Attributes
    ----------
    n_items : items with a token id
    fingerprint : changes when any key, id or their pairing does
    """

    n_items: int
    fingerprint: str

    @property
    def n_tokens(self) -> int:
        """Rows of the item table: the items and the tokens before them."""
        return FIRST_ITEM + self.n_items


def build_vocabulary(events: DataFrame | StoredRows, behaviour: str, item: str, min_count: int) -> DataFrame:
    """One row per item with at least ``min_count`` events: behaviour, key, token_id, n_events.

    Token ids follow falling ``n_events``, then the item (ids as numbers, queries as text), from FIRST_ITEM.
    Row order does not matter; the same events give the same ids on any number of partitions.
    """
    counts = count_items(events, item, min_count)
    ranked = with_global_rank(counts, [F.col(N_EVENTS).desc(), F.col(item).asc()], TOKEN_ID, start=FIRST_ITEM)
    return ranked.select(
        F.lit(behaviour).alias(BEHAVIOUR), F.col(item).cast("string").alias(KEY), F.col(TOKEN_ID).cast("int"), N_EVENTS
    )


def count_items(events: DataFrame | StoredRows, item: str, min_count: int) -> DataFrame:
    """One row per item with at least ``min_count`` events: the item, ``n_events``; any row order."""
    items = events.select(item)
    schema = (items.frame if isinstance(items, StoredRows) else items).schema
    ddl = f"{item} {schema[0].dataType.simpleString()}, {N_EVENTS} bigint"
    n_buckets = 1 + items.n_parts // PARTS_PER_BUCKET if isinstance(items, StoredRows) else None
    return aggregate_packed(items, add_counts, _frequent(min_count), ddl, n_buckets=n_buckets)


def add_counts(rows: pa.Table) -> pa.Table:
    """One row per item: the item, ``n_events``, where rows without a count are one event each."""
    name, items = rows.column_names[0], rows.column(0)
    is_counted = rows.num_columns > 1
    if pa.types.is_string(items.type):
        counted = rows if is_counted else rows.append_column(N_EVENTS, pa.array(np.ones(len(items), np.int64)))
        summed = counted.group_by(name).aggregate([(N_EVENTS, "sum")])
        return summed.select([name, f"{N_EVENTS}_sum"]).rename_columns([name, N_EVENTS])
    values = items.to_numpy()
    order = rising_order(values)
    ordered = values[order]
    starts = np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1]))
    if is_counted:
        counts = np.add.reduceat(rows.column(N_EVENTS).to_numpy()[order], starts)
    else:
        counts = np.diff(starts, append=len(values))
    return pa.table([ordered[starts], counts], names=[name, N_EVENTS])


def _frequent(min_count: int) -> Callable[[pa.Table], pa.Table]:
    def finish(rows: pa.Table) -> pa.Table:
        counted = add_counts(rows)
        return counted.filter(pc.greater_equal(counted.column(N_EVENTS), min_count))

    return finish


def collect_n_items(vocabularies: DataFrame) -> dict[str, int]:
    """Behaviour -> items with a token id, for the behaviours that have at least one."""
    return {row[BEHAVIOUR]: row["count"] for row in vocabularies.groupBy(BEHAVIOUR).count().collect()}


def collect_summaries(vocabularies: DataFrame) -> dict[str, VocabularySummary]:
    """Behaviour -> summary, for the behaviours that have at least one item."""
    row_hash = F.bit_xor(F.xxhash64(KEY, TOKEN_ID)).alias("row_hash")
    rows = vocabularies.groupBy(BEHAVIOUR).agg(F.count("*").alias("n_items"), row_hash).collect()
    return {
        row[BEHAVIOUR]: VocabularySummary(row["n_items"], f"{row['n_items']}-{row['row_hash'] & (2**64 - 1):016x}")
        for row in rows
    }
