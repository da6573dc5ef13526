"""Sequences of several behaviours against a plain reading of the same events."""

from collections import defaultdict
from contextlib import ExitStack
from dataclasses import replace
from datetime import datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest
from pyspark.sql import SparkSession

from conf.load import load_config
from conf.pipeline import PipelineConfig
from jobs.transforms.merged_sequences import build_merged_sequences, collect_merged_vocabulary, pack_events
from jobs.transforms.sequences import LastTokens
from schemas.behaviours import ItemKind
from schemas.tables import VOCABULARIES
from schemas.tokens import UNK

BEHAVIOURS = ("page_visit", "product_buy", "search_query", "add_to_cart")
ITEMS = {"page_visit": "url", "product_buy": "sku", "search_query": "query", "add_to_cart": "sku"}
UNKNOWN = {"url": [3, 4], "sku": [7, 8], "query": ["[11 1]"]}
Event = tuple[int, int, str, int | str]
"""Client, second, behaviour, item."""


def query(number: int) -> str:
    return f"[{number} 1]"


def settings_of(max_length: int, drop_repeats: bool = True) -> PipelineConfig:
    encoder = f"encoders.mixed={{behaviours: [{', '.join(BEHAVIOURS)}], max_length: {max_length}}}"
    changed = [f"encoders.mixed.drop_repeats={drop_repeats}", "sequences.widths=[1,2,4,16,64]"]
    # of page visits rare items are kept, so that unknown items meet each other and known ones
    return load_config("demo", [encoder, *changed, "behaviours.page_visit.keep_rare_as_unk=true"])


def random_events(n: int) -> list[Event]:
    """With many ties, repeats, and a client of a third of all events."""
    generator = np.random.default_rng(n)
    events: list[Event] = []
    for _ in range(n):
        client = 0 if generator.random() < 0.33 else int(generator.integers(9))
        behaviour = BEHAVIOURS[generator.integers(4)]
        item = int(generator.integers(1, 13))
        events.append(
            (client, int(generator.integers(12)), behaviour, query(item) if behaviour == "search_query" else item)
        )
    return events


def token_ids_of(events: list[Event]) -> dict[tuple[str, int | str], int]:
    """Item column and item -> token id, in no order of items."""
    items = {(ITEMS[behaviour], item) for _, _, behaviour, item in events}
    known = sorted((pair for pair in items if pair[1] not in UNKNOWN[pair[0]]), key=lambda pair: str(pair)[::-1])
    return {pair: 3 + number for number, pair in enumerate(known)}


def plain_sequences(
    events: list[Event], max_length: int, drop_repeats: bool
) -> dict[int, tuple[list[tuple[int, int, int]], int]]:
    """Client -> (token id, event type, second) of its last events, and how many it has."""
    tokens, histories = token_ids_of(events), defaultdict(list)
    for client, second, behaviour, item in events:
        pair = (ITEMS[behaviour], item)
        if pair in tokens or behaviour == "page_visit":
            histories[client].append((second, 1 + BEHAVIOURS.index(behaviour), item, tokens.get(pair, UNK)))
    found = {}
    for client, history in histories.items():
        ordered = sorted(set(history) if drop_repeats else history)
        rows = [(token, number, second) for second, number, _, token in ordered]
        found[client] = (rows[-max_length:], len(history))
    return found


def as_found(rows: list[dict]) -> dict[int, tuple[list[tuple[int, int, int]], int]]:
    return {
        row["client_id"]: (
            list(zip(row["token_ids"], row["event_types"], row["timestamps"], strict=True)),
            row["n_events"],
        )
        for row in rows
    }


