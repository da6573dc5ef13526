from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession

from conf.synthetic import ShopSettings
from jobs.commands.generate import generate_shop
from jobs.storage.entry_rules import validate_entry
from jobs.synthetic.shop.catalogue import build_catalogue
from jobs.synthetic.shop.oracle import describe_state
from jobs.synthetic.shop.simulation import simulate_block
from schemas.errors import OutputError

pytestmark = pytest.mark.spark

SETTINGS = ShopSettings(n_clients=200, clients_per_block=90, sessions_per_day=0.2)
SOURCES = {
    "product_buy": "sku",
    "add_to_cart": "sku",
    "remove_from_cart": "sku",
    "page_visit": "url",
    "search_query": "query",
}


@pytest.fixture(scope="module")
def shop(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("generated") / "shop"
    generate_shop(spark, directory, SETTINGS)
    return directory


def test_files_have_the_columns_of_the_challenge(shop: Path):
    found = {path.stem: _columns(path) for path in shop.glob("*.parquet")}
    event = {"client_id": "int64", "timestamp": "string"}
    expected = {name: {**event, column: "string" if column == "query" else "int64"} for name, column in SOURCES.items()}
    expected["product_properties"] = {"sku": "int64", "category": "int64", "price": "int64", "name": "string"}
    assert found == expected


def _columns(path: Path) -> dict[str, str]:
    schema = pq.read_schema(next(path.glob("part-*")))
    return {field.name: str(field.type) for field in schema}


def test_the_files_hold_the_simulated_events_whatever_task_made_them(shop: Path):
    catalogue = build_catalogue(SETTINGS)
    blocks = [simulate_block(block, catalogue, SETTINGS).events for block in range(3)]
    for name, column in SOURCES.items():
        rows = pd.concat([pd.DataFrame(vars(block[name])) for block in blocks])
        item = catalogue.query[rows["item"]] if column == "query" else rows["item"]
        moment = (pd.Timestamp(SETTINGS.first_day) + pd.to_timedelta(rows["second"], unit="s")).dt
        timestamp = moment.strftime("%Y-%m-%d %H:%M:%S")
        expected = pd.DataFrame({"client_id": rows["client_id"], "timestamp": timestamp, column: item})
        pd.testing.assert_frame_equal(_sorted(pd.read_parquet(shop / f"{name}.parquet")), _sorted(expected))


def _sorted(rows: pd.DataFrame) -> pd.DataFrame:
    return rows.sort_values(list(rows.columns)).reset_index(drop=True)


def test_clients_are_relevant_by_their_share_and_active_by_an_input_purchase(shop: Path):
    relevant = np.load(shop / "input" / "relevant_clients.npy")
    seen = {client for name in SOURCES for client in pd.read_parquet(shop / f"{name}.parquet")["client_id"]}
    assert relevant.dtype == np.int64
    assert len(np.unique(relevant)) == len(relevant)
    assert set(relevant) < seen
    assert len(relevant) / len(seen) == pytest.approx(0.8, abs=0.1)
    buys, train_start, _ = _purchases(shop)
    expected = np.intersect1d(relevant, buys.loc[buys["timestamp"] < train_start, "client_id"])
    np.testing.assert_array_equal(np.load(shop / "target" / "active_clients.npy"), expected)


@pytest.mark.parametrize("task", ["category", "sku", "price", "new_sku"])
def test_labels_are_the_most_bought_of_the_train_window(shop: Path, task: str):
    buys, train_start, valid_start = _purchases(shop)
    in_train = buys[(buys["timestamp"] >= train_start) & (buys["timestamp"] < valid_start)]
    if task == "new_sku":
        in_train = in_train[~in_train["sku"].isin(buys.loc[buys["timestamp"] < train_start, "sku"])]
    counts = in_train.groupby("sku" if task == "new_sku" else task).size()
    top = counts.sort_index().sort_values(ascending=False, kind="stable").head(100)
    labels = np.load(shop / "target" / f"propensity_{task}.npy")
    assert labels.dtype == np.int64
    np.testing.assert_array_equal(labels, top.index)
    popularity = np.load(shop / "target" / f"popularity_propensity_{task}.npy")
    assert popularity.dtype == np.float64
    np.testing.assert_allclose(popularity, top / len(in_train))


def _purchases(shop: Path) -> tuple[pd.DataFrame, pd.Timestamp, pd.Timestamp]:
    """Purchases with their products' properties, and the start of the train and the validation window."""
    buys = pd.read_parquet(shop / "product_buy.parquet").merge(pd.read_parquet(shop / "product_properties.parquet"))
    buys["timestamp"] = pd.to_datetime(buys["timestamp"])
    train_start = (buys["timestamp"].max() - pd.Timedelta(days=27)).normalize()
    return buys, train_start, train_start + pd.Timedelta(days=14)


def test_the_oracle_is_an_entry_of_the_relevant_clients_states_at_the_cutoff(shop: Path):
    relevant = np.load(shop / "input" / "relevant_clients.npy")
    assert validate_entry(shop / "oracle", relevant)[0] == len(relevant)
    _, train_start, _ = _purchases(shop)
    cutoff_day = (train_start.date() - SETTINGS.first_day).days
    catalogue = build_catalogue(SETTINGS)
    states = {}
    for block in range(3):
        simulation = simulate_block(block, catalogue, SETTINGS)
        rows = describe_state(simulation, catalogue, SETTINGS, block, cutoff_day).astype(np.float16)
        states |= zip(simulation.clients.client_id, rows, strict=True)
    found = np.load(shop / "oracle" / "embeddings.npy")
    np.testing.assert_array_equal(np.load(shop / "oracle" / "client_ids.npy"), relevant)
    np.testing.assert_array_equal(found, np.stack([states[client] for client in relevant]))


def test_nothing_is_left_beside_the_finished_shop(shop: Path):
    assert [path.name for path in shop.parent.iterdir()] == ["shop"]
    assert not [path for path in shop.iterdir() if path.name.startswith(".")]


def test_a_folder_that_holds_something_is_refused_and_left_alone(spark: SparkSession, tmp_path: Path):
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(OutputError, match="empty"):
        generate_shop(spark, tmp_path, SETTINGS)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_files_lie_in_the_folder_where_another_file_system_is_sparks_default(
    spark: SparkSession, tmp_path: Path, other_file_system: None
):
    generate_shop(spark, tmp_path / "shop", replace(SETTINGS, n_clients=90))
    assert _columns(tmp_path / "shop" / "product_buy.parquet")["sku"] == "int64"
