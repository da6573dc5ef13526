from datetime import datetime

import numpy as np
import pytest
from eval_tables import CONFIG, purchases, typed
from pyspark.sql import functions as F

from jobs.blocks.organiser_features import (
    collect_count_features,
    collect_mean_codes,
    collect_organiser_features,
    collect_top_values,
    join_features,
)
from schemas.tables import CLIENTS


def features_of(part):
    names, frame = part
    return {row["client_id"]: dict(zip(names, row["vector"], strict=True)) for row in frame.collect()}


def test_top_values_fall_by_count_then_rise_by_value_and_are_at_most_ten(spark):
    values = [20, 20, None, None, None, *range(11, 0, -1)]
    events = spark.createDataFrame([(value,) for value in values], "sku bigint")
    assert collect_top_values(events, "sku") == [20, 1, 2, 3, 4, 5, 6, 7, 8, 9]


@pytest.mark.parametrize("n_partitions", [1, 4])
def test_a_tie_at_place_ten_goes_to_the_smaller_value_in_any_order_of_rows(spark, n_partitions):
    values = [value for value in range(1, 10) for _ in range(3)] + [12, 11, 10] * 2  # 10, 11 and 12 tie at place ten
    rows = np.random.default_rng(n_partitions).permutation(values).tolist()
    events = spark.createDataFrame([(value,) for value in rows], "sku bigint").repartition(n_partitions)
    assert collect_top_values(events, "sku") == list(range(1, 11))


def test_windows_are_counted_back_from_the_last_event_whatever_the_row_order(spark):
    events = purchases(
        spark,
        [
            (1, "2022-06-30 12:00:00", 5),
            (1, "2022-06-29 12:00:00", 5),
            (1, "2022-06-29 11:59:59", 5),
            (1, "2022-05-31 12:00:00", 5),
            (2, "2022-05-31 11:59:59", 5),
        ],
    )
    part = collect_count_features(events.orderBy("sku", "timestamp"), "product_buy", ["sku"])
    assert part[0] == ["product_buy/count", "product_buy/1d/sku=5", "product_buy/7d/sku=5", "product_buy/30d/sku=5"]
    assert features_of(part) == {
        1: {"product_buy/count": 4, "product_buy/1d/sku=5": 2, "product_buy/7d/sku=5": 3, "product_buy/30d/sku=5": 4},
        2: {"product_buy/count": 1, "product_buy/1d/sku=5": 0, "product_buy/7d/sku=5": 0, "product_buy/30d/sku=5": 0},
    }


def test_counts_are_not_cut_to_what_an_entry_can_hold(spark):
    events = spark.range(65_600).selectExpr("1L as client_id", "timestamp_ntz'2022-06-01' as timestamp", "5L as url")
    part = collect_count_features(events, "page_visit", ["url"])
    assert set(features_of(part)[1].values()) == {65_600.0}


def test_mean_codes_are_the_mean_of_each_code_over_a_clients_queries(spark):
    low, high = ([str(code) for code in codes] for codes in (range(16), [255] * 16))
    rows = [(1, "2022-06-01", f"[{' '.join(codes)}]") for codes in (low, high)]
    events = typed(spark, rows, "client_id bigint, timestamp timestamp_ntz, query string")
    part = collect_mean_codes(events, "search_query", "query")
    assert list(features_of(part)[1].values()) == [(code + 255) / 2 for code in range(16)]
    assert part[0][15] == "search_query/mean_code_15"


def test_a_behaviour_without_events_has_no_features(spark):
    nothing = typed(spark, [], "client_id bigint, timestamp timestamp_ntz, query string")
    assert collect_count_features(nothing, "page_visit", ["query"]) is None
    assert collect_mean_codes(nothing, "search_query", "query") is None


def test_a_client_with_events_of_some_behaviours_has_zeros_for_the_others(spark):
    buys, visits = (purchases(spark, [(client, "2022-06-01", 5)]) for client in (10, 20))
    parts = [collect_count_features(events, name, ["sku"]) for name, events in (("buy", buys), ("visit", visits))]
    rows = join_features(parts).orderBy("client_id").collect()
    assert [(row["client_id"], row["vector"]) for row in rows] == [
        (10, [1.0] * 4 + [0.0] * 4),
        (20, [0.0] * 4 + [1.0] * 4),
    ]


def test_events_from_the_cutoff_on_and_of_others_are_not_seen(spark):
    clients = spark.createDataFrame([(0, 10, True), (1, 30, True)], CLIENTS.ddl)
    rows = [(10, "2022-06-01", 5), (10, "2022-06-02", 5), (30, "2022-06-02", 5), (99, "2022-06-01", 6)]
    events = {"product_buy": purchases(spark, rows).withColumns({"category": F.lit(1), "price": F.lit(2)})}
    block, vectors = collect_organiser_features(events, clients, datetime(2022, 6, 2), CONFIG.behaviours)
    assert block.name == "baseline"
    assert block.columns[:2] == ("product_buy/count", "product_buy/1d/sku=5")
    assert [(row["client_id"], row["vector"]) for row in vectors.collect()] == [(10, [1.0] * len(block.columns))]
