from dataclasses import replace
from datetime import datetime

import numpy as np
import pytest
from eval_tables import SMALL, golden_events, purchases, save_ids, write_shop
from pyspark.testing import assertDataFrameEqual

from conf.inputs import WindowSettings
from jobs.stages.split import collect_boundaries, relevant_clients, run
from jobs.storage.delta_tables import read_table
from jobs.storage.workspace import Workspace
from jobs.transforms.windows import collect_windows
from schemas.errors import InputError
from schemas.tables import CLIENTS, WINDOWS


@pytest.fixture
def workspace(workspace, tmp_path):
    (tmp_path / "data").mkdir()
    return Workspace(workspace.out, tmp_path / "data")


BUYS = [(7, "2022-08-01", 1), (3, "2022-09-02", 1), (9, "2022-09-28 12:00:00", 1)]
VISITS = [(4, "2022-08-02", 100), (5, "2022-09-29", 100)]


def clients_of(spark, workspace):
    rows = read_table(spark, workspace, CLIENTS).orderBy("position").collect()
    return [tuple(row) for row in rows]


def test_split_derives_clients_and_activity_from_the_input_events(spark, workspace):
    write_shop(spark, workspace, SMALL, product_buy=BUYS, page_visit=VISITS)
    for _ in range(2):
        run(spark, SMALL, workspace)
        assert clients_of(spark, workspace) == [(0, 4, False), (1, 7, True)]
        assert collect_windows(read_table(spark, workspace, WINDOWS)).input_end == datetime(2022, 9, 1)


def test_listed_clients_keep_their_order_and_listed_activity_counts(spark, workspace, cached):
    save_ids(workspace, "input/relevant_clients.npy", [9, 7, 3])
    save_ids(workspace, "target/active_clients.npy", [3, 12])
    clients = relevant_clients(spark, {"product_buy": purchases(spark, BUYS)}, workspace.data, cached)
    expected = [(0, 9, False), (1, 7, False), (2, 3, True)]
    assertDataFrameEqual(clients, spark.createDataFrame(expected, CLIENTS.ddl))


def test_a_history_without_input_events_is_an_input_error(spark, tmp_path, cached):
    with pytest.raises(InputError, match="before the train target window"):
        relevant_clients(spark, {"product_buy": purchases(spark, [])}, tmp_path, cached)


def test_in_mode_entry_the_last_event_of_any_behaviour_is_input(spark):
    events = {"product_buy": purchases(spark, BUYS), "page_visit": purchases(spark, VISITS)}
    windows = collect_boundaries(events, replace(SMALL, windows=WindowSettings(mode="entry")))
    assert (windows.end, windows.input_end) == (datetime(2022, 9, 28, 12), datetime(2022, 9, 29, 0, 0, 1))


@pytest.mark.parametrize("behaviours", [["product_buy", "page_visit"], ["page_visit"]])
def test_a_shop_without_purchases_is_an_input_error(spark, behaviours):
    events = {name: purchases(spark, VISITS if name == "page_visit" else []) for name in behaviours}
    with pytest.raises(InputError, match="expected purchases"):
        collect_boundaries(events, SMALL)


def test_derived_activity_is_that_of_the_golden_file(spark, workspace, golden, cached):
    relevant = np.load(golden / "challenge/input/relevant_clients.npy")
    save_ids(workspace, "input/relevant_clients.npy", relevant)
    bought = golden_events(spark, golden)["product_buy"].filter("timestamp < '2022-09-01'")
    clients = relevant_clients(spark, {"product_buy": bought}, workspace.data, cached).orderBy("position").collect()
    assert [row["client_id"] for row in clients] == relevant.tolist()
    active = [row["client_id"] for row in clients if row["is_active"]]
    assert active == np.load(golden / "challenge/target/active_clients.npy").tolist()
