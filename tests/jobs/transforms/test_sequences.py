"""Which tokens a client's sequence holds, and in which order."""

from contextlib import ExitStack
from datetime import UTC

import numpy as np
import pyarrow as pa
import pytest
from py4j.protocol import Py4JJavaError
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.testing import assertDataFrameEqual

from conf.load import load_config
from conf.pipeline import PipelineConfig
from jobs.transforms.histories import order_histories
from jobs.transforms.item_positions import ItemPositions
from jobs.transforms.sequences import LastTokens, build_sequences, collect_if_small
from schemas.behaviours import ItemKind
from schemas.tables import SEQUENCES


def sequences(spark: SparkSession, *rows: tuple[str, bool, int, int, list[int], int]) -> DataFrame:
    return spark.createDataFrame([(*row, None, None) for row in rows], SEQUENCES.ddl)


def config(max_length: int = 3, **more: str) -> PipelineConfig:
    settings = [f"{key}={value}" for key, value in more.items()]
    fixed = [f"encoders.page_visit.max_length={max_length}", "sequences.held_out_share=0"]
    return load_config("demo", [*fixed, *settings])


def visits(spark: SparkSession, *rows: tuple[int, str, int]) -> DataFrame:
    frame = spark.createDataFrame(rows, "client_id bigint, timestamp string, url bigint")
    return frame.withColumn("timestamp", F.concat(F.lit("2022-06-01 00:00:"), "timestamp").cast("timestamp_ntz"))


def vocabulary(spark: SparkSession, **token_ids: int) -> DataFrame:
    rows = [("page_visit", key.lstrip("u"), token_id, 9) for key, token_id in token_ids.items()]
    return spark.createDataFrame(rows, "behaviour string, key string, token_id int, n_events bigint")


def test_events_are_ordered_by_time_whatever_their_order_in_the_file(spark: SparkSession, cached: ExitStack) -> None:
    events = visits(spark, (1, "03", 30), (1, "01", 10), (2, "01", 30), (1, "02", 20))
    built = build_sequences(events, vocabulary(spark, u10=3, u20=4, u30=5), "page_visit", config(), cached)
    expected = [("page_visit", False, 3, 1, [3, 4, 5], 3), ("page_visit", False, 1, 2, [5], 1)]
    assertDataFrameEqual(built, sequences(spark, *expected))


def test_events_with_equal_timestamps_are_ordered_by_item_as_a_number(spark: SparkSession, cached: ExitStack) -> None:
    events = visits(spark, (1, "01", 10), (1, "01", 9), (1, "01", 100))
    built = build_sequences(events, vocabulary(spark, u10=3, u9=5, u100=4), "page_visit", config(), cached)
    assertDataFrameEqual(built, sequences(spark, ("page_visit", False, 3, 1, [5, 3, 4], 3)))


def test_a_long_sequence_keeps_its_last_tokens_and_counts_all_events(spark: SparkSession, cached: ExitStack) -> None:
    events = visits(spark, *((1, f"{second:02d}", second) for second in range(1, 6)))
    tokens = {f"u{item}": item + 2 for item in range(1, 6)}
    built = build_sequences(events, vocabulary(spark, **tokens), "page_visit", config(max_length=2), cached)
    assertDataFrameEqual(built, sequences(spark, ("page_visit", False, 2, 1, [6, 7], 5)))


def test_rare_items_are_dropped_or_kept_as_unk(spark: SparkSession, cached: ExitStack) -> None:
    events = visits(spark, (1, "01", 10), (1, "02", 99), (2, "01", 99))
    words = vocabulary(spark, u10=3)
    dropped = build_sequences(events, words, "page_visit", config(), cached)
    assertDataFrameEqual(dropped, sequences(spark, ("page_visit", False, 1, 1, [3], 1)))
    as_unk = config(**{"behaviours.page_visit.keep_rare_as_unk": "true"})
    kept = build_sequences(events, words, "page_visit", as_unk, cached)
    expected = [("page_visit", False, 3, 1, [3, 2], 2), ("page_visit", False, 1, 2, [2], 1)]
    assertDataFrameEqual(kept, sequences(spark, *expected))


def test_about_the_asked_share_of_clients_is_held_out_by_a_hash_of_the_seed(
    spark: SparkSession, cached: ExitStack
) -> None:
    events = visits(spark, *((client, "01", 10) for client in range(1000)))
    words = vocabulary(spark, u10=3)

    def held_out(seed: int) -> set[int]:
        settings = config(**{"sequences.held_out_share": "0.2", "seed": str(seed)})
        built = build_sequences(events, words, "page_visit", settings, cached)
        return {row["client_id"] for row in built.filter("is_held_out").collect()}

    assert 150 < len(held_out(1)) < 250
    assert held_out(1) == held_out(1)
    assert held_out(1) != held_out(2)


@pytest.mark.parametrize("piece_rows", [1, 7, 1000])
@pytest.mark.parametrize("max_length", [1, 3, 50])
def test_histories_shrunk_piece_by_piece_give_the_sequences_of_whole_ones(piece_rows: int, max_length: int) -> None:
    generator = np.random.default_rng(piece_rows)
    rows = random_tokens(generator, n_rows=400, n_clients=12)
    last = LastTokens(max_length, config().sequences, seed=1)
    pieces = [last.shrink(last.pack(rows.slice(start, piece_rows))) for start in range(0, rows.num_rows, piece_rows)]
    shuffled = [pieces[position] for position in generator.permutation(len(pieces))]
    gathered = shuffled[0]
    for piece in shuffled[1:]:
        gathered = last.shrink(pa.concat_tables([gathered, piece], promote_options="permissive").combine_chunks())
    assert gathered.num_rows <= 12 * max_length
    assert last.finish(gathered).to_pylist() == last.finish(last.pack(rows)).to_pylist()


