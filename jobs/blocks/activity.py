"""Events -> how much each client did in a behaviour, and how recently: what no mean over items tells."""

from collections.abc import Sequence
from datetime import timedelta

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from jobs.storage.stored_rows import timestamp_literal
from jobs.transforms.clients import rows_of_clients
from jobs.transforms.windows import Windows, input_events
from schemas.columns import ACTIVITY, CLIENT_ID, TIMESTAMP


def client_activity(events: DataFrame, clients: DataFrame, windows: Windows, days: Sequence[int]) -> DataFrame:
    """One row per client with input events: ``client_id``, ``activity`` array<float>.

    Its numbers are log(1 + n), first of all the client's events, then, for each of ``days``, of those in the last so
    many days of the input.

    Parameters
    ----------
    events : one row per event of a behaviour, with ``client_id`` and ``timestamp``
    clients : whose events are counted
    """
    relevant = rows_of_clients(input_events(events, windows), clients)
    counts = [F.count("*"), *(_count_in_last(n_days, windows) for n_days in days)]
    activity = F.array(*(F.log1p(count).cast("float") for count in counts))
    return relevant.groupBy(CLIENT_ID).agg(activity.alias(ACTIVITY))


def _count_in_last(n_days: int, windows: Windows) -> Column:
    start = timestamp_literal(windows.input_end - timedelta(days=n_days))
    return F.count(F.when(F.col(TIMESTAMP) >= start, 1))
