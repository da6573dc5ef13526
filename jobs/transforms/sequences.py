"""Events and token ids -> each client's last tokens in event order, by an aggregation in numpy."""

from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray
from pyspark import Broadcast
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from conf.inputs import BehaviourSettings
from conf.pipeline import PipelineConfig
from conf.sequences import SequenceSettings, Stream
from jobs.runtime.caching import broadcast_value
from jobs.storage.stored_rows import StoredRows
from jobs.transforms.histories import EVENT_TYPE, N_FORGOTTEN, SECOND, order_histories, pack_times
from jobs.transforms.item_positions import SLOTS_PER_ITEM, ItemPositions, collect_item_positions
from jobs.transforms.packed import aggregate_packed, narrow, spread_keys
from ml.data.sequence_batch import flat_positions
from schemas.behaviours import ItemKind
from schemas.columns import (
    BEHAVIOUR,
    CLIENT_ID,
    EVENT_TYPES,
    IS_HELD_OUT,
    ITEM,
    KEY,
    N_EVENTS,
    TIMESTAMP,
    TIMESTAMPS,
    TOKEN_ID,
    TOKEN_IDS,
    WIDTH,
)
from schemas.tokens import UNK

BYTES_PER_ITEM = {ItemKind.ID: 12 + 4 * SLOTS_PER_ITEM, ItemKind.CODES: 200}
"""About what one item takes: an id in ``ItemPositions`` at most, codes in Spark's hash table of a broadcast join."""

SLOTS_PER_LONG_CLIENT = 16
"""Hashed counters per client that could be long: few enough for the cache, many enough that most are truly long."""
MIN_TRUNCATION_GAIN = 8
"""Truncation is skipped where it would remove less than one row in so many, and no client has so many times the rows
that are kept: it would cost more than carrying them."""


def build_sequences(
    events: DataFrame | StoredRows,
    vocabulary: DataFrame | ItemPositions,
    behaviour: str,
    config: PipelineConfig,
    cached: ExitStack,
) -> DataFrame:
    """One row per client with at least one event in the vocabulary, in the columns of ``tables/sequences``.

    Parameters
    ----------
    events : client_id, timestamp, item of one behaviour, in any row order
    vocabulary : this behaviour's rows of ``tables/vocabularies``, or what ``collect_if_small`` makes of them
    cached : keeps a small vocabulary on the executors; close it after the write

    Events of rare items are dropped, or kept as UNK where the settings say so. Order is total: time, then item
    (ids as numbers, queries as text); events that tie on both have the same token. The result is the same for
    any partitioning of the input.
    """
    settings = config.behaviours[behaviour]
    last = LastTokens.of_stream(config.streams()[behaviour], config)
    if isinstance(vocabulary, ItemPositions):
        frame = events.frame if isinstance(events, StoredRows) else events
        sent = broadcast_value(frame, vocabulary, cached)
        last = replace(last, positions=sent, keep_unknown=settings.keep_rare_as_unk)
    rows = with_token_ids(events, vocabulary, settings)
    sequences = aggregate_packed([(rows, last.pack)], last.shrink, last.finish, LastTokens.DDL)
    return sequences.select(F.lit(behaviour).alias(BEHAVIOUR), "*")


def with_token_ids(
    events: DataFrame | StoredRows, vocabulary: DataFrame | ItemPositions, settings: BehaviourSettings
) -> DataFrame | StoredRows:
    """Events of one behaviour: client_id, timestamp, item and, where tasks do not look it up themselves, token_id."""
    if isinstance(vocabulary, ItemPositions):
        return events.select(CLIENT_ID, TIMESTAMP, settings.item)
    frame = events.frame if isinstance(events, StoredRows) else events
    item_type = "bigint" if settings.kind == ItemKind.ID else "string"
    ids = vocabulary.select(F.col(KEY).cast(item_type).alias(settings.item), TOKEN_ID)
    joined = frame.join(ids, on=settings.item, how="left" if settings.keep_rare_as_unk else "inner")
    token_id = F.coalesce(TOKEN_ID, F.lit(UNK)).alias(TOKEN_ID)
    return joined.select(CLIENT_ID, TIMESTAMP, settings.item, token_id)


