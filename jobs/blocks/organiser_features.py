"""The organisers' aggregated features, right on any row order of the events.

Per behaviour with ids: ``<behaviour>/count``, then ``<behaviour>/<days>d/<column>=<value>`` for windows of
1, 7 and 30 days before the behaviour's last input event, its columns, and each column's 10 most frequent
values. Per behaviour with codes: ``<behaviour>/mean_code_<i>``.
"""

import logging
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from functools import reduce

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from conf.inputs import BehaviourSettings
from jobs.blocks.table import Block
from jobs.runtime.side_by_side import map_side_by_side
from jobs.storage.stored_rows import timestamp_literal
from jobs.transforms.clients import rows_of_clients
from jobs.transforms.windows import collect_last_timestamp, events_before
from schemas import columns as c
from schemas.behaviours import CODES_PER_QUERY, ItemKind
from schemas.blocks import BASELINE
from schemas.errors import InputError

WINDOW_DAYS = (1, 7, 30)
TOP_VALUES = 10

log = logging.getLogger(__name__)

Features = tuple[list[str], DataFrame]
"""The features of one behaviour: their names, and one row per client with input events: ``client_id``, ``vector``
array<float> in the names' order."""


def collect_organiser_features(
    events: Mapping[str, DataFrame], clients: DataFrame, cutoff: datetime, behaviours: Mapping[str, BehaviourSettings]
) -> tuple[Block, DataFrame]:
    """The block ``baseline``, and one row per client with an event before the cutoff: ``client_id``, ``vector``.

    A behaviour without such an event is left out. A client without events of a behaviour has zeros there.

    Parameters
    ----------
    events : behaviour -> one row per event, with its item; where that is a sku, with ``category`` and ``price`` too

    Raises
    ------
    InputError
        If no behaviour has such an event.
    """

    def collect_part(name: str) -> Features | None:
        item, own = behaviours[name].item, rows_of_clients(events_before(events[name], cutoff), clients)
        if behaviours[name].kind == ItemKind.CODES:
            return collect_mean_codes(own, name, item)
        return collect_count_features(own, name, (c.SKU, c.CATEGORY, c.PRICE) if item == c.SKU else (item,))

    found = map_side_by_side(collect_part, events)
    for name, part in zip(events, found, strict=True):
        if part is None:
            log.info("  %s: %s is left out: the relevant clients have no input event of it", BASELINE, name)
    parts = [part for part in found if part is not None]
    if not parts:
        raise InputError(
            f"expected input events of the relevant clients in one of {sorted(events)}, found none; do "
            "input/relevant_clients.npy and the events belong together?"
        )
    all_names = tuple(name for names, _ in parts for name in names)
    return Block(BASELINE, all_names, f"the organisers' features of {', '.join(events)}"), join_features(parts)


def collect_count_features(events: DataFrame, behaviour: str, columns: Sequence[str]) -> Features | None:
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
        # before the last event, not before the cutoff: so the organisers count
        is_recent = F.col(c.TIMESTAMP) >= timestamp_literal(last - timedelta(days=days))
        for column, values in top.items():
            for value in values:
                is_counted = is_recent & (F.col(column) == F.lit(value))
                counts[f"{behaviour}/{days}d/{column}={value}"] = F.count(F.when(is_counted, F.lit(1)))
    vector = F.array(*(count.cast("float") for count in counts.values()))
    return list(counts), events.groupBy(c.CLIENT_ID).agg(vector.alias(c.VECTOR))


def collect_top_values(events: DataFrame, column: str) -> list[int]:
    """The most frequent values of a column, ties by rising value; nulls are no value."""
    counts = events.filter(F.col(column).isNotNull()).groupBy(column).agg(F.count("*").alias("n"))
    return [row[column] for row in counts.orderBy(F.col("n").desc(), F.col(column)).limit(TOP_VALUES).collect()]


def collect_mean_codes(events: DataFrame, behaviour: str, item: str) -> Features | None:
    """Mean of each code of a behaviour whose items are codes ``[a b ...]``; None where it has no event."""
    if collect_last_timestamp(events) is None:  # no window here: it only tells whether there is an event
        return None
    codes = F.split(F.btrim(F.col(item), F.lit("[]")), " ").cast("array<int>")
    means = [F.avg(F.col("codes")[number]).cast("float") for number in range(CODES_PER_QUERY)]
    frame = events.select(c.CLIENT_ID, codes.alias("codes")).groupBy(c.CLIENT_ID).agg(F.array(*means).alias(c.VECTOR))
    return [f"{behaviour}/mean_code_{number}" for number in range(CODES_PER_QUERY)], frame


def join_features(parts: Sequence[Features]) -> DataFrame:
    """One row per client with any part: ``client_id``, ``vector`` array<float>, the parts one after another.

    A client without events of a behaviour has zeros there.
    """
    named = [frame.withColumnRenamed(c.VECTOR, f"part_{number}") for number, (_, frame) in enumerate(parts)]
    joined = reduce(lambda one, other: one.join(other, on=c.CLIENT_ID, how="outer"), named)
    # float as the vectors are: beside doubles Spark would make them doubles
    columns = [
        F.coalesce(F.col(f"part_{number}"), F.array_repeat(F.lit(0.0).cast("float"), len(names)))
        for number, (names, _) in enumerate(parts)
    ]
    return joined.select(c.CLIENT_ID, F.concat(*columns).alias(c.VECTOR))
