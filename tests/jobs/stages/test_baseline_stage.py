from datetime import datetime

import numpy as np
import pytest
from eval_tables import CONFIG, SMALL, golden_events, golden_products, golden_shop, purchases, save_ids, write_shop

from jobs.blocks.organiser_features import collect_organiser_features
from jobs.blocks.table import collect_blocks
from jobs.profiles.export import export_blocks
from jobs.stages import split as split_windows
from jobs.stages.baseline import run
from jobs.storage.delta_tables import read_table
from jobs.storage.workspace import Workspace
from jobs.transforms.clients import clients_in_order, rows_of_clients
from schemas.errors import InputError
from schemas.tables import BLOCKS, CLIENTS

CUTOFF = datetime(2022, 9, 1)


@pytest.fixture
def workspace(workspace, tmp_path):
    (tmp_path / "data").mkdir()
    return Workspace(workspace.out, tmp_path / "data")


def rows_of(spark, workspace):
    """The block as client id -> vector, None where not present, in the clients' order; and its columns."""
    clients = read_table(spark, workspace, CLIENTS)
    rows = read_table(spark, workspace, BLOCKS).filter("block = 'baseline'").join(clients, "client_id")
    found = {row["client_id"]: row["vector"] for row in rows.orderBy("position").collect()}
    return found, collect_blocks(spark, workspace)["baseline"].columns


@pytest.mark.slow
def test_the_entry_equals_the_golden_features_by_name_on_shuffled_events(spark, golden, tmp_path):
    workspace = golden_shop(spark, golden, tmp_path)
    run(spark, CONFIG, workspace)
    block, folder = collect_blocks(spark, workspace)["baseline"], workspace.entry("baseline")
    rows, clients = read_table(spark, workspace, BLOCKS), read_table(spark, workspace, CLIENTS)
    export_blocks(rows, clients, CUTOFF, {folder: block})
    ids, features = np.load(folder / "client_ids.npy"), np.load(folder / "embeddings.npy")
    assert features.dtype == np.float16
    assert_golden(spark, golden, ids, features, list(block.columns))


def golden_inputs(spark, golden):
    clients = clients_in_order(spark, np.load(golden / "challenge/input/relevant_clients.npy"))
    events = golden_events(spark, golden)
    return {name: rows_of_clients(rows, clients).filter("timestamp < '2022-09-01'") for name, rows in events.items()}


def assert_golden(spark, golden, ids, rows, names):
    expected = np.load(golden / "baseline.npz")
    expected_names = expected["names"].tolist()
    assert ids.tolist() == expected["client_ids"].tolist()
    assert len(names) == len(set(names)) == 320
    shared = [name for name in expected_names if name in names]
    np.testing.assert_array_equal(
        rows[:, [names.index(name) for name in shared]],
        expected["features"][:, [expected_names.index(name) for name in shared]],
    )
    assert_others_tie_at_place_ten(spark, golden, set(names) ^ set(expected_names))


def assert_others_tie_at_place_ten(spark, golden, names):
    """A value that one side has and the other has not is as frequent as the tenth."""
    inputs, products = golden_inputs(spark, golden), golden_products(spark, golden)
    for behaviour, column in {(name.split("/")[0], name.split("/")[2].split("=")[0]) for name in names}:
        events = inputs[behaviour].join(products, on="sku", how="left").toPandas()
        counts = events[column].value_counts()
        prefixes = tuple(f"{behaviour}/{days}d/{column}=" for days in (1, 7, 30))
        values = {int(name.split("=")[1]) for name in names if name.startswith(prefixes)}
        assert {counts[value] for value in values} == {counts.iloc[9]}


def test_behaviours_without_events_are_left_out_and_a_second_run_gives_the_same(spark, workspace, caplog):
    caplog.set_level("INFO")
    buys = [(1, "2022-08-01", 70), (2, "2022-08-02", 70), (1, "2022-09-10", 70), (1, "2022-09-28", 70)]
    write_shop(spark, workspace, SMALL, products=[(70, 7, None, None)], product_buy=buys)
    save_ids(workspace, "input/relevant_clients.npy", [3, 2, 1])
    split_windows.run(spark, SMALL, workspace)
    for _ in range(2):
        run(spark, SMALL, workspace)
        found, names = rows_of(spark, workspace)
        windows = [f"product_buy/{days}d/{value}" for days in (1, 7, 30) for value in ("sku=70", "category=7")]
        assert names == ("product_buy/count", *windows)
        assert list(found.items()) == [(3, None), (2, [1] * 7), (1, [1] * 7)]
    assert "page_visit is left out" in caplog.text
    assert [path.name for path in workspace.out.glob(".*")] == []


def test_clients_without_any_input_event_are_an_input_error(spark):
    events = {"product_buy": purchases(spark, []), "page_visit": purchases(spark, [])}
    clients = spark.createDataFrame([(0, 10, True)], CLIENTS.ddl)
    with pytest.raises(InputError, match="belong together"):
        collect_organiser_features(events, clients, CUTOFF, SMALL.behaviours)
