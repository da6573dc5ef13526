"""The blocks by implicit ALS: whose pairs are factorised, what is like what, and when there is no block."""

from contextlib import ExitStack
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
from eval_tables import CONFIG, typed
from pyspark.ml.recommendation import ALS
from pyspark.sql import DataFrame, SparkSession

from conf.factorisation import FactorisationSettings
from jobs.blocks.factorisation import collect_factors, number_pairs, solve_clients, weigh_pairs
from jobs.transforms.pairs import number_items
from schemas.tables import CLIENTS, PRODUCT_PROPERTIES

CUTOFF = datetime(2022, 7, 1)
PAIRS = "client_id bigint, item bigint, weight double"
SETTINGS = FactorisationSettings(factors=4)


def clients_of(spark: SparkSession, *ids: int) -> DataFrame:
    return spark.createDataFrame([(n, client, True) for n, client in enumerate(ids)], CLIENTS.ddl)


def test_pairs_weigh_purchases_3_and_additions_1_of_known_categories_before_the_cutoff(spark: SparkSession) -> None:
    ddl = "client_id bigint, timestamp timestamp_ntz, sku bigint"
    buys = [(1, "2022-06-01", 70), (1, "2022-06-02", 71), (2, "2022-06-01", 80), (1, "2022-07-01", 70)]
    adds = [(1, "2022-06-01", 70), (2, "2022-06-30 23:59:59", 90), (2, "2022-06-30", 99)]
    events = {"product_buy": typed(spark, buys, ddl), "add_to_cart": typed(spark, adds, ddl)}
    products = [(70, 7, None, None), (71, 7, None, None), (80, 8, None, None), (90, None, None, None)]
    known = spark.createDataFrame(products, PRODUCT_PROPERTIES.ddl)
    pairs = weigh_pairs("als_category", events, known, CUTOFF, CONFIG.behaviours)
    assert pairs is not None
    assert sorted(map(tuple, pairs.collect())) == [(1, 7, 7.0), (2, 8, 3.0)]
    assert weigh_pairs("als_url", events, known, CUTOFF, CONFIG.restricted_to("product_buy").behaviours) is None


def test_the_given_clients_come_first_and_only_the_most_active_take_part(
    spark: SparkSession, cached: ExitStack
) -> None:
    rows = [(5, 1, 9.0), (6, 1, 5.0), (7, 2, 5.0), (8, 2, 1.0), (3, 2, 2.0), (4, 3, 1.0)]
    pairs = spark.createDataFrame(rows, PAIRS)
    # client 4 is given and loses its item: not one of the two with the largest weights, nor of two clients
    for max_items, min_clients in ((2, 1), (3, 2)):
        items = number_items(pairs, max_items, cached, min_clients)
        for max_clients in (4, 1):
            of = FactorisationSettings(max_clients=max_clients)
            kept = number_pairs(pairs, items, clients_of(spark, 4, 3, 1), of, cached).collect()
            expected = [(0, 1, 2.0), (2, 0, 9.0), (3, 0, 5.0)]
            assert sorted(map(tuple, kept)) == [row for row in expected if row[0] < max_clients]


def test_a_client_is_solved_as_in_the_last_half_iteration_of_mllib(
    spark: SparkSession, cached: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobs.blocks.factorisation.CLIENTS_PER_SOLUTION", 2)
    rng = np.random.default_rng(1)
    drawn = rng.integers(1, 9, (30, 3)).tolist()
    rows = sorted({(client, item): (client, item, float(weight)) for client, item, weight in drawn}.values())
    ddl = "client_id bigint, item_number int, weight double"
    settings = FactorisationSettings(factors=3, alpha=3, regularisation=0.01)
    als = ALS(
        rank=3, maxIter=2, alpha=3, regParam=0.01, implicitPrefs=True, seed=1,
        userCol="client_id", itemCol="item_number", ratingCol="weight",
    )  # fmt: skip
    model = als.fit(spark.createDataFrame(rows, ddl))
    theirs = {row["id"]: row["features"] for row in model.userFactors.collect()}
    assert len(theirs) > 5
    # nobody that was factorised has item 10: it says nothing of client 1, and client 99 has no other
    more = spark.createDataFrame([*rows, (1, 10, 5.0), (99, 10, 1.0)], ddl)
    solved = solve_clients(more, model.itemFactors, settings, cached).collect()
    ours = {row["client_id"]: row["vector"] for row in solved}
    assert ours.keys() == theirs.keys()
    for client, vector in theirs.items():
        np.testing.assert_allclose(ours[client], vector, rtol=1e-4, atol=1e-6)


def test_clients_of_one_taste_are_alike_and_those_without_events_are_not_present(
    spark: SparkSession, cached: ExitStack, tmp_path: Path
) -> None:
    rng = np.random.default_rng(1)
    rows = [(client, int(rng.integers(10)) + 10 * (client % 2), 1.0) for client in range(40) for _ in range(8)]
    pairs = spark.createDataFrame(sorted(set(rows)), PAIRS)
    found = [
        collect_factors("als_url", part, clients_of(spark, *range(30), 77), SETTINGS, str(tmp_path), cached)
        for part in (pairs, pairs.repartition(3))
    ]
    vectors = []
    for made in found:
        assert made is not None
        block, frame = made
        assert block.columns == tuple(f"als_url/{n}" for n in range(4))
        rows = {row["client_id"]: row["vector"] for row in frame.collect()}
        assert set(range(30)) <= rows.keys()
        assert 77 not in rows
        vectors.append(np.array([rows[client] for client in range(30)]))
    np.testing.assert_allclose(*vectors, atol=1e-4)
    unit = vectors[0] / np.linalg.norm(vectors[0], axis=1, keepdims=True)
    alike = unit @ unit.T
    is_same = np.arange(30)[:, None] % 2 == np.arange(30) % 2
    assert alike[is_same].mean() > alike[~is_same].mean() + 0.5


@pytest.mark.parametrize(
    ("n_pairs", "reason"),
    [(3, "0 pairs of a client and an item in page_visit, fewer than"), (None, "has none of page_visit")],
)
def test_too_little_to_factorise_gives_no_block_and_a_line(
    spark: SparkSession,
    cached: ExitStack,
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
    n_pairs: int | None,
    reason: str,
) -> None:
    caplog.set_level("INFO")
    pairs = None if n_pairs is None else spark.createDataFrame([(n, n, 1.0) for n in range(n_pairs)], PAIRS)
    assert collect_factors("als_url", pairs, clients_of(spark, 1), SETTINGS, str(tmp_path), cached) is None
    assert "als_url: left out: " in caplog.text
    assert reason in caplog.text
