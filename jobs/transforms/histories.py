"""Packed rows of events, as they pass Spark's shuffle -> each client's history."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from jobs.transforms.packed import narrow
from jobs.transforms.radix import rising_order
from schemas.columns import CLIENT_ID, ITEM

SECOND, MICROSECOND, EVENT_TYPE, TEXT = "second", "microsecond", "event_type", "text"
N_FORGOTTEN = "n_forgotten"
MICROSECONDS = 1_000_000


def pack_times(time: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
    """Microseconds since 1970 -> seconds, and, where one is not 0, the microseconds of each."""
    second = time // MICROSECONDS
    rest = time - second * MICROSECONDS
    return {SECOND: narrow(second)} | ({MICROSECOND: rest.astype(np.int32)} if rest.any() else {})


@dataclass(frozen=True)
class Histories:
    """Rows in event order: those of one client follow each other, and clients rise.

    Attributes
    ----------
    order : int64 [rows], the rows' positions
    client_ids : int64 [clients]
    ends : int64 [clients], where in ``order`` each client's rows end
    lengths : int64 [clients], how many rows each has
    n_events : int64 [clients], the same with the repeats and the forgotten ones
    """

    order: NDArray[np.int64]
    client_ids: NDArray[np.int64]
    ends: NDArray[np.int64]
    lengths: NDArray[np.int64]
    n_events: NDArray[np.int64]


def order_histories(rows: pa.Table, drops_repeats: bool = False) -> Histories:
    """Packed rows by client, time, event type if they have one, then item (ids as numbers, text by its characters).

    Parameters
    ----------
    drops_repeats : leave out all but one of the rows that are equal in all of these
    """
    client = rows.column(CLIENT_ID).to_numpy().astype(np.int64)
    tick = rows.column(SECOND).to_numpy().astype(np.int64)
    # few bits, so that client and time fit into one number below
    tick -= tick.min()
    if MICROSECOND in rows.column_names:
        # null in rows of blocks that had no fractions
        tick = tick * MICROSECONDS + rows.column(MICROSECOND).fill_null(0).to_numpy()
    if EVENT_TYPE in rows.column_names:
        event_type = rows.column(EVENT_TYPE).to_numpy()
        tick = tick * (1 + int(event_type.max())) + event_type
    tick_bits = int(tick.max()).bit_length()
    first = int(client.min())
    if (int(client.max()) - first).bit_length() + tick_bits > 63:  # an int64 has so many beside its sign
        order = np.lexsort((tick, client))
        ordered = client[order]
        is_tied = (np.diff(ordered) == 0) & (np.diff(tick[order]) == 0)
    else:  # client and time in one number: it is sorted by in half the time of two
        moment = (client - first) << tick_bits | tick
        order = rising_order(moment)
        moment = moment[order]
        is_tied = moment[1:] == moment[:-1]
        ordered = (moment >> tick_bits) + first
    is_first = np.ones(len(order), np.bool_)
    if is_tied.any():
        # items, which may be text, are compared among the rows that tie alone
        order, is_first = _break_ties(order, is_tied, rows)
    ends = np.append(np.flatnonzero(ordered[1:] != ordered[:-1]) + 1, len(ordered))
    client_ids = ordered[ends - 1]
    lengths = np.diff(ends, prepend=0)
    n_events = lengths
    if N_FORGOTTEN in rows.column_names:  # null in rows that were never shrunk
        forgotten = rows.column(N_FORGOTTEN).fill_null(0).to_numpy()
        n_events = lengths + np.add.reduceat(forgotten[order], ends - lengths)
    if drops_repeats:
        # only now: ``n_events`` counts repeats too
        order, ends = order[is_first], np.cumsum(is_first)[ends - 1]
        lengths = np.diff(ends, prepend=0)
    return Histories(order, client_ids, ends, lengths, n_events)


def _break_ties(
    order: NDArray[np.int64], is_tied: NDArray[np.bool_], rows: pa.Table
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """``order`` with each run of rows that tie sorted by item, and whether each row is the first of its item there."""
    # whether each row ties with the one before it: where it does not, a run begins
    follows = np.concatenate([[False], is_tied])
    in_run = np.flatnonzero(follows | np.concatenate([is_tied, [False]]))
    run = np.cumsum(~follows)[in_run]
    tied = order[in_run]
    item_rank = _item_ranks(rows, tied)
    # run by run: runs keep their positions, only the rows within one change theirs
    by_item = np.lexsort((item_rank, run))
    order[in_run] = tied[by_item]
    item_rank = item_rank[by_item]
    is_first = np.ones(len(order), np.bool_)
    # a run has rows of one event type, so of one kind of item
    is_first[in_run[1:]] = ~follows[in_run[1:]] | (item_rank[1:] != item_rank[:-1])
    return order, is_first


def _item_ranks(rows: pa.Table, chosen: NDArray[np.int64]) -> NDArray[np.int64]:
    """The rank of each chosen row's item among those of its kind, int64 [chosen]."""
    ranks = np.zeros(len(chosen), np.int64)
    for name in (ITEM, TEXT):
        if name in rows.column_names:
            items = rows.column(name).take(pa.array(chosen))
            has_one = np.flatnonzero(items.is_valid().to_numpy())
            _, ranks[has_one] = np.unique(items.drop_null().to_numpy(), return_inverse=True)
    return ranks
