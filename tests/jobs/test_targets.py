import pytest
from eval_tables import purchases, typed
from pyspark.testing import assertDataFrameEqual

from jobs.transforms.targets import (
    build_targets,
    collect_popularity,
    collect_top_labels,
    purchases_of_new_skus,
    purchases_with_properties,
)
from schemas.tables import CLIENTS, LABELS, PRODUCT_PROPERTIES, TARGETS

WINDOWED = "window string, client_id bigint, sku bigint, category bigint, price bigint"


def test_purchases_of_skus_without_properties_have_nulls(spark):
    products = spark.createDataFrame([(1, 10, 50, "[0]")], PRODUCT_PROPERTIES.ddl)
    found = purchases_with_properties(purchases(spark, [(7, "2022-06-01", 1), (7, "2022-06-01", 2)]), products)
    assert {(row["sku"], row["category"], row["price"]) for row in found.collect()} == {(1, 10, 50), (2, None, None)}


def test_a_sku_bought_earlier_is_not_new(spark):
    earlier = purchases(spark, [(7, "2022-06-01", 1)])
    later = purchases(spark, [(7, "2022-09-01", 1), (8, "2022-09-01", 2)])
    assert [row["sku"] for row in purchases_of_new_skus(later, earlier).collect()] == [2]


def test_top_labels_fall_by_purchases_then_rise_by_id_and_skip_nulls(spark):
    bought = spark.createDataFrame([(value,) for value in [5, 9, 9, 3, None, None, None]], "category bigint")
    assert collect_top_labels(bought, "category", n_labels=2) == [(9, 0.5), (3, 0.25)]


def test_popularity_follows_the_given_ids_and_is_zero_for_what_nobody_bought(spark):
    bought = spark.createDataFrame([(5,), (5,), (3,), (1,)], "sku bigint")
    assert collect_popularity(bought, "sku", [3, 8, 5]) == [0.25, 0.0, 0.5]


@pytest.fixture
def clients(spark):
    return spark.createDataFrame([(0, 10, True), (1, 20, False)], CLIENTS.ddl)


def test_each_client_has_labels_in_both_windows_and_only_active_ones_for_churn(spark, clients):
    bought = spark.createDataFrame(
        [("train", 10, 1, None, 5), ("train", 10, 2, 7, 5), ("validation", 20, 2, 7, 5), ("train", 99, 3, 7, 5)],
        WINDOWED,
    )
    labels = spark.createDataFrame(
        [("propensity_sku", 0, 2, 0.5), ("propensity_sku", 1, 3, 0.2), ("propensity_sku", 2, 1, 0.1)], LABELS.ddl
    )
    expected = [
        ("churn", "train", 0, 10, [0]),
        ("churn", "validation", 0, 10, [1]),
        ("conversion", "train", 0, 10, [0]),
        ("conversion", "train", 1, 20, [1]),
        ("conversion", "validation", 0, 10, [1]),
        ("conversion", "validation", 1, 20, [0]),
        ("propensity_sku", "train", 0, 10, [1, 0, 1]),
        ("propensity_sku", "train", 1, 20, [0, 0, 0]),
        ("propensity_sku", "validation", 0, 10, [0, 0, 0]),
        ("propensity_sku", "validation", 1, 20, [1, 0, 0]),
    ]
    assertDataFrameEqual(build_targets(bought, labels, clients), typed(spark, expected, TARGETS.ddl))


def test_the_same_id_in_two_tasks_has_the_place_that_each_gives_it(spark, clients):
    bought = spark.createDataFrame([("train", 10, 5, 5, 5)], WINDOWED)
    labels = spark.createDataFrame(
        [("propensity_category", 0, 5, 1.0), ("propensity_price", 0, 8, 0.5), ("propensity_price", 1, 5, 0.5)],
        LABELS.ddl,
    )
    targets = build_targets(bought, labels, clients).filter("window = 'train' and client_id = 10")
    found = {row["task"]: row["labels"] for row in targets.collect()}
    assert found["propensity_category"] == [1]
    assert found["propensity_price"] == [0, 1]
