"""Events of several behaviours and one vocabulary -> each client's last tokens, all behaviours in time order."""

from collections.abc import Mapping
from contextlib import ExitStack
from functools import partial

import numpy as np
import pyarrow as pa
from pyspark import Broadcast
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from conf.pipeline import PipelineConfig
from conf.sequences import Stream
from jobs.runtime.caching import broadcast_value
from jobs.storage.stored_rows import StoredRows
from jobs.transforms.histories import EVENT_TYPE, TEXT, pack_times
from jobs.transforms.item_positions import ItemPositions
from jobs.transforms.packed import aggregate_packed, narrow
from jobs.transforms.sequences import LastTokens, collect_if_small, with_token_ids
from jobs.transforms.vocabulary import split_keys
from schemas.behaviours import ItemKind
from schemas.columns import BEHAVIOUR, CLIENT_ID, ITEM, TIMESTAMP, TOKEN_ID


def build_merged_sequences(
    events: Mapping[str, DataFrame | StoredRows],
    vocabularies: Mapping[str, DataFrame | ItemPositions],
    stream: Stream,
    config: PipelineConfig,
    cached: ExitStack,
) -> DataFrame:
    """One row per client with at least one event in the vocabulary, in the columns of ``tables/sequences``.

    Each behaviour's events are packed where they are read; one shuffle then brings those of a client together.

    Parameters
    ----------
    events : behaviour -> client_id, timestamp, item, in any row order
    vocabularies : item column -> key (the item), token_id, or what ``collect_if_small`` makes of them
    cached : keeps small vocabularies on the executors; close it after the write

    Events of rare items are dropped, or kept as UNK where their behaviour says so. Order is total: time, then
    behaviour in the stream's order, then item (ids as numbers, queries as text). The result is the same for any
    partitioning of the input.
    """
    frames = [rows.frame if isinstance(rows, StoredRows) else rows for rows in events.values()]
    sent = {
        item: broadcast_value(frames[0], vocabulary, cached)
        for item, vocabulary in vocabularies.items()
        if isinstance(vocabulary, ItemPositions)
    }
    sources = []
    # from 1: 0 is the event type of PAD
    for number, name in enumerate(stream.behaviours, start=1):
        settings = config.behaviours[name]
        rows = with_token_ids(events[name], vocabularies[settings.item], settings)
        kind, positions = ItemKind(settings.kind), sent.get(settings.item)
        sources.append((rows, partial(pack_events, number, kind, positions, settings.keep_rare_as_unk)))
    last = LastTokens.of_stream(stream, config)
    sequences = aggregate_packed(sources, last.shrink, last.finish, LastTokens.DDL)
    return sequences.select(F.lit(stream.name).alias(BEHAVIOUR), "*")


def collect_merged_vocabulary(
    vocabulary: DataFrame, stream: Stream, config: PipelineConfig
) -> dict[str, DataFrame | ItemPositions]:
    """Item column -> its items' token ids, as ``build_merged_sequences`` takes them.

    Parameters
    ----------
    vocabulary : this stream's rows of ``tables/vocabularies``
    """
    items = split_keys(vocabulary)
    n_items = {row[ITEM]: row["count"] for row in items.groupBy(ITEM).count().collect()}
    kinds = {config.behaviours[name].item: ItemKind(config.behaviours[name].kind) for name in stream.behaviours}
    return {
        item: collect_if_small(items.filter(F.col(ITEM) == item), n_items.get(item, 0), kind, config.sequences)
        for item, kind in kinds.items()
    }


def pack_events(
    event_type: int,
    kind: ItemKind,
    positions: Broadcast[ItemPositions] | None,
    keep_unknown: bool,
    rows: pa.Table,
) -> pa.Table:
    """One behaviour's source rows -> the packed rows that ``LastTokens`` aggregates.

    They have the token's id and the item itself, not its position in the vocabulary: among events of unknown items,
    too, repeats must be told from others.

    Parameters
    ----------
    event_type : of all rows
    kind : of the items; ids and text have a column each, since one is compared as numbers
    positions, keep_unknown : as in ``LastTokens``
    rows : client_id, timestamp, item and, where there are no ``positions``, token_id
    """
    if positions is not None:
        position = positions.value.find(rows.column(2).to_numpy())
        if not keep_unknown:
            known = np.flatnonzero(position & 1)
            rows, position = rows.take(pa.array(known)), position[known]
        token_ids = pa.array(positions.value.token_ids_at(position))
    else:
        token_ids = rows.column(TOKEN_ID)
    items = rows.column(2)
    return pa.table(
        {
            CLIENT_ID: narrow(rows.column(CLIENT_ID).to_numpy()),
            **pack_times(rows.column(TIMESTAMP).to_numpy().view(np.int64)),
            EVENT_TYPE: np.full(rows.num_rows, event_type, np.int8),
            **({TEXT: items} if kind is ItemKind.CODES else {ITEM: narrow(items.to_numpy())}),
            TOKEN_ID: token_ids,
        }
    )
