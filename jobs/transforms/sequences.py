"""Events and token ids -> each client's last tokens in event order."""

from collections.abc import Callable, Iterable

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from conf.settings import BehaviourSettings, PipelineConfig, SequenceSettings
from schemas.behaviours import ItemKind
from schemas.columns import (
    BEHAVIOUR,
    CLIENT_ID,
    IS_HELD_OUT,
    KEY,
    N_EVENTS,
    TIMESTAMP,
    TOKEN_ID,
    TOKEN_IDS,
    WIDTH,
)
from schemas.tokens import UNK

HASH_BUCKETS = 1_000_000

Batches = Iterable[pa.RecordBatch]


def build_sequences(events: DataFrame, vocabulary: DataFrame, behaviour: str, config: PipelineConfig) -> DataFrame:
    """One row per client with at least one event in the vocabulary, in the columns of ``tables/sequences``.

    Parameters
    ----------
    events : client_id, timestamp, item of one behaviour, in any row order
    vocabulary : this behaviour's rows of ``tables/vocabularies``

    Events of rare items are dropped, or kept as UNK where the settings say so. Order is total: time, then item
    (ids as numbers, queries as text); events that tie on both have the same token. The result is the same for
    any partitioning of the input.
    """
    settings = config.behaviours[behaviour]
    tokens = attach_token_ids(events, vocabulary, settings)
    # Spark's sort spills and the step after it streams, so that no client's history is ever held whole
    ordered = tokens.repartition(CLIENT_ID).sortWithinPartitions(CLIENT_ID, TIMESTAMP, settings.item)
    last = ordered.select(CLIENT_ID, TOKEN_ID).mapInArrow(
        keep_last_tokens(settings.max_sequence_length), f"{CLIENT_ID} bigint, {TOKEN_IDS} array<int>, {N_EVENTS} bigint"
    )
    return last.select(
        F.lit(behaviour).alias(BEHAVIOUR),
        is_held_out(config).alias(IS_HELD_OUT),
        batch_width(config.sequences, settings).alias(WIDTH),
        CLIENT_ID,
        TOKEN_IDS,
        N_EVENTS,
    )


def attach_token_ids(events: DataFrame, vocabulary: DataFrame, settings: BehaviourSettings) -> DataFrame:
    """One row per kept event: client_id, timestamp, item, token_id."""
    item_type = "bigint" if settings.kind == ItemKind.ID else "string"
    ids = vocabulary.select(F.col(KEY).cast(item_type).alias(settings.item), TOKEN_ID)
    if settings.keep_rare_as_unk:
        return events.join(ids, on=settings.item, how="left").fillna(UNK, subset=[TOKEN_ID])
    return events.join(ids, on=settings.item, how="inner")


def is_held_out(config: PipelineConfig) -> Column:
    """Whether a client's last item is kept for validation: by a hash, the same in every behaviour."""
    bucket = F.pmod(F.xxhash64(F.col(CLIENT_ID), F.lit(config.seed)), F.lit(HASH_BUCKETS))
    return bucket < F.lit(round(config.sequences.held_out_share * HASH_BUCKETS))


def batch_width(sequences: SequenceSettings, behaviour: BehaviourSettings) -> Column:
    """The smallest configured width that holds the sequence, at most the behaviour's longest sequence."""
    length = F.size(TOKEN_IDS)
    widths = F.array(*(F.lit(width) for width in sequences.widths))
    return F.least(F.array_min(F.filter(widths, lambda width: width >= length)), F.lit(behaviour.max_sequence_length))


def keep_last_tokens(max_length: int) -> Callable[[Batches], Batches]:
    """A ``mapInArrow`` function: (client_id, token_id) sorted by client and time -> one row per client.

    It holds one Arrow batch and the current client's last ``max_length`` tokens, whatever the length of a history.
    """

    def stream(batches: Batches) -> Batches:
        tail = _Tail(np.empty(0, np.int64), np.empty(0, np.int32), 0)
        for batch in batches:
            clients = np.concatenate([tail.clients, batch.column(0).to_numpy()])
            tokens = np.concatenate([tail.tokens, batch.column(1).to_numpy()])
            if len(clients) == 0:
                continue
            starts = np.flatnonzero(np.diff(clients, prepend=clients[0] - 1))
            ends = np.append(starts[1:], len(clients))
            n_events = ends - starts
            n_events[0] += tail.n_forgotten
            if len(starts) > 1:
                yield _rows(clients[starts[:-1]], tokens, ends[:-1], np.diff(starts), n_events[:-1], max_length)
            kept = slice(max(starts[-1], len(clients) - max_length), None)
            tail = _Tail(clients[kept], tokens[kept], int(n_events[-1]) - len(clients[kept]))
        if len(tail.clients):
            length = np.array([len(tail.clients)])
            yield _rows(tail.clients[:1], tail.tokens, length, length, length + tail.n_forgotten, max_length)

    return stream


class _Tail:
    """The last tokens of the client that the next batch may go on with, and how many came before them."""

    def __init__(self, clients: NDArray[np.int64], tokens: NDArray[np.int32], n_forgotten: int) -> None:
        self.clients, self.tokens, self.n_forgotten = clients, tokens, n_forgotten


def _rows(
    clients: NDArray[np.int64],
    tokens: NDArray[np.int32],
    ends: NDArray[np.int64],
    lengths: NDArray[np.int64],
    n_events: NDArray[np.int64],
    max_length: int,
) -> pa.RecordBatch:
    """The last ``max_length`` tokens before each end, as one list a row."""
    kept = np.minimum(lengths, max_length)
    offsets = np.concatenate([[0], np.cumsum(kept)])
    picks = np.arange(offsets[-1]) + np.repeat(ends - kept - offsets[:-1], kept)
    lists = pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(tokens[picks], pa.int32()))
    return pa.RecordBatch.from_arrays(
        [pa.array(clients, pa.int64()), lists, pa.array(n_events, pa.int64())], names=[CLIENT_ID, TOKEN_IDS, N_EVENTS]
    )
