"""split: where the windows lie and which clients are profiled.

Reads the typed events, ``input/relevant_clients.npy`` and ``target/active_clients.npy`` (each derived where
it is missing); writes ``windows`` and ``clients``.
"""

import logging
from contextlib import ExitStack
from datetime import datetime, timedelta
from functools import reduce
from math import ceil
from pathlib import Path

import numpy as np
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from conf.pipeline import PipelineConfig
from jobs.inputs.challenge_directory import ACTIVE_CLIENTS, RELEVANT_CLIENTS, read_id_array
from jobs.inputs.data_files import lists_folder, name_source
from jobs.storage.delta_tables import read_ingested, write_table
from jobs.storage.stored_rows import timestamp_literal
from jobs.storage.workspace import Workspace
from jobs.transforms.clients import clients_in_order, clients_with_events, rows_of_clients, with_activity
from jobs.transforms.windows import (
    ENTRY_MODE,
    Day,
    Windows,
    collect_days,
    collect_last_timestamp,
    derive_windows,
    events_before,
    find_stray_days,
    windows_frame,
)
from schemas import columns as c
from schemas.behaviours import PRODUCT_BUY
from schemas.errors import InputError
from schemas.tables import CLIENTS, WINDOWS

log = logging.getLogger(__name__)

N_ASKED_FIRST = 1000
"""So many of the listed clients are first asked whether any has an event."""
LONGEST_PAUSE = timedelta(days=28)
"""Before the last purchases; few of them after a longer one look like slips in a year, which would move the windows."""


def run(spark: SparkSession, config: PipelineConfig, workspace: Workspace) -> None:
    """Write the one row of windows and one row per relevant client."""
    events = {name: read_ingested(spark, workspace, table) for name, table in config.events_tables().items()}
    windows = collect_boundaries(events, config, workspace)
    log.info(
        "  input < %s, train from %s, validation from %s", windows.input_end, windows.train_start, windows.valid_start
    )
    inputs = {name: events_before(frame, windows.input_end) for name, frame in events.items()}
    # one row: in one task, not one per core, and with nothing to gather
    write_table(windows_frame(spark, windows).coalesce(1), workspace, WINDOWS, keep_partitions=True)
    with ExitStack() as cached:
        write_table(relevant_clients(spark, inputs, lists_folder(config, workspace), cached), workspace, CLIENTS)


def collect_boundaries(events: dict[str, DataFrame], config: PipelineConfig, workspace: Workspace) -> Windows:
    """The windows that the settings or the events call for.

    Raises
    ------
    InputError
        If there is no purchase to date them by, or the last ones, in mode entry the last event, look like slips.
    """
    purchases = events.get(PRODUCT_BUY)
    if purchases is not None and config.windows.end:
        return derive_windows(_collect_given_end(purchases, config.windows.end), config.windows)
    days = [] if purchases is None else collect_days(purchases)
    if not days:
        raise InputError(
            f"expected purchases ({PRODUCT_BUY}): the last one dates the windows; found none among the behaviours "
            f"{sorted(events)}; name {PRODUCT_BUY} in the configuration and give it events"
        )
    end = last_event = days[-1].last
    _refuse_stray_days(name_source(config, workspace, PRODUCT_BUY), days)
    if config.windows.mode == ENTRY_MODE:  # all events are input: the last one may come after the last purchase
        for name, frame in events.items():
            last = None if name == PRODUCT_BUY else collect_last_timestamp(frame)
            if last and last > last_event:
                _refuse_long_pause(name_source(config, workspace, name), "event", last, end)
                last_event = last
    return derive_windows(end, config.windows, last_event)


def _collect_given_end(purchases: DataFrame, text: str) -> datetime:
    """The time that ``windows.end`` names; logs how many purchases come after it, InputError where all do."""
    end = datetime.fromisoformat(text)
    is_later = F.col(c.TIMESTAMP) > timestamp_literal(end)
    n_purchases, n_later = purchases.agg(F.count("*"), F.count(F.when(is_later, True))).collect()[0]
    if n_later == n_purchases:
        raise InputError(
            f"expected purchases ({PRODUCT_BUY}) up to windows.end={text}, found none, and {n_later:,} after it; set a "
            "later time"
        )
    log.info("  windows.end=%s: %d of %d purchases come later: no targets, no inputs", text, n_later, n_purchases)
    return end


