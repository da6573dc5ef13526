"""Events -> how much each client did, and how recently: what no mean over token vectors tells."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from functools import reduce

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from jobs.blocks.table import Block
from jobs.storage.stored_rows import timestamp_literal
from jobs.transforms.clients import rows_of_clients
from jobs.transforms.windows import events_before
from schemas.blocks import ACTIVITY
from schemas.columns import BEHAVIOUR, CLIENT_ID, TIMESTAMP, VECTOR


def client_activity(
    events: Mapping[str, DataFrame], clients: DataFrame, cutoff: datetime, days: Sequence[int]
) -> tuple[Block, DataFrame]:
    """The block ``activity``, and one row per client with an event before the cutoff: ``client_id``, ``vector``.

    A vector holds log(1 + n) of each behaviour: of all the client's events before the cutoff, then, for each of
    ``days``, of those in the last so many days before it.

    Parameters
    ----------
    events : behaviour -> one row per event, with ``client_id`` and ``timestamp``
    clients : whose events are counted
    """
    named = [
        frame.select(CLIENT_ID, TIMESTAMP, F.lit(behaviour).alias(BEHAVIOUR)) for behaviour, frame in events.items()
    ]
    own = rows_of_clients(events_before(reduce(DataFrame.unionAll, named), cutoff), clients)
    counts: dict[str, Column] = {}
    for behaviour in events:
        is_of_behaviour = F.col(BEHAVIOUR) == behaviour
        counts[f"{behaviour}/all"] = F.count_if(is_of_behaviour)
        for n_days in days:
            is_recent = F.col(TIMESTAMP) >= timestamp_literal(cutoff - timedelta(days=n_days))
            counts[f"{behaviour}/{n_days}d"] = F.count_if(is_of_behaviour & is_recent)
    vector = F.array(*(F.log1p(count).cast("float") for count in counts.values()))
    block = Block(ACTIVITY, tuple(counts), f"log(1 + events) of {', '.join(events)}")
    return block, own.groupBy(CLIENT_ID).agg(vector.alias(VECTOR))
