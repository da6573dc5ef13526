"""Events and token ids -> each client's last tokens in event order."""

from contextlib import ExitStack
from dataclasses import replace

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from conf.inputs import BehaviourSettings
from conf.pipeline import PipelineConfig
from jobs.runtime.caching import broadcast_value
from jobs.storage.stored_rows import StoredRows
from jobs.transforms.item_places import SLOTS_PER_ITEM, ItemPlaces, collect_item_places
from jobs.transforms.last_tokens import LastTokens
from jobs.transforms.packed import aggregate_packed
from schemas.behaviours import ItemKind
from schemas.columns import BEHAVIOUR, CLIENT_ID, KEY, TIMESTAMP, TOKEN_ID
from schemas.tokens import UNK

BYTES_PER_ITEM = {ItemKind.ID: 12 + 4 * SLOTS_PER_ITEM, ItemKind.CODES: 200}
"""About what one item takes: an id in ``ItemPlaces`` at most, codes in Spark's hash table of a broadcast join."""


def build_sequences(
    events: DataFrame | StoredRows,
    vocabulary: DataFrame | ItemPlaces,
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
    last = LastTokens(config.streams()[behaviour], config.sequences, config.seed)
    frame = events.frame if isinstance(events, StoredRows) else events
    if isinstance(vocabulary, ItemPlaces):
        places = broadcast_value(frame, vocabulary, cached)
        last = replace(last, places=places, keep_unknown=settings.keep_rare_as_unk)
        tokens: DataFrame | StoredRows = events.select(CLIENT_ID, TIMESTAMP, settings.item)
    else:
        tokens = attach_token_ids(frame, vocabulary, settings)
    sequences = aggregate_packed(tokens, last.shrink, last.finish, LastTokens.DDL, prepare=last.pack)
    return sequences.select(F.lit(behaviour).alias(BEHAVIOUR), "*")


def collect_if_small(
    vocabulary: DataFrame, n_items: int, behaviour: str, config: PipelineConfig
) -> DataFrame | ItemPlaces:
    """The vocabulary in the form in which it goes whole to every executor, where it is small enough for that."""
    kind = ItemKind(config.behaviours[behaviour].kind)
    if n_items * BYTES_PER_ITEM[kind] > config.sequences.broadcast_max_mib * 2**20:
        return vocabulary
    return collect_item_places(vocabulary) if kind is ItemKind.ID else F.broadcast(vocabulary)


def attach_token_ids(events: DataFrame, vocabulary: DataFrame, settings: BehaviourSettings) -> DataFrame:
    """One row per kept event: client_id, timestamp, item, token_id."""
    item_type = "bigint" if settings.kind == ItemKind.ID else "string"
    ids = vocabulary.select(F.col(KEY).cast(item_type).alias(settings.item), TOKEN_ID)
    joined = events.join(ids, on=settings.item, how="left" if settings.keep_rare_as_unk else "inner")
    return joined.select(CLIENT_ID, TIMESTAMP, settings.item, F.coalesce(TOKEN_ID, F.lit(UNK)).alias(TOKEN_ID))
