"""What a source row must look like, and what becomes of one that does not."""

from collections.abc import Callable
from datetime import datetime
from decimal import Decimal

import pytest
from changed_times import NO_TIMES, NOON, changed_times, time_of
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.testing import assertDataFrameEqual

from conf.inputs import IngestSettings
from jobs.inputs.event_rules import (
    canonical_codes,
    judge_products,
    keep_known_skus,
    keep_one_per_sku,
    reject_events,
    reject_others_of_sku,
    type_events,
)
from schemas.behaviours import ItemKind
from schemas.tables import OUT_OF_BOUNDS, UNKNOWN_SKU, is_no_time

CODES = "[" + " ".join(str(number) for number in range(16)) + "]"
SETTINGS = IngestSettings()
EVENTS = "client_id bigint, timestamp string, url bigint"
PRODUCTS = "sku bigint, category bigint, price bigint, name string"


def visits(spark: SparkSession, *rows: tuple[object, ...]) -> DataFrame:
    return spark.createDataFrame(rows, EVENTS)


def unsigned(spark: SparkSession, rows: list[tuple[object, ...]], ddl: str) -> DataFrame:
    """Rows whose ids are unsigned 64-bit integers, which Spark reads as decimals."""
    decimals = [tuple(Decimal(value) if isinstance(value, int) else value for value in row) for row in rows]
    return spark.createDataFrame(decimals, ddl.replace("bigint", "decimal(20,0)"))


def typed(source: DataFrame, item: str = "url", kind: ItemKind = ItemKind.ID) -> list[tuple[object, ...]]:
    return [tuple(row) for row in type_events(source, item, kind, SETTINGS).collect()]


def reasons(source: DataFrame, item: str = "url", kind: ItemKind = ItemKind.ID) -> list[str]:
    return [row["reason"] for row in reject_events(source, "visits", item, kind, SETTINGS).collect()]


def times_kept(spark: SparkSession, texts: list[str]) -> list[str]:
    """The texts whose row is kept, after a check that each row is either kept or rejected for its time."""
    source = visits(spark, *((1, text, index) for index, text in enumerate(texts)))
    kept = typed(source)
    rejected = reasons(source)
    assert len(rejected) == len(texts) - len(kept)
    assert {*rejected} <= {is_no_time("timestamp"), OUT_OF_BOUNDS}
    for _, time, index in kept:
        assert str(time) == texts[index]
    return [texts[index] for *_, index in kept]


def test_a_good_row_is_typed_and_kept(spark: SparkSession) -> None:
    source = visits(spark, (1, "2022-06-01 00:16:41", 7))
    kept = type_events(source, "url", ItemKind.ID, SETTINGS)
    assert kept.dtypes == [("client_id", "bigint"), ("timestamp", "timestamp_ntz"), ("url", "bigint")]
    assert typed(source) == [(1, datetime(2022, 6, 1, 0, 16, 41), 7)]
    assert reasons(source) == []


def test_every_reason_of_the_contract_of_events_is_given_and_the_row_kept_whole(spark: SparkSession) -> None:
    beyond = 2**63
    rows = [
        (None, NOON, 7),
        (beyond, NOON, 7),
        (1, None, 7),
        (1, "yesterday", 7),
        (1, "1999-12-31 23:59:59", 7),
        (1, NOON, None),
        (1, NOON, beyond),
        (1, NOON, 7),
    ]
    source = unsigned(spark, rows, EVENTS)
    assert reasons(source) == [
        "client_id is null",
        "client_id is beyond int64",
        "timestamp is null",
        "timestamp is not yyyy-MM-dd HH:mm:ss",
        "timestamp is outside ingest.earliest and ingest.latest",
        "url is null",
        "url is beyond int64",
    ]
    assert typed(source) == [(1, datetime(2022, 6, 1, 12), 7)]
    first = reject_events(source, "page_visit", "url", ItemKind.ID, SETTINGS).first()
    assert first is not None
    assert tuple(first) == ("page_visit", "client_id is null", '{"timestamp":"2022-06-01 12:00:00","url":7}')


