"""The organisers' aggregated features, right on any row order of the events.

Per behaviour with ids: ``<behaviour>/count``, then ``<behaviour>/<days>d/<column>=<value>`` for windows of
1, 7 and 30 days before the behaviour's last input event, its columns, and each column's 10 most frequent
values. Per behaviour with codes: ``<behaviour>/mean_code_<i>``.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from jobs.storage.stored_rows import timestamp_literal
from jobs.transforms.windows import collect_last_timestamp
from schemas import columns as c
from schemas.behaviours import CODES_PER_QUERY

WINDOW_DAYS = (1, 7, 30)
TOP_VALUES = 10
FLOAT16_MAX = 65504.0
"""Larger counts are clipped to it: the entry's float16 holds none."""

FEATURES = "features"


@dataclass(frozen=True)
class BehaviourFeatures:
    """The features of one behaviour.

    Attributes
    ----------
    names : one per feature
    frame : one row per client with input events: ``client_id``, ``features`` array<float> in the names' order
    """

    names: list[str]
    frame: DataFrame


def counted_columns(item: str) -> tuple[str, ...]:
    """The columns whose values are counted: a sku's own, its category and its price; else the item alone."""
    return (c.SKU, c.CATEGORY, c.PRICE) if item == c.SKU else (item,)


def collect_count_features(events: DataFrame, behaviour: str, columns: Sequence[str]) -> BehaviourFeatures | None:
    """Counts of a behaviour whose items are ids; None where it has no event.

    Collects the top values (at most 10 a column) and the last event's time, never a client.

    Parameters
    ----------
    events : one row per input event of a relevant client, with ``columns``; a null is no value
    """
    last = collect_last_timestamp(events)
    if last is None:
        return None
    top = {column: collect_top_values(events, column) for column in columns}
    counts = {f"{behaviour}/count": F.count("*")}
    for days in WINDOW_DAYS:
        for column in columns:
            for value in top[column]:
                counts[f"{behaviour}/{days}d/{column}={value}"] = _count_since(last, days, column, value)
    clipped = [F.least(count.cast("float"), F.lit(FLOAT16_MAX).cast("float")) for count in counts.values()]
    return BehaviourFeatures(list(counts), events.groupBy(c.CLIENT_ID).agg(F.array(*clipped).alias(FEATURES)))


def collect_top_values(events: DataFrame, column: str) -> list[int]:
    """The most frequent values of a column, ties by rising value; nulls are no value."""
    counts = events.filter(F.col(column).isNotNull()).groupBy(column).agg(F.count("*").alias("n"))
    return [row[column] for row in counts.orderBy(F.col("n").desc(), F.col(column)).limit(TOP_VALUES).collect()]


def _count_since(last: datetime, days: int, column: str, value: int) -> Column:
    is_recent = F.col(c.TIMESTAMP) >= timestamp_literal(last - timedelta(days=days))
    is_value = F.col(column) == F.lit(value)
    return F.count(F.when(is_recent & is_value, F.lit(1)))


def collect_mean_codes(events: DataFrame, behaviour: str, item: str) -> BehaviourFeatures | None:
    """Mean of each code of a behaviour whose items are codes ``[a b ...]``; None where it has no event."""
    if collect_last_timestamp(events) is None:
        return None
    codes = F.split(F.btrim(F.col(item), F.lit("[]")), " ").cast("array<int>")
    means = [F.avg(F.col("codes")[place]).cast("float") for place in range(CODES_PER_QUERY)]
    frame = events.select(c.CLIENT_ID, codes.alias("codes")).groupBy(c.CLIENT_ID).agg(F.array(*means).alias(FEATURES))
    return BehaviourFeatures([f"{behaviour}/mean_code_{place}" for place in range(CODES_PER_QUERY)], frame)


def join_features(clients: DataFrame, parts: Sequence[BehaviourFeatures]) -> DataFrame:
    """One row per client: ``position``, ``client_id``, ``features`` array<float>, the parts one after another.

    A client without events of a behaviour has zeros there.
    """
    joined = clients.select(c.POSITION, c.CLIENT_ID)
    columns = []
    for number, part in enumerate(parts):
        name = f"part_{number}"
        joined = joined.join(part.frame.withColumnRenamed(FEATURES, name), on=c.CLIENT_ID, how="left")
        zeros = F.array_repeat(F.lit(0.0).cast("float"), len(part.names))
        columns.append(F.coalesce(F.col(name), zeros))
    return joined.select(c.POSITION, c.CLIENT_ID, F.concat(*columns).alias(FEATURES))
