"""How many events are exact repeats of another one."""

from collections.abc import Mapping
from functools import reduce

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from jobs.transforms.vocabulary import count_items
from schemas.columns import N_EVENTS


def collect_n_duplicates(events: Mapping[str, DataFrame]) -> dict[str, int]:
    """Behaviour -> rows beyond the first of each set of equal rows: what ``distinct`` would remove.

    Nulls equal each other.

    Notes
    -----
    For a line in the log: rows are taken for equal if a hash of about 60 bits is, which moves a third of the bytes and
    counts all behaviours in one job. Among n rows about n**2 / 2**61 different ones share a hash: a few dozen of 10
    billion. What must add up, as the rows of ingest with ``drop_duplicates``, counts rows themselves.
    """
    # the low bits of a hash say whose row it is of
    n_bits = len(events).bit_length()
    hashes = [
        frame.select(F.shiftleft(F.xxhash64(*frame.columns), n_bits).bitwiseOR(F.lit(number)).alias("row_hash"))
        for number, frame in enumerate(events.values())
    ]
    repeated = count_items(reduce(DataFrame.union, hashes), "row_hash", min_count=2)
    number = F.col("row_hash").bitwiseAND(F.lit((1 << n_bits) - 1)).alias("number")
    rows = repeated.groupBy(number).agg(F.sum(F.col(N_EVENTS) - 1).alias("n")).collect()
    n_more = {row["number"]: row["n"] for row in rows}
    return {name: n_more.get(number, 0) for number, name in enumerate(events)}