def test_only_the_exact_form_is_a_time(spark: SparkSession) -> None:
    assert times_kept(spark, [*NO_TIMES, NOON]) == [NOON]


@pytest.mark.slow
def test_any_two_characters_changed_give_the_same_time_or_none(spark: SparkSession) -> None:
    texts = changed_times()
    earliest = datetime.fromisoformat(SETTINGS.earliest)
    assert sorted(times_kept(spark, texts)) == [text for text in texts if (time := time_of(text)) and time >= earliest]


def test_the_earliest_time_is_within_bounds_and_the_latest_is_not(spark: SparkSession) -> None:
    texts = ["2022-05-31 23:59:59", "2022-06-01 00:00:00", "2022-06-30 11:59:59", "2022-06-30 12:00:00"]
    source = visits(spark, *((1, text, 7) for text in texts))
    settings = IngestSettings(earliest="2022-06-01", latest="2022-06-30 12:00:00")
    kept = type_events(source, "url", ItemKind.ID, settings)
    assert [str(row["timestamp"]) for row in kept.collect()] == texts[1:3]
    rejected = reject_events(source, "visits", "url", ItemKind.ID, settings).collect()
    assert {row["reason"] for row in rejected} == {"timestamp is outside ingest.earliest and ingest.latest"}
    assert len(rejected) == 2


def test_each_time_and_query_is_parsed_once_for_a_kept_row(spark: SparkSession) -> None:
    source = spark.createDataFrame([(1, NOON, CODES)], "client_id bigint, timestamp string, query string")
    kept = type_events(source, "query", ItemKind.CODES, SETTINGS)
    plan = kept._jdf.queryExecution().optimizedPlan().toString()
    assert plan.count("try_cast(timestamp") == 1
    assert plan.count("RLIKE(query") == 2  # the canonical and the loose spelling


def test_under_ansi_a_bad_value_is_rejected_and_does_not_fail_the_job(spark: SparkSession) -> None:
    source = unsigned(spark, [(1, "2022-02-30 12:00:00", 1), (2**64 - 1, NOON, 1)], EVENTS)
    spark.conf.set("spark.sql.ansi.enabled", "true")
    try:
        assert typed(source) == []
        assert reasons(source) == ["timestamp is not yyyy-MM-dd HH:mm:ss", "client_id is beyond int64"]
    finally:
        spark.conf.set("spark.sql.ansi.enabled", "false")  # as our sessions have it; Spark 4's own default is true


def test_an_event_of_an_unknown_sku_is_rejected_last_of_all(spark: SparkSession) -> None:
    source = spark.createDataFrame(
        [(1, NOON, 1), (1, NOON, 9), (None, NOON, 9)], "client_id bigint, timestamp string, sku bigint"
    )
    products = spark.createDataFrame([(1, 1, 1, None)], PRODUCTS)
    kept = keep_known_skus(type_events(source, "sku", ItemKind.ID, SETTINGS), products)
    assert [tuple(row) for row in kept.collect()] == [(1, datetime(2022, 6, 1, 12), 1)]
    rejected = reject_events(source, "product_buy", "sku", ItemKind.ID, SETTINGS, products).collect()
    assert sorted(row["reason"] for row in rejected) == ["client_id is null", UNKNOWN_SKU]


@pytest.mark.parametrize(
    "spell",
    [
        lambda codes: codes,
        lambda codes: codes.replace(" ", "   "),
        lambda codes: codes.replace("[", "[  ").replace("]", " ]"),
        lambda codes: codes.replace(" 7 ", " 007 "),
        lambda codes: f"\t{codes}\n".replace(" 1 ", "\n1\t \t"),
        lambda codes: "[" + " ".join(f"{number:3d}" for number in range(16)) + "]",
        lambda codes: codes.replace(" ", " " * 100),
    ],
    ids=["canonical", "wide", "inner", "zeros", "any_white_space", "as_numpy_prints", "very_wide"],
)
def test_a_query_has_one_spelling_whatever_its_spaces_and_zeros(
    spark: SparkSession, spell: Callable[[str], str]
) -> None:
    frame = spark.createDataFrame([(spell(CODES),)], "query string")
    assert frame.select(canonical_codes(F.col("query"))).collect() == [(CODES,)]


