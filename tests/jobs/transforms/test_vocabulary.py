"""Which items get a token id, and which id."""

from contextlib import ExitStack

from pyspark.sql import DataFrame, SparkSession
from pyspark.testing import assertDataFrameEqual

from conf.inputs import BehaviourSettings
from jobs.transforms.vocabulary import collect_summaries, count_items, merge_counts, number_items
from schemas.tables import VOCABULARIES


def visits(spark: SparkSession, **counts: int) -> DataFrame:
    rows = [(int(url.lstrip("u")),) for url, count in counts.items() for _ in range(count)]
    return spark.createDataFrame(rows, "url bigint")


def build(events: DataFrame, min_count: int, cached: ExitStack) -> DataFrame:
    return number_items(count_items(events, "url", min_count), "page_visit", cached)


def test_ids_fall_with_the_count_then_rise_with_the_item_from_3_on(spark: SparkSession, cached: ExitStack) -> None:
    built = build(visits(spark, u100=2, u9=2, u7=5, u1=1), 1, cached)
    expected = [
        ("page_visit", "7", 3, 5),
        ("page_visit", "9", 4, 2),
        ("page_visit", "100", 5, 2),
        ("page_visit", "1", 6, 1),
    ]
    assertDataFrameEqual(built, spark.createDataFrame(expected, VOCABULARIES.ddl))


def test_an_item_with_just_enough_events_is_kept(spark: SparkSession, cached: ExitStack) -> None:
    built = build(visits(spark, u1=5, u2=4, u3=9), 5, cached)
    assert {row["key"] for row in built.collect()} == {"1", "3"}


def test_ids_do_not_depend_on_the_rows_order_or_partitions(spark: SparkSession, cached: ExitStack) -> None:
    events = visits(spark, **{f"u{item}": 1 + item % 7 for item in range(300)})
    once = build(events.repartition(1), 1, cached)
    again = build(events.repartition(7).orderBy("url"), 1, cached)
    assertDataFrameEqual(once, again)
    assert sorted(row["token_id"] for row in once.collect()) == list(range(3, 303))


def test_merged_behaviours_share_the_items_of_one_name_and_keep_what_one_of_them_keeps(
    spark: SparkSession, cached: ExitStack
) -> None:
    behaviours = {
        "product_buy": BehaviourSettings("sku", min_count=2),
        "add_to_cart": BehaviourSettings("sku", min_count=3),
        "page_visit": BehaviourSettings("url", min_count=2),
    }
    counted = {"product_buy": {5: 2, 6: 1, 7: 1}, "add_to_cart": {5: 2, 6: 3, 7: 2}, "page_visit": {5: 9, 7: 1, 8: 4}}
    counts = {
        name: spark.createDataFrame([*own.items()], f"{behaviours[name].item} bigint, n_events bigint")
        for name, own in counted.items()
    }
    built = number_items(merge_counts(counts, behaviours), "mixed", cached)
    expected = [("mixed", "url 5", 3, 9), ("mixed", "sku 5", 4, 4), ("mixed", "sku 6", 5, 4), ("mixed", "url 8", 6, 4)]
    assertDataFrameEqual(built, spark.createDataFrame(expected, VOCABULARIES.ddl))


def test_the_fingerprint_changes_with_any_pairing_and_only_then(spark: SparkSession) -> None:
    def fingerprint(*pairs: tuple[str, int]) -> str:
        rows = [("page_visit", key, token_id, 1) for key, token_id in pairs]
        return collect_summaries(spark.createDataFrame(rows, VOCABULARIES.ddl))["page_visit"].fingerprint

    assert fingerprint(("a", 3), ("b", 4)) == fingerprint(("b", 4), ("a", 3))
    assert fingerprint(("a", 3), ("b", 4)) != fingerprint(("a", 4), ("b", 3))


def test_a_behaviour_without_events_has_no_summary(spark: SparkSession, cached: ExitStack) -> None:
    assert collect_summaries(build(visits(spark), 1, cached)) == {}