def collect_if_small(
    vocabulary: DataFrame, n_items: int, kind: ItemKind, settings: SequenceSettings
) -> DataFrame | ItemPositions:
    """The vocabulary in the form in which it goes whole to every executor, where it is small enough for that."""
    if n_items * BYTES_PER_ITEM[kind] > settings.broadcast_max_mib * 2**20:
        return vocabulary
    return collect_item_positions(vocabulary) if kind is ItemKind.ID else F.broadcast(vocabulary)


@dataclass(frozen=True)
class LastTokens:
    """The aggregation behind ``tables/sequences``: each client's last tokens, laid out for the feed.

    Its source rows are client_id, timestamp, item and, where there are no ``positions``, token_id. They are packed
    into as few bytes as their values need:

    - client_id;
    - second, since 1970, and, where one is not 0, microsecond;
    - item: its position, or, where there are no ``positions``, the item itself, and its token_id;
    - of merged behaviours, which one the event is of (``jobs.transforms.merged_sequences``);
    - once shrunk, ``n_forgotten``: the events of the client that were dropped because ``max_length`` later ones
      are kept, or as repeats.

    Attributes
    ----------
    positions : the vocabulary, where it is small enough for every task to hold
    keep_unknown : whether events of items that it does not know are kept
    has_events : whether event types and times are kept beside the token ids
    drops_repeats : whether of rows that are equal one is kept
    """

    max_length: int
    layout: SequenceSettings
    seed: int
    positions: Broadcast[ItemPositions] | None = None
    keep_unknown: bool = False
    has_events: bool = False
    drops_repeats: bool = False

    DDL: ClassVar = (
        f"{IS_HELD_OUT} boolean, {WIDTH} int, {CLIENT_ID} bigint, {TOKEN_IDS} array<int>, {N_EVENTS} bigint, "
        f"{EVENT_TYPES} array<tinyint>, {TIMESTAMPS} array<bigint>"
    )

    @classmethod
    def of_stream(cls, stream: Stream, config: PipelineConfig) -> "LastTokens":
        """The aggregation of one stream."""
        layout = stream.layout(config.sequences)
        return cls(
            stream.max_length,
            layout,
            config.seed,
            has_events=stream.has_events,
            drops_repeats=stream.drops_repeats,
        )

    def pack(self, rows: pa.Table) -> pa.Table:
        """Source rows in packed form; events of unknown items are left out unless they are kept."""
        client, time = rows.column(CLIENT_ID).to_numpy(), rows.column(TIMESTAMP).to_numpy().view(np.int64)
        # by position: each behaviour has another name for its item
        if self.positions is None:
            items = {ITEM: rows.column(2), TOKEN_ID: rows.column(3)}
        else:
            position = self.positions.value.find(rows.column(2).to_numpy())
            if not self.keep_unknown:
                known = np.flatnonzero(position & 1)
                client, time, position = client[known], time[known], position[known]
            items = {ITEM: position}
        return pa.table({CLIENT_ID: narrow(client), **pack_times(time), **items})

    def shrink(self, rows: pa.Table) -> pa.Table:
        """The rows without the early events of clients that have more than ``max_length`` here."""
        n_slots = 1 + SLOTS_PER_LONG_CLIENT * rows.num_rows // self.max_length
        # several clients may share a slot: a slot of few rows has no long client, one of many may have. By the hash of
        # the buckets, which has no salt, the clients of one bucket would share few slots
        slots = spread_keys(rows.column(CLIENT_ID), n_slots, salt=1)
        n_in_slot = np.bincount(slots, minlength=n_slots)
        may_be_long = (n_in_slot > self.max_length)[slots]
        is_rare = np.count_nonzero(may_be_long) * MIN_TRUNCATION_GAIN <= rows.num_rows
        if is_rare and n_in_slot.max() <= MIN_TRUNCATION_GAIN * self.max_length:
            return rows
        kept = self.keep_last(rows.filter(may_be_long))
        return pa.concat_tables([rows.filter(~may_be_long), kept], promote_options="permissive")

    def keep_last(self, rows: pa.Table) -> pa.Table:
        """The last ``max_length`` rows of each client, by client, then in event order."""
        histories = order_histories(rows, self.drops_repeats)
        n_kept = np.minimum(histories.lengths, self.max_length)
        kept = rows.take(histories.order[flat_positions(histories.ends - n_kept, n_kept)])
        if N_FORGOTTEN in kept.column_names:  # of an earlier shrinking: ``n_events`` has them already
            kept = kept.drop_columns([N_FORGOTTEN])
        # on the first row of each client, so that the sum over its rows counts each event once
        forgotten = np.zeros(kept.num_rows, np.int64)
        forgotten[np.cumsum(n_kept) - n_kept] = histories.n_events - n_kept
        return kept.append_column(N_FORGOTTEN, pa.array(forgotten))

    def finish(self, rows: pa.Table) -> pa.Table:
        """All rows of some clients -> one row per client in the columns of ``DDL``, sorted by them."""
        histories = order_histories(rows, self.drops_repeats)
        n_kept = np.minimum(histories.lengths, self.max_length)
        width = np.searchsorted(self.layout.widths, n_kept)
        held_out = is_held_out(histories.client_ids, self.layout.held_out_share, self.seed)
        # clients rise already, and numpy sorts 16 bits by counting them
        laid_out = np.argsort((held_out * len(self.layout.widths) + width).astype(np.uint16), kind="stable")
        starts, n_kept = (histories.ends - n_kept)[laid_out], n_kept[laid_out]
        chosen = histories.order[flat_positions(starts, n_kept)]
        if self.positions is None:
            tokens = rows.column(TOKEN_ID).to_numpy()[chosen]
        else:
            tokens = self.positions.value.token_ids_at(rows.column(ITEM).to_numpy()[chosen])
        offsets = pa.array(np.append(0, np.cumsum(n_kept)).astype(np.int32))
        event_types = pa.nulls(len(n_kept), pa.list_(pa.int8()))
        timestamps = pa.nulls(len(n_kept), pa.list_(pa.int64()))
        if self.has_events:
            # events of one behaviour alone are all of the stream's first type
            types = rows.column(EVENT_TYPE).to_numpy()[chosen] if EVENT_TYPE in rows.column_names else 1
            event_types = pa.ListArray.from_arrays(offsets, pa.array(np.broadcast_to(np.int8(types), len(chosen))))
            seconds = rows.column(SECOND).to_numpy()[chosen].astype(np.int64)
            timestamps = pa.ListArray.from_arrays(offsets, pa.array(seconds))
        return pa.table(
            {
                IS_HELD_OUT: held_out[laid_out],
                # the longest sequences of a stream need no wider batch than their own length
                WIDTH: np.minimum(np.array(self.layout.widths)[width[laid_out]], self.max_length).astype(np.int32),
                CLIENT_ID: histories.client_ids[laid_out],
                TOKEN_IDS: pa.ListArray.from_arrays(offsets, pa.array(tokens)),
                N_EVENTS: histories.n_events[laid_out],
                EVENT_TYPES: event_types,
                TIMESTAMPS: timestamps,
            }
        )


def is_held_out(client_ids: NDArray[np.int64], share: float, seed: int) -> NDArray[np.bool_]:
    """Whether each client's last item is kept for validation: by a hash, the same in every behaviour."""
    # hashed once more below: with the xor alone, two seeds would differ by the same bits for every client
    salted = pd.util.hash_array(client_ids) ^ pd.util.hash_array(np.array([seed]))
    # the upper 53 bits, which a double holds exactly
    return (pd.util.hash_array(salted) >> np.uint64(11)) / 2.0**53 < share
