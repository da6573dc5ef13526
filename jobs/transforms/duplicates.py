"""How many events are exact repeats of another one."""

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from jobs.transforms.vocabulary import count_items
from schemas.columns import N_EVENTS

ROW_HASH = "row_hash"


def collect_n_duplicates(events: DataFrame) -> int:
    """Rows beyond the first of each set of equal rows: what ``distinct`` would remove. Nulls equal each other.

    Notes
    -----
    For a line in the log: rows are taken for equal if a hash of 64 bits is, which moves a third of the bytes. Among n
    rows about n**2 / 2**65 different ones share a hash: less than one of 6 billion, some 270 of 100 billion. What must
    add up, as the rows of ingest with ``drop_duplicates``, counts rows themselves.
    """
    hashes = events.select(F.xxhash64(*events.columns).alias(ROW_HASH))
    repeated = count_items(hashes, ROW_HASH, min_count=2)
    row = repeated.agg(F.sum(F.col(N_EVENTS) - 1).alias("n")).first()
    return int(row["n"] or 0) if row else 0