def test_an_encoder_of_one_behaviour_that_asks_gets_the_time_of_each_event() -> None:
    rows = random_tokens(np.random.default_rng(1), n_rows=50, n_clients=3)
    last = LastTokens(4, config().sequences, seed=1, has_events=True)
    for found in last.finish(last.pack(rows)).to_pylist():
        own = sorted(row["timestamp"] for row in rows.to_pylist() if row["client_id"] == found["client_id"])
        assert found["timestamps"] == [int(time.replace(tzinfo=UTC).timestamp()) for time in own[-4:]]
        assert found["event_types"] == [1] * 4


def test_a_client_of_many_events_is_shrunk_among_any_number_of_others_and_a_few_repeats_are_left_alone() -> None:
    last = LastTokens(3, config().sequences, seed=1)
    for n_of_heavy, n_left in ((1000, 3), (4, 4)):
        rows = random_tokens(np.random.default_rng(1), n_rows=20_000 + n_of_heavy, n_clients=1)
        clients = np.append(np.arange(20_000), np.full(n_of_heavy, -1))
        shrunk = last.shrink(last.pack(rows.set_column(0, "client_id", pa.array(clients))))
        assert np.count_nonzero(shrunk.column("client_id").to_numpy() == -1) == n_left
        assert shrunk.num_rows == 20_000 + n_left


@pytest.mark.parametrize("is_far", [False, True])
@pytest.mark.parametrize("is_fractional", [False, True])
def test_events_are_in_order_whatever_the_range_of_ids_and_times(is_far: bool, is_fractional: bool) -> None:
    rows = random_tokens(np.random.default_rng(3), n_rows=300, n_clients=9)
    client = rows.column("client_id").to_numpy() * 2**59 - 2**62 if is_far else rows.column("client_id")
    time = rows.column("timestamp").to_numpy() - np.timedelta64(int(is_fractional), "us")
    rows = rows.set_column(0, "client_id", pa.array(client)).set_column(1, "timestamp", pa.array(time))
    packed = LastTokens(5, config().sequences, seed=1).pack(rows)
    assert str(packed.column("client_id").type) == ("int64" if is_far else "int32")
    assert ("microsecond" in packed.column_names) == is_fractional
    keys = rows.select(["client_id", "timestamp", "url"])
    ordered = keys.sort_by([(name, "ascending") for name in keys.column_names])
    assert keys.take(order_histories(packed).order).equals(ordered)


def test_pieces_packed_in_different_widths_are_one_history() -> None:
    start = np.datetime64("2022-06-01", "us")
    last = LastTokens(5, config().sequences, seed=1)
    columns = [([1, 2**40], [30, 1]), ([1], [20]), ([1], [10])]
    pieces = []
    for token, (clients, seconds) in enumerate(columns):
        time = start + np.array(seconds, "timedelta64[s]") + np.timedelta64(token, "us")
        tokens = np.full(len(clients), token, np.int32)
        rows = {"client_id": clients, "timestamp": time, "url": tokens.astype(np.int64), "token_id": tokens}
        pieces.append(last.pack(pa.table(rows)))
    gathered = pa.concat_tables(pieces, promote_options="permissive").combine_chunks()
    found = {row["client_id"]: row["token_ids"] for row in last.finish(gathered).to_pylist()}
    assert found == {1: [2, 1, 0], 2**40: [0]}


@pytest.mark.parametrize("keep", ["false", "true"])
def test_a_small_vocabulary_is_looked_up_in_the_tasks_with_the_result_of_a_join(
    spark: SparkSession, cached: ExitStack, keep: str
) -> None:
    settings = config(max_length=4, **{"behaviours.page_visit.keep_rare_as_unk": keep})
    rows = [
        (client, f"{second:02d}", (client * 7 + second * 5) % 23) for client in range(20) for second in (1, 1, 2, 2, 3)
    ]
    events, words = visits(spark, *rows), vocabulary(spark, **{f"u{item}": 30 - item for item in range(0, 23, 2)})
    small = collect_if_small(words, 12, ItemKind.ID, settings.sequences)
    assert isinstance(small, ItemPositions)
    assert collect_if_small(words, 10**9, ItemKind.ID, settings.sequences) is words
    found, joined = (
        sorted(build_sequences(events, form, "page_visit", settings, cached).collect()) for form in (small, words)
    )
    assert len(found) == 20
    assert found == joined


def test_a_small_vocabulary_leaves_the_executors_when_the_stack_is_closed(spark: SparkSession) -> None:
    words = collect_if_small(vocabulary(spark, u10=3), 1, ItemKind.ID, config().sequences)
    with ExitStack() as cached:
        built = build_sequences(visits(spark, (1, "01", 10)), words, "page_visit", config(), cached)
        assert built.count() == 1
    with pytest.raises(Py4JJavaError, match="after it was destroyed"):
        built.count()


def random_tokens(generator: np.random.Generator, n_rows: int, n_clients: int) -> pa.Table:
    """Rows with many ties in time."""
    url = generator.integers(-9, 9, n_rows)
    return pa.table(
        {
            "client_id": generator.integers(0, n_clients, n_rows),
            "timestamp": np.datetime64("2022-06-01", "us") + generator.integers(0, 20, n_rows).astype("timedelta64[s]"),
            "url": url,
            "token_id": (url + 12).astype(np.int32),
        }
    )