def packed(events: list[Event], behaviour: str) -> pa.Table:
    """One behaviour's events as they go into the shuffle."""
    tokens, number = token_ids_of(events), BEHAVIOURS.index(behaviour)
    own = [event for event in events if event[2] == behaviour]
    own = [event for event in own if (ITEMS[behaviour], event[3]) in tokens or behaviour == "page_visit"]
    kind = ItemKind.CODES if behaviour == "search_query" else ItemKind.ID
    columns = {
        "client_id": pa.array([event[0] for event in own], pa.int64()),
        "timestamp": pa.array([event[1] * 1_000_000 for event in own], pa.timestamp("us")),
        "item": pa.array([event[3] for event in own], pa.string() if kind is ItemKind.CODES else pa.int64()),
        "token_id": pa.array([tokens.get((ITEMS[behaviour], event[3]), UNK) for event in own], pa.int32()),
    }
    return pack_events(1 + number, kind, None, False, pa.table(columns))


@pytest.mark.parametrize("drop_repeats", [True, False])
@pytest.mark.parametrize(("max_length", "piece_rows"), [(1, 3), (4, 40), (60, 500)])
def test_events_that_meet_in_any_pieces_give_the_sequences_of_a_plain_reading(
    max_length: int, piece_rows: int, drop_repeats: bool
) -> None:
    events, config = random_events(800), settings_of(max_length, drop_repeats)
    last = LastTokens.of_stream(config.streams()["mixed"], config)
    rows = [packed(events, behaviour) for behaviour in BEHAVIOURS]
    pieces = [
        last.shrink(table.slice(start, piece_rows)) for table in rows for start in range(0, table.num_rows, piece_rows)
    ]
    gathered = None
    for number in np.random.default_rng(1).permutation(len(pieces)):
        met = [pieces[number]] if gathered is None else [gathered, pieces[number]]
        gathered = last.shrink(pa.concat_tables(met, promote_options="permissive").combine_chunks())
    assert gathered is not None
    assert gathered.num_rows <= 9 * max_length or max_length == 60
    found = last.finish(gathered).to_pylist()
    assert as_found(found) == plain_sequences(events, max_length, drop_repeats)
    assert all(row["width"] >= len(row["token_ids"]) for row in found)


def test_rows_above_a_chunk_say_in_their_width_how_many_chunks_they_are() -> None:
    events, config = random_events(800), settings_of(4)
    encoder = replace(config.encoders["mixed"], history_chunks=5)
    config = replace(config, encoders={"mixed": encoder})
    last = LastTokens.of_stream(config.streams()["mixed"], config)
    rows = pa.concat_tables([packed(events, behaviour) for behaviour in BEHAVIOURS], promote_options="permissive")
    found = last.finish(last.shrink(rows.combine_chunks())).to_pylist()
    assert as_found(found) == plain_sequences(events, 20, drop_repeats=True)
    widths = {(len(row["token_ids"]), row["width"]) for row in found}
    assert all(width == -(-length // 4) * 4 for length, width in widths if length > 4)
    assert (20, 20) in widths


def test_both_ways_to_look_up_tokens_give_the_sequences_of_a_plain_reading(
    spark: SparkSession, cached: ExitStack
) -> None:
    events, config = random_events(600), settings_of(5)
    words = [("mixed", f"{column} {item}", token, 9) for (column, item), token in token_ids_of(events).items()]
    vocabulary = spark.createDataFrame(words, VOCABULARIES.ddl)
    frames = {}
    for behaviour in BEHAVIOURS:
        start = datetime(1970, 1, 1)
        own = [
            (client, start + timedelta(seconds=second), item)
            for client, second, name, item in events
            if name == behaviour
        ]
        kind = "string" if behaviour == "search_query" else "bigint"
        ddl = f"client_id bigint, timestamp timestamp_ntz, {ITEMS[behaviour]} {kind}"
        frames[behaviour] = spark.createDataFrame(own, ddl).repartition(3)
    expected = plain_sequences(events, 5, drop_repeats=True)
    for megabytes in (256, 0):
        layout = replace(config.sequences, broadcast_max_mib=megabytes)
        settings = replace(config, sequences=layout)
        by_item = collect_merged_vocabulary(vocabulary, settings.streams()["mixed"], settings)
        built = build_merged_sequences(frames, by_item, settings.streams()["mixed"], settings, cached)
        found = [row.asDict() for row in built.collect()]
        assert {row["behaviour"] for row in found} == {"mixed"}
        assert as_found(found) == expected
