import pytest
from eval_tables import purchases, typed
from pyspark.testing import assertDataFrameEqual

from jobs.evaluation.labels import build_targets, collect_popularity, collect_top_labels, collect_unknown, count_values
from schemas.tables import CLIENTS, LABELS, PRODUCT_PROPERTIES, TARGETS

WINDOWED = "window string, client_id bigint, sku bigint, category bigint, price bigint"


def test_values_are_counted_per_task_without_nulls_and_a_sku_bought_earlier_is_not_new(spark):
    in_train = spark.createDataFrame(
        [("train", 7, 1, None, 5), ("train", 7, 2, 30, 5), ("train", 8, 2, 30, 5)], WINDOWED
    )
    found = count_values(in_train, purchases(spark, [(9, "2022-06-01", 1)])).collect()
    assert {(row["task"], row["id"]): row["n"] for row in found} == {
        ("propensity_category", 30): 2,
        ("propensity_sku", 1): 1,
        ("propensity_sku", 2): 2,
        ("propensity_new_sku", 2): 2,
        ("propensity_price", 5): 3,
    }


@pytest.fixture
def counts(spark):
    rows = [("propensity_category", 5, 1), ("propensity_category", 9, 2), ("propensity_category", 3, 1)]
    return spark.createDataFrame([*rows, ("propensity_sku", 3, 5)], "task string, id bigint, n bigint")


def test_top_labels_fall_by_purchases_then_rise_by_id(counts):
    found = collect_top_labels(counts, n_labels=2)
    assert found == {"propensity_category": [(9, 0.5), (3, 0.25)], "propensity_sku": [(3, 1.0)]}


def test_popularity_follows_the_given_ids_and_is_zero_for_what_nobody_bought(counts):
    ids = {"propensity_category": [3, 8, 9], "propensity_price": [3]}
    assert collect_popularity(counts, ids) == {"propensity_category": [0.25, 0.0, 0.5], "propensity_price": [0.0]}


def test_values_that_no_source_holds_are_unknown(spark):
    products = spark.createDataFrame([(1, 10, 50, None)], PRODUCT_PROPERTIES.ddl)
    bought = spark.createDataFrame([("train", 7, 2, None, None)], WINDOWED)
    ids = {"propensity_sku": [3, 2, 1, 4], "propensity_category": [10], "propensity_price": [2]}
    unknown = {"propensity_sku": [3, 4], "propensity_category": [], "propensity_price": [2]}
    assert collect_unknown(ids, products, bought) == unknown


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


def test_the_same_id_in_two_tasks_has_the_label_that_each_gives_it(spark, clients):
    bought = spark.createDataFrame([("train", 10, 5, 5, 5)], WINDOWED)
    labels = spark.createDataFrame(
        [("propensity_category", 0, 5, 1.0), ("propensity_price", 0, 8, 0.5), ("propensity_price", 1, 5, 0.5)],
        LABELS.ddl,
    )
    targets = build_targets(bought, labels, clients).filter("window = 'train' and client_id = 10")
    found = {row["task"]: row["labels"] for row in targets.collect()}
    assert found["propensity_category"] == [1]
    assert found["propensity_price"] == [0, 1]
