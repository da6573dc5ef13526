"""What a source row must look like, and what becomes of one that does not."""

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.testing import assertDataFrameEqual

from jobs.transforms.events import accepted, canonical_codes, judge_events, judge_products, rejected
from schemas.behaviours import ItemKind

CODES = "[" + " ".join(str(number) for number in range(16)) + "]"


def visits(spark: SparkSession, *rows: tuple[object, ...]) -> DataFrame:
    return spark.createDataFrame(rows, "client_id bigint, timestamp string, url bigint")


def test_a_good_row_is_typed_and_kept(spark: SparkSession) -> None:
    judged = judge_events(visits(spark, (1, "2022-06-01 00:16:41", 7)), "url", ItemKind.ID)
    expected = spark.createDataFrame(
        [(1, "2022-06-01 00:16:41", 7)], "client_id bigint, timestamp string, url bigint"
    ).withColumn("timestamp", F.col("timestamp").cast("timestamp_ntz"))
    assertDataFrameEqual(accepted(judged), expected)


def test_each_broken_rule_is_named_and_the_row_kept_whole(spark: SparkSession) -> None:
    source = visits(
        spark,
        (None, "2022-06-01 00:00:00", 7),
        (1, None, 7),
        (1, "yesterday", 7),
        (1, "2022-02-30 00:00:00", 7),
        (1, "2022-06-01 00:00:00", None),
        (1, "2022-06-01 00:00:00", 7),
    )
    judged = judge_events(source, "url", ItemKind.ID)
    reasons = [row["reason"] for row in rejected(judged, "page_visit").collect()]
    assert reasons == [
        "client_id is null",
        "timestamp is null",
        "timestamp is not yyyy-MM-dd HH:mm:ss",
        "timestamp is not yyyy-MM-dd HH:mm:ss",
        "url is null",
    ]
    assert accepted(judged).count() == 1
    first = rejected(judged, "page_visit").first()
    assert first is not None
    assert first["row"] == '{"timestamp":"2022-06-01 00:00:00","url":7}'


def test_a_query_has_one_spelling_whatever_its_spaces_and_zeros(spark: SparkSession) -> None:
    spellings = [
        CODES,
        CODES.replace(" ", "   "),
        CODES.replace("[", "[  ").replace("]", " ]"),
        CODES.replace(" 7 ", " 007 "),
    ]
    frame = spark.createDataFrame([(text,) for text in spellings], "query string")
    assert {row[0] for row in frame.select(canonical_codes(F.col("query"))).collect()} == {CODES}


def test_a_query_that_is_not_16_numbers_below_256_is_rejected(spark: SparkSession) -> None:
    texts = [CODES.replace("15", "256"), CODES.replace(" 15", ""), CODES.replace("]", " 1]"), "[]", "", CODES[1:]]
    source = spark.createDataFrame(
        [(1, "2022-06-01 00:00:00", text) for text in texts], "client_id bigint, timestamp string, query string"
    )
    judged = judge_events(source, "query", ItemKind.CODES)
    assert accepted(judged).count() == 0
    assert rejected(judged, "search_query").count() == len(texts)


def test_timestamps_already_typed_are_taken_as_they_are(spark: SparkSession) -> None:
    source = visits(spark, (1, "2022-06-01 00:16:41", 7))
    typed = source.withColumn("timestamp", F.col("timestamp").cast("timestamp"))
    assertDataFrameEqual(
        accepted(judge_events(typed, "url", ItemKind.ID)), accepted(judge_events(source, "url", ItemKind.ID))
    )


def test_a_sku_has_one_product_row_and_null_categories_are_kept(spark: SparkSession) -> None:
    source = spark.createDataFrame(
        [(1, 10, 5, CODES), (1, 9, 5, CODES), (2, None, None, None), (None, 1, 1, CODES), (3, 1, 1, "[1 2]")],
        "sku bigint, category bigint, price bigint, name string",
    )
    judged = judge_products(source)
    kept = spark.createDataFrame(
        [(1, 9, 5, CODES), (2, None, None, None)], "sku bigint, category bigint, price bigint, name string"
    )
    assertDataFrameEqual(accepted(judged), kept)
    reasons = {row["reason"] for row in rejected(judged, "product_properties").collect()}
    assert reasons == {"another row has this sku", "sku is null", "name is not 16 numbers 0-255 in brackets"}