def _refuse_stray_days(source: str, days: list[Day]) -> None:
    position = find_stray_days(days, LONGEST_PAUSE)
    if position is None:
        return
    first, before, last = days[position].first, days[position - 1].last, days[-1].last
    if first == last:  # of a single moment: this raises, for the pause before it is the same
        _refuse_long_pause(source, "purchase", last, before)
    earlier, start, later = (f"{time:%Y-%m-%d %H:%M:%S}" for time in (before, first, last))
    n_stray, n_all = (sum(day.n_events for day in some) for some in (days[position:], days))
    raise InputError(
        f"{source}: expected more purchases than an average day has after a pause of more than {LONGEST_PAUSE.days} "
        f"days, found {n_stray:,} of {n_all:,} from {start} to {later}, and the one before at {earlier}; "
        f"correct their times, or set windows.end='{earlier}' to leave out what comes later, or windows.end='{later}' "
        "if the times are right"
    )


def _refuse_long_pause(source: str, event: str, last: datetime, before: datetime) -> None:
    if last - before > LONGEST_PAUSE:
        earlier, later = (f"{time:%Y-%m-%d %H:%M:%S}" for time in (before, last))
        raise InputError(
            f"{source}: expected the last {event} within {LONGEST_PAUSE.days} days of the last purchase before it, "
            f"found it at {later}, and that at {earlier}; correct its time, or set windows.end='{earlier}' to leave "
            f"out what comes later, or windows.end='{later}' if the time is right"
        )


def relevant_clients(
    spark: SparkSession, inputs: dict[str, DataFrame], folder: Path | None, cached: ExitStack
) -> DataFrame:
    """The clients table: in the order of the challenge's file, or every client with an input event, by id.

    Parameters
    ----------
    inputs : behaviour -> input events
    folder : the challenge directory; None where there is none
    cached : keeps derived clients cached, see ``with_global_rank``

    Raises
    ------
    InputError
        If no file names the clients and there is no input event, or the clients that files name are of other data.
    """
    relevant, listed_active = (
        read_id_array(folder / name) if folder else None for name in (RELEVANT_CLIENTS, ACTIVE_CLIENTS)
    )
    if relevant is None:
        clients = clients_with_events(list(inputs.values()), cached)
    else:
        clients = clients_in_order(spark, relevant)
    if clients.isEmpty():
        raise InputError(
            "expected events before the train target window, found none; give a longer history, fewer "
            "windows.target_days, or input/relevant_clients.npy"
        )
    if relevant is not None and folder:
        _refuse_strangers(spark, folder / RELEVANT_CLIENTS, relevant, list(inputs.values()))
        if listed_active is not None and not np.isin(listed_active, relevant).any():
            raise InputError(
                f"{folder / ACTIVE_CLIENTS}: expected some of the clients of {RELEVANT_CLIENTS}, found none; give both "
                "of one data set, or remove it to have the active clients derived"
            )
    active = inputs[PRODUCT_BUY] if listed_active is None else clients_in_order(spark, listed_active)
    return with_activity(clients, active)


def _refuse_strangers(spark: SparkSession, path: Path, client_ids: np.ndarray, events: list[DataFrame]) -> None:
    """Raise InputError where none of the listed clients has an input event."""
    having = reduce(DataFrame.unionAll, (frame.select(c.CLIENT_ID) for frame in events))
    # a few of a right list tell it at once; a join with all of them moves all events
    for some in (client_ids[:: ceil(len(client_ids) / N_ASKED_FIRST)], client_ids):
        if not rows_of_clients(having, clients_in_order(spark, some)).isEmpty():
            return
    examples = ", ".join(map(str, client_ids[:3]))
    raise InputError(
        f"{path}: expected clients with input events, found none among {len(client_ids):,} (the first: {examples}); "
        "give the list of this data set, or remove it to have it derived from the events"
    )


if __name__ == "__main__":
    from jobs.cli import main_stage

    main_stage("split")