def test_every_code_from_0_to_255_is_kept_and_no_other(spark: SparkSession) -> None:
    texts = [CODES.replace("15", str(code)) for code in range(1200)]
    rows = spark.createDataFrame([(text,) for text in texts], "query string").select(canonical_codes(F.col("query")))
    assert [row[0] for row in rows.collect()] == [*texts[:256], *[None] * (1200 - 256)]


def test_a_query_that_is_not_16_numbers_below_256_is_rejected(spark: SparkSession) -> None:
    texts = [
        CODES.replace("15", "256"), CODES.replace("15", "-1"), CODES.replace("15", "1.5"), CODES.replace(" 15", ""),
        CODES.replace("15", "99999999999"), CODES.replace("15", "0255"), CODES.replace("]", " 1]"),
        CODES.replace(" ", ","), "[]", "", CODES[1:], CODES + "]", CODES + CODES, CODES.replace("15", "٣"),
    ]  # fmt: skip
    source = spark.createDataFrame(
        [(1, NOON, text) for text in texts], "client_id bigint, timestamp string, query string"
    )
    assert typed(source, "query", ItemKind.CODES) == []
    assert reasons(source, "query", ItemKind.CODES) == ["query is not 16 numbers 0-255 in brackets"] * len(texts)


def test_every_reason_of_the_contract_of_products_is_given_and_nulls_are_kept(spark: SparkSession) -> None:
    beyond = 2**63
    rows = [
        (None, 1, 1, CODES), (beyond, 1, 1, CODES), (1, beyond, 1, CODES), (2, 1, beyond, CODES), (3, 1, 100, CODES),
        (4, 1, 1, "[1 2]"),
    ]  # fmt: skip
    good = [(5, None, None, None), (6, 1, 0, CODES), (7, 1, 99, CODES)]
    judged = judge_products(unsigned(spark, [*rows, *good], PRODUCTS))
    rejected = [row["reason"] for row in reject_others_of_sku(judged, "product_properties").collect()]
    assert rejected == [
        "sku is null",
        "sku is beyond int64",
        "category is beyond int64",
        "price is beyond int64",
        "price is outside 0-99",
        "name is not 16 numbers 0-255 in brackets",
    ]
    assertDataFrameEqual(keep_one_per_sku(judged), spark.createDataFrame(good, PRODUCTS))


def test_of_conflicting_products_the_first_is_kept_nulls_last_and_repeats_are_told_apart(spark: SparkSession) -> None:
    padded = CODES.replace(" ", "  ")  # another spelling of the same values
    rows = [(1, None, 5, CODES), (1, 9, None, CODES), (1, 9, 5, CODES), (1, 9, 5, padded), (1, 8, 100, CODES)]
    for judged in (judge_products(spark.createDataFrame(order, PRODUCTS)) for order in (rows, rows[::-1])):
        assertDataFrameEqual(keep_one_per_sku(judged), spark.createDataFrame([(1, 9, 5, CODES)], PRODUCTS))
        rejected = reject_others_of_sku(judged, "product_properties").collect()
        assert sorted(row["reason"] for row in rejected) == [
            "conflicts with another row of this sku",
            "conflicts with another row of this sku",
            "price is outside 0-99",
            "repeats another row of this sku",
        ]


def test_a_product_of_nulls_that_repeats_is_a_repeat(spark: SparkSession) -> None:
    judged = judge_products(spark.createDataFrame([(1, None, None, None)] * 2, PRODUCTS))
    assert keep_one_per_sku(judged).count() == 1
    (row,) = reject_others_of_sku(judged, "product_properties").collect()
    assert row["reason"] == "repeats another row of this sku"
