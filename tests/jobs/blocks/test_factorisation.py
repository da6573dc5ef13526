"""The blocks by implicit ALS: whose pairs are factorised, what is like what, and when there is no block."""

from contextlib import ExitStack
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
from eval_tables import CONFIG, typed
from pyspark.sql import DataFrame, SparkSession

from conf.factorisation import FactorisationSettings
from jobs.blocks.factorisation import collect_factors, number_pairs, weigh_pairs
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


def test_the_given_clients_come_first_and_only_the_most_active_others_take_part(
    spark: SparkSession, cached: ExitStack
) -> None:
    rows = [(5, 1, 9.0), (6, 1, 5.0), (7, 2, 5.0), (8, 2, 1.0), (3, 2, 2.0), (4, 3, 1.0)]
    pairs = spark.createDataFrame(rows, PAIRS)
    # client 4 is given and loses its item: not one of the two with the largest weights, nor of two clients
    for settings in (dict(max_items=2, min_clients=1), dict(max_items=3)):
        of = FactorisationSettings(max_other_clients=2, **settings)
        kept = number_pairs(pairs, clients_of(spark, 4, 3, 1), of, cached).collect()
        assert sorted(map(tuple, kept)) == [(3, 0, 1, 2.0), (5, 2, 0, 9.0), (6, 3, 0, 5.0)]


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
