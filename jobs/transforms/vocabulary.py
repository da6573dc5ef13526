"""Events -> token ids."""

from dataclasses import dataclass

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from jobs.transforms.ranks import with_global_rank
from schemas.columns import BEHAVIOUR, KEY, N_EVENTS, TOKEN_ID
from schemas.tokens import FIRST_ITEM


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


def build_vocabulary(events: DataFrame, behaviour: str, item: str, min_count: int) -> DataFrame:
    """One row per item with at least ``min_count`` events: behaviour, key, token_id, n_events.

    Token ids follow falling ``n_events``, then the item (ids as numbers, queries as text), from FIRST_ITEM.
    Row order does not matter; the same events give the same ids on any number of partitions.
    """
    counts = events.groupBy(item).agg(F.count("*").alias(N_EVENTS)).filter(F.col(N_EVENTS) >= min_count)
    ranked = with_global_rank(counts, [F.col(N_EVENTS).desc(), F.col(item).asc()], TOKEN_ID, start=FIRST_ITEM)
    return ranked.select(
        F.lit(behaviour).alias(BEHAVIOUR), F.col(item).cast("string").alias(KEY), F.col(TOKEN_ID).cast("int"), N_EVENTS
    )


def collect_summaries(vocabularies: DataFrame) -> dict[str, VocabularySummary]:
    """Behaviour -> summary, for the behaviours that have at least one item."""
    row_hash = F.bit_xor(F.xxhash64(KEY, TOKEN_ID)).alias("row_hash")
    rows = vocabularies.groupBy(BEHAVIOUR).agg(F.count("*").alias("n_items"), row_hash).collect()
    return {
        row[BEHAVIOUR]: VocabularySummary(row["n_items"], f"{row['n_items']}-{row['row_hash'] & (2**64 - 1):016x}")
        for row in rows
    }
