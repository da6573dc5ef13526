"""Events -> token ids."""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import reduce

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from conf.inputs import BehaviourSettings
from jobs.storage.stored_rows import StoredRows
from jobs.transforms.packed import BLOCK_ROWS, aggregate_packed, narrow
from jobs.transforms.radix import rising_order
from jobs.transforms.ranks import with_global_rank
from schemas.columns import BEHAVIOUR, ITEM, KEY, N_EVENTS, TOKEN_ID
from schemas.tokens import FIRST_ITEM

IDS_PER_BLOCK = 5_000_000
"""Ids that are counted together before the shuffle, about a part of stored rows; text takes ten times the room."""
SLOTS_PER_ROW = 4
"""Up to so many ids per row between the smallest and the largest, a counter for each beats a sort."""
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


def number_items(counts: DataFrame, behaviour: str, cached: ExitStack, max_rows: int | None = None) -> DataFrame:
    """The counted items of one behaviour or stream with their token ids, in the columns of ``tables/vocabularies``.

    Token ids follow falling ``n_events``, then the item (ids as numbers, queries as text), from FIRST_ITEM.

    Parameters
    ----------
    counts : the item, ``n_events``
    max_rows : as many as there may be, see ``with_global_rank``
    """
    item = counts.columns[0]  # its name differs by behaviour: sku, url, query, key
    order = [F.col(N_EVENTS).desc(), F.col(item).asc()]
    ranked = with_global_rank(counts, order, TOKEN_ID, cached, FIRST_ITEM, max_rows)
    return ranked.select(
        F.lit(behaviour).alias(BEHAVIOUR), F.col(item).cast("string").alias(KEY), F.col(TOKEN_ID).cast("int"), N_EVENTS
    )


def merge_counts(counts: Mapping[str, DataFrame], behaviours: Mapping[str, BehaviourSettings]) -> DataFrame:
    """One row per item of merged behaviours: its key ``<item column> <item>``, ``n_events`` over all of them.

    Behaviours whose items have one name share them: a sku that is bought and one that is added are one item. It is
    kept if any behaviour alone keeps it, which has at least that behaviour's ``min_count`` of events of it.

    Parameters
    ----------
    counts : behaviour -> the item, ``n_events``; of an item that another behaviour shares, however few they are
    """
    by_item: dict[str, list[DataFrame]] = {}
    for name, frame in counts.items():
        settings = behaviours[name]
        key = F.concat(F.lit(f"{settings.item} "), F.col(settings.item).cast("string")).alias(KEY)
        is_kept = (F.col(N_EVENTS) >= settings.min_count).alias("is_kept")
        by_item.setdefault(settings.item, []).append(frame.select(key, N_EVENTS, is_kept))
    merged = []
    for frames in by_item.values():
        if len(frames) > 1:
            all_counts = reduce(DataFrame.unionByName, frames).groupBy(KEY)
            frames = [all_counts.agg(F.sum(N_EVENTS).alias(N_EVENTS), F.max("is_kept").alias("is_kept"))]
        merged.append(frames[0].filter("is_kept").select(KEY, N_EVENTS))
    return reduce(DataFrame.unionByName, merged)


def split_keys(vocabulary: DataFrame) -> DataFrame:
    """Rows of merged streams with the item's column in ``item`` and the item itself in ``key``."""
    # at the first space: a query's codes have more of them
    return vocabulary.withColumn(ITEM, F.substring_index(KEY, " ", 1)).withColumn(
        KEY, F.expr(f"substring({KEY}, instr({KEY}, ' ') + 1)")
    )


def count_items(events: DataFrame | StoredRows, item: str, min_count: int) -> DataFrame:
    """One row per item with at least ``min_count`` events: the item, ``n_events``; any row order."""
    items = events.select(item)
    kind = (items.frame if isinstance(items, StoredRows) else items).schema[0].dataType.simpleString()
    return aggregate_packed(
        [(items, None)],
        add_counts,
        keep_frequent(min_count),
        f"{item} {kind}, {N_EVENTS} bigint",
        n_buckets=1 + len(items.parts.starts) // PARTS_PER_BUCKET if isinstance(items, StoredRows) else None,
        block_rows=IDS_PER_BLOCK if kind == "bigint" else BLOCK_ROWS,
    )


def add_counts(rows: pa.Table) -> pa.Table:
    """One row per item: the item, ``n_events``, where rows without a count are one event each.

    Ids and counts are in 32 bits where these hold them.
    """
    name, items = rows.column_names[0], rows.column(0)
    if pa.types.is_string(items.type):
        if rows.num_columns == 1:
            rows = rows.append_column(N_EVENTS, pa.array(np.ones(rows.num_rows, np.int64)))
        summed = rows.group_by(name).aggregate([(N_EVENTS, "sum")])
        return summed.select([name, f"{N_EVENTS}_sum"]).rename_columns([name, N_EVENTS])
    counts = rows.column(N_EVENTS).to_numpy() if rows.num_columns > 1 else None
    ids, n_events = _count_ids(items.to_numpy(), counts)
    return pa.table([narrow(ids), narrow(n_events)], names=[name, N_EVENTS])


def keep_frequent(min_count: int) -> Callable[[pa.Table], pa.Table]:
    """What adds up all counts of some items and keeps those of ``min_count`` and more, in 64 bits."""

    def finish(rows: pa.Table) -> pa.Table:
        counted = add_counts(rows)
        frequent = counted.filter(pc.greater_equal(counted.column(N_EVENTS), min_count))
        # Spark expects the columns of the DDL, however narrow the counts travelled
        kind = pa.string() if pa.types.is_string(frequent.column(0).type) else pa.int64()
        return frequent.cast(pa.schema([(frequent.column_names[0], kind), (N_EVENTS, pa.int64())]))

    return finish


def _count_ids(ids: NDArray[np.int64], counts: NDArray[np.int64] | None) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The different ids, rising, and the events of each."""
    first = int(ids.min())
    if counts is None and int(ids.max()) - first < SLOTS_PER_ROW * len(ids):
        n_events = np.bincount(ids - first)
        found = np.flatnonzero(n_events)
        return found + first, n_events[found]
    order = rising_order(ids)
    ordered = ids[order]
    starts = np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1]))
    if counts is None:
        return ordered[starts], np.diff(starts, append=len(ids))
    # in 64 bits: counts that travelled in 32 may add up to more
    return ordered[starts], np.add.reduceat(counts[order], starts, dtype=np.int64)


def collect_n_items(vocabularies: DataFrame) -> dict[str, int]:
    """Behaviour -> items with a token id, for the behaviours that have at least one."""
    return {row[BEHAVIOUR]: row["count"] for row in vocabularies.groupBy(BEHAVIOUR).count().collect()}


def collect_summaries(vocabularies: DataFrame) -> dict[str, VocabularySummary]:
    """Behaviour -> summary, for the behaviours that have at least one item."""
    # xor does not depend on the order of the rows, so neither does the fingerprint
    row_hash = F.bit_xor(F.xxhash64(KEY, TOKEN_ID)).alias("row_hash")
    rows = vocabularies.groupBy(BEHAVIOUR).agg(F.count("*").alias("n_items"), row_hash).collect()
    return {
        row[BEHAVIOUR]: VocabularySummary(row["n_items"], f"{row['n_items']}-{row['row_hash'] & (2**64 - 1):016x}")
        for row in rows
    }
