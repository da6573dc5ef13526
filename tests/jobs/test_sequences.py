"""Which tokens a client's sequence holds, and in which order."""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.testing import assertDataFrameEqual

from conf.load import load_config
from conf.settings import PipelineConfig
from jobs.transforms.sequences import build_sequences, keep_last_tokens

SEQUENCE = "behaviour string, is_held_out boolean, width int, client_id bigint, token_ids array<int>, n_events bigint"


def config(max_length: int = 3, **more: str) -> PipelineConfig:
    told = [f"{key}={value}" for key, value in more.items()]
    fixed = [f"behaviours.page_visit.max_sequence_length={max_length}", "sequences.held_out_share=0"]
    return load_config("demo", [*fixed, *told])


def visits(spark: SparkSession, *rows: tuple[int, str, int]) -> DataFrame:
    frame = spark.createDataFrame(rows, "client_id bigint, timestamp string, url bigint")
    return frame.withColumn("timestamp", F.concat(F.lit("2022-06-01 00:00:"), "timestamp").cast("timestamp_ntz"))


def vocabulary(spark: SparkSession, **token_ids: int) -> DataFrame:
    rows = [("page_visit", key.lstrip("u"), token_id, 9) for key, token_id in token_ids.items()]
    return spark.createDataFrame(rows, "behaviour string, key string, token_id int, n_events bigint")


def test_events_are_ordered_by_time_whatever_their_order_in_the_file(spark: SparkSession) -> None:
    events = visits(spark, (1, "03", 30), (1, "01", 10), (2, "01", 30), (1, "02", 20))
    built = build_sequences(events, vocabulary(spark, u10=3, u20=4, u30=5), "page_visit", config())
    expected = [("page_visit", False, 3, 1, [3, 4, 5], 3), ("page_visit", False, 1, 2, [5], 1)]
    assertDataFrameEqual(built, spark.createDataFrame(expected, SEQUENCE))


def test_events_with_equal_timestamps_are_ordered_by_item_as_a_number(spark: SparkSession) -> None:
    events = visits(spark, (1, "01", 10), (1, "01", 9), (1, "01", 100))
    built = build_sequences(events, vocabulary(spark, u10=3, u9=5, u100=4), "page_visit", config())
    assertDataFrameEqual(built, spark.createDataFrame([("page_visit", False, 3, 1, [5, 3, 4], 3)], SEQUENCE))


def test_a_long_sequence_keeps_its_last_tokens_and_counts_all_events(spark: SparkSession) -> None:
    events = visits(spark, *((1, f"{second:02d}", second) for second in range(1, 6)))
    tokens = {f"u{item}": item + 2 for item in range(1, 6)}
    built = build_sequences(events, vocabulary(spark, **tokens), "page_visit", config(max_length=2))
    assertDataFrameEqual(built, spark.createDataFrame([("page_visit", False, 2, 1, [6, 7], 5)], SEQUENCE))


def test_rare_items_are_dropped_or_kept_as_unk(spark: SparkSession) -> None:
    events = visits(spark, (1, "01", 10), (1, "02", 99), (2, "01", 99))
    words = vocabulary(spark, u10=3)
    dropped = build_sequences(events, words, "page_visit", config())
    assertDataFrameEqual(dropped, spark.createDataFrame([("page_visit", False, 1, 1, [3], 1)], SEQUENCE))
    kept = build_sequences(events, words, "page_visit", config(**{"behaviours.page_visit.keep_rare_as_unk": "true"}))
    expected = [("page_visit", False, 3, 1, [3, 2], 2), ("page_visit", False, 1, 2, [2], 1)]
    assertDataFrameEqual(kept, spark.createDataFrame(expected, SEQUENCE))


def test_about_the_asked_share_of_clients_is_held_out_by_a_hash_of_the_seed(spark: SparkSession) -> None:
    events = visits(spark, *((client, "01", 10) for client in range(1000)))
    words = vocabulary(spark, u10=3)

    def held_out(seed: int) -> set[int]:
        told = config(**{"sequences.held_out_share": "0.2", "seed": str(seed)})
        built = build_sequences(events, words, "page_visit", told)
        return {row["client_id"] for row in built.filter("is_held_out").collect()}

    assert 150 < len(held_out(1)) < 250
    assert held_out(1) == held_out(1)
    assert held_out(1) != held_out(2)


@pytest.mark.parametrize("batch_rows", [1, 2, 7, 1000])
@pytest.mark.parametrize("max_length", [1, 3, 50])
def test_streaming_equals_whole_histories_wherever_batches_are_cut(batch_rows: int, max_length: int) -> None:
    generator = np.random.default_rng(batch_rows)
    clients = np.sort(generator.integers(0, 12, 200))
    tokens = generator.integers(3, 99, 200).astype(np.int32)
    batches = batches_of(clients, tokens, batch_rows)
    rows = [row for batch in keep_last_tokens(max_length)(batches) for row in batch.to_pylist()]
    assert rows == [
        {
            "client_id": client,
            "token_ids": tokens[clients == client][-max_length:].tolist(),
            "n_events": int((clients == client).sum()),
        }
        for client in np.unique(clients).tolist()
    ]


def test_no_events_give_no_sequence() -> None:
    assert list(keep_last_tokens(3)(iter(()))) == []


def batches_of(clients: np.ndarray, tokens: np.ndarray, rows: int) -> Iterator[pa.RecordBatch]:
    for start in range(0, len(clients), rows):
        arrays = [pa.array(clients[start : start + rows]), pa.array(tokens[start : start + rows])]
        yield pa.RecordBatch.from_arrays(arrays, names=["client_id", "token_id"])
