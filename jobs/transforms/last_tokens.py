"""Each client's last tokens, kept in blocks of rows: the aggregation behind ``tables/sequences``, in numpy."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from conf.settings import SequenceSettings
from jobs.transforms.packed import hash_keys
from schemas.columns import CLIENT_ID, IS_HELD_OUT, N_EVENTS, TIMESTAMP, TOKEN_ID, TOKEN_IDS, WIDTH

N_FORGOTTEN = "n_forgotten"
MICROSECONDS = 1_000_000
SLOTS_PER_LONG_CLIENT = 16
"""Hashed counters per client that could be long: few enough for the cache, many enough that most are truly long."""


@dataclass(frozen=True)
class LastTokens:
    """The aggregation behind ``tables/sequences``: each client's last tokens, laid out for the feed.

    Its rows are client_id, timestamp, item, token_id and, once shrunk, ``n_forgotten``: the events of the client
    that were dropped because ``max_length`` later ones are kept.
    """

    max_length: int
    layout: SequenceSettings
    seed: int

    DDL: ClassVar = f"{IS_HELD_OUT} boolean, {WIDTH} int, {CLIENT_ID} bigint, {TOKEN_IDS} array<int>, {N_EVENTS} bigint"

    def shrink(self, rows: pa.Table) -> pa.Table:
        """The rows without the early events of clients that have more than ``max_length`` here."""
        n_slots = 1 + SLOTS_PER_LONG_CLIENT * rows.num_rows // self.max_length
        slots = (hash_keys(rows.column(CLIENT_ID)) >> np.uint64(32)).astype(np.int64) % n_slots
        may_be_long = np.bincount(slots)[slots] > self.max_length
        if not may_be_long.any():
            return rows
        kept = self.keep_last(rows.filter(may_be_long))
        return pa.concat_tables([rows.filter(~may_be_long), kept], promote_options="default")

    def keep_last(self, rows: pa.Table) -> pa.Table:
        """The last ``max_length`` rows of each client, by client, then in event order."""
        ordered = rows.take(event_order(rows))
        starts, lengths = _runs(ordered.column(CLIENT_ID).to_numpy())
        n_dropped = np.maximum(lengths - self.max_length, 0)
        forgotten = _forgotten(ordered)
        if not n_dropped.any():
            return _with_forgotten(ordered, forgotten)
        n_forgotten = np.add.reduceat(forgotten, starts) + n_dropped
        is_kept = np.arange(ordered.num_rows) >= np.repeat(starts + n_dropped, lengths)
        forgotten[:] = 0
        forgotten[starts + n_dropped] = n_forgotten
        return _with_forgotten(ordered, forgotten).filter(is_kept)

    def finish(self, rows: pa.Table) -> pa.Table:
        """All rows of some clients -> one row per client in the columns of ``DDL``, sorted by them."""
        kept = self.keep_last(rows)
        client_ids = kept.column(CLIENT_ID).to_numpy()
        starts, lengths = _runs(client_ids)
        columns = {
            IS_HELD_OUT: is_held_out(client_ids[starts], self.layout.held_out_share, self.seed),
            WIDTH: self._width(lengths),
            CLIENT_ID: client_ids[starts],
            TOKEN_IDS: _lists(kept.column(TOKEN_ID), starts),
            N_EVENTS: lengths + np.add.reduceat(_forgotten(kept), starts),
        }
        return pa.table(columns).take(np.lexsort([columns[name] for name in (CLIENT_ID, WIDTH, IS_HELD_OUT)]))

    def _width(self, lengths: NDArray[np.int64]) -> NDArray[np.int32]:
        """The smallest configured width that holds each sequence, at most the behaviour's longest sequence."""
        widths = np.array(self.layout.widths)
        return np.minimum(widths[np.searchsorted(widths, lengths)], self.max_length).astype(np.int32)


def is_held_out(client_ids: NDArray[np.int64], share: float, seed: int) -> NDArray[np.bool_]:
    """Whether each client's last item is kept for validation: by a hash, the same in every behaviour."""
    salted = pd.util.hash_array(client_ids) ^ pd.util.hash_array(np.array([seed]))
    return (pd.util.hash_array(salted) >> np.uint64(11)) / 2.0**53 < share


def event_order(rows: pa.Table) -> NDArray[np.int64]:
    """Places of the rows by client, time, then item (ids as numbers, text by its characters)."""
    client, time = rows.column(CLIENT_ID).to_numpy(), rows.column(TIMESTAMP).to_numpy().view(np.int64)
    unit = 1 if (time % MICROSECONDS).any() else MICROSECONDS
    ticks = (time - time.min()) // unit
    tick_bits = int(ticks.max()).bit_length()
    client_bits = (int(client.max()) - int(client.min())).bit_length()
    if client_bits + tick_bits > 63:
        order = np.lexsort((ticks, client))
        is_tied = (np.diff(client[order]) == 0) & (np.diff(ticks[order]) == 0)
    else:  # one number is sorted by in half the time of two
        moment = (client - client.min()) << tick_bits | ticks
        order = np.argsort(moment)
        is_tied = np.diff(moment[order]) == 0
    return _break_ties(order, is_tied, rows.column(2)) if is_tied.any() else order


def _break_ties(order: NDArray[np.int64], is_tied: NDArray[np.bool_], items: pa.ChunkedArray) -> NDArray[np.int64]:
    """``order`` with each run of rows that tie with the row before them sorted by item."""
    follows = np.concatenate([[False], is_tied])
    in_run = follows | np.concatenate([is_tied, [False]])
    run = np.cumsum(~follows)[in_run]
    tied = order[in_run]
    _, item_rank = np.unique(items.take(tied).to_numpy(), return_inverse=True)
    order[in_run] = tied[np.lexsort((item_rank, run))]
    return order


def _runs(values: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Start and length of each run of equal values."""
    starts = np.flatnonzero(np.concatenate([[True], values[1:] != values[:-1]]))
    return starts, np.diff(starts, append=len(values))


def _forgotten(rows: pa.Table) -> NDArray[np.int64]:
    if N_FORGOTTEN not in rows.column_names:
        return np.zeros(rows.num_rows, np.int64)
    return rows.column(N_FORGOTTEN).fill_null(0).to_numpy().copy()


def _with_forgotten(rows: pa.Table, n_forgotten: NDArray[np.int64]) -> pa.Table:
    events = rows.drop_columns([N_FORGOTTEN]) if N_FORGOTTEN in rows.column_names else rows
    return events.append_column(N_FORGOTTEN, pa.array(n_forgotten))


def _lists(values: pa.ChunkedArray, starts: NDArray[np.int64]) -> pa.ListArray:
    offsets = np.append(starts, len(values)).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), values.combine_chunks())
