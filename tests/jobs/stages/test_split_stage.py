from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from eval_tables import SMALL, golden_events, purchases, save_ids, write_shop
from pyspark.testing import assertDataFrameEqual

from conf.inputs import WindowSettings
from jobs.stages import split
from jobs.stages.split import collect_boundaries, relevant_clients, run
from jobs.storage.delta_tables import read_table
from jobs.storage.workspace import Workspace
from jobs.transforms.windows import Day, find_stray_days, read_windows
from schemas.errors import InputError
from schemas.tables import CLIENTS


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
        assert read_windows(spark, workspace).input_end == datetime(2022, 9, 1)


def test_listed_clients_keep_their_order_and_listed_activity_counts(spark, workspace, cached):
    save_ids(workspace, "input/relevant_clients.npy", [9, 7, 3])
    save_ids(workspace, "target/active_clients.npy", [3, 12])
    clients = relevant_clients(spark, {"product_buy": purchases(spark, BUYS)}, workspace.data, cached)
    expected = [(0, 9, False), (1, 7, False), (2, 3, True)]
    assertDataFrameEqual(clients, spark.createDataFrame(expected, CLIENTS.ddl))


def test_lists_of_another_data_sets_clients_are_refused(spark, workspace, cached, monkeypatch):
    monkeypatch.setattr(split, "N_ASKED_FIRST", 2)
    inputs = {"product_buy": purchases(spark, BUYS), "page_visit": purchases(spark, VISITS)}
    save_ids(workspace, "input/relevant_clients.npy", [11, 12, 13, 14, 15, 5])  # 5 is not among the first to be asked
    assert relevant_clients(spark, inputs, workspace.data, cached).count() == 6
    save_ids(workspace, "target/active_clients.npy", [3])
    with pytest.raises(InputError, match=r"active_clients\.npy: expected some of the clients of .*, found none"):
        relevant_clients(spark, inputs, workspace.data, cached)
    save_ids(workspace, "input/relevant_clients.npy", [11, 12, 13, 14, 15])
    with pytest.raises(InputError, match=r"relevant_clients\.npy: .* found none among 5 \(the first: 11, 12, 13\)"):
        relevant_clients(spark, inputs, workspace.data, cached)


def test_a_history_without_input_events_is_an_input_error(spark, tmp_path, cached):
    with pytest.raises(InputError, match="before the train target window"):
        relevant_clients(spark, {"product_buy": purchases(spark, [])}, tmp_path, cached)


def test_in_mode_entry_the_last_event_of_any_behaviour_is_input(spark):
    events = {"product_buy": purchases(spark, BUYS), "page_visit": purchases(spark, VISITS)}
    windows = boundaries(events, mode="entry")
    assert (windows.end, windows.input_end) == (datetime(2022, 9, 28, 12), datetime(2022, 9, 29, 0, 0, 1))


SLIP = (8, "2099-12-31 23:59:59", 1)


def boundaries(events, **settings):
    return collect_boundaries(
        events, replace(SMALL, windows=WindowSettings(**settings)), Workspace(Path("out"), Path("data"))
    )


def test_a_last_purchase_long_after_the_one_before_it_is_refused_with_both_times(spark):
    for mode in ("evaluate", "entry"):
        with pytest.raises(
            InputError,
            match=r"data/product_buy\.parquet: expected the last purchase within 28 days .*found it at 2099-12-31 "
            r"23:59:59, and that at 2022-09-28 12:00:00; .* set windows\.end='2022-09-28 12:00:00' to leave out",
        ):
            boundaries({"product_buy": purchases(spark, [*BUYS, SLIP, SLIP])}, mode=mode)
    visits = purchases(spark, [*VISITS, SLIP])
    assert boundaries({"product_buy": purchases(spark, BUYS), "page_visit": visits}).end == datetime(2022, 9, 28, 12)
    with pytest.raises(InputError, match=r"data/page_visit\.parquet: expected the last event within 28 days .*2099"):
        boundaries({"product_buy": purchases(spark, BUYS), "page_visit": visits}, mode="entry")


@pytest.mark.parametrize(
    ("rows", "end"),
    [
        ([(1, "2022-09-28", 1)], datetime(2022, 9, 28)),
        ([(1, "2022-08-31", 1), (1, "2022-09-28", 1)], datetime(2022, 9, 28)),
        ([(1, "2022-08-01", 1), (1, "2022-09-28 10:00:00", 1), (1, "2022-09-28 11:00:00", 1)],
         datetime(2022, 9, 28, 11)),
    ],
)  # fmt: skip
def test_a_last_purchase_that_is_alone_or_soon_after_another_dates_the_windows(spark, rows, end):
    assert boundaries({"product_buy": purchases(spark, rows)}).end == end


def test_a_few_last_purchases_long_after_the_others_are_refused_with_their_times(spark):
    rows = [(1, f"2022-08-{day:02d} 10:00:0{n}", n) for day in range(1, 29) for n in range(6)]
    slips = [(8, "2098-12-31 09:00:00", 1), (8, "2099-12-31 09:00:00", 1), (8, "2099-12-31 23:00:00", 1)]
    with pytest.raises(
        InputError,
        match=r"data/product_buy\.parquet: expected more purchases than an average day has after a pause of more than "
        r"28 days, found 3 of 171 from 2098-12-31 09:00:00 to 2099-12-31 23:00:00, .*at 2022-08-28 10:00:05"
        r".*windows\.end='2022-08-28 10:00:05' to leave .*windows\.end='2099-12-31 23:00:00' if",
    ):
        boundaries({"product_buy": purchases(spark, [*rows, *slips])})


def days_of(*counts):
    """A day in every month that has events, of so many at different times."""
    return [Day(datetime(2022, month, 1), datetime(2022, month, 1, n > 1), n) for month, n in counts]


@pytest.mark.parametrize(
    ("days", "position"),
    [
        ([], None), (days_of((1, 9)), None),
        (days_of((1, 98), (3, 2)), 1), (days_of((1, 97), (3, 2)), None),  # 2 % of all
        (days_of((1, 198), (3, 2), (5, 2)), 1), (days_of((1, 190), (3, 2), (5, 2)), 2), (days_of((1, 9), (3, 9)), None),
        ([*days_of(*((1, 1) for _ in range(100))), *days_of((3, 2))], None),  # more than an average day
        (days_of((1, 1), (3, 1)), 1), (days_of((1, 1), (3, 2)), None),  # a single moment
    ],
)  # fmt: skip
def test_purchases_after_a_pause_that_are_no_more_than_on_an_average_day_are_stray(days, position):
    assert find_stray_days(days, timedelta(28)) == position


def test_the_windows_end_where_the_settings_say_so_and_later_events_are_none(spark, caplog):
    caplog.set_level("INFO")
    events = {"product_buy": purchases(spark, [*BUYS, SLIP]), "page_visit": purchases(spark, [*VISITS, SLIP])}
    end = datetime(2022, 9, 28, 11)
    windows = boundaries(events, end="2022-09-28 11:00:00")
    assert (windows.end, windows.train_start, windows.input_end) == (end, datetime(2022, 9, 1), datetime(2022, 9, 1))
    assert "windows.end=2022-09-28 11:00:00: 2 of 4 purchases come later: no targets, no inputs" in caplog.text
    assert boundaries(events, mode="entry", end="2022-09-28 11:00:00").input_end == datetime(2022, 9, 28, 11, 0, 1)
    with pytest.raises(InputError, match=r"up to windows\.end=2022-07-31, found none, and 4 after it"):
        boundaries(events, end="2022-07-31")


@pytest.mark.parametrize("behaviours", [["product_buy", "page_visit"], ["page_visit"]])
def test_a_shop_without_purchases_is_an_input_error(spark, behaviours):
    events = {name: purchases(spark, VISITS if name == "page_visit" else []) for name in behaviours}
    with pytest.raises(InputError, match="expected purchases"):
        boundaries(events)


def test_derived_activity_is_that_of_the_golden_file(spark, workspace, golden, cached):
    relevant = np.load(golden / "challenge/input/relevant_clients.npy")
    save_ids(workspace, "input/relevant_clients.npy", relevant)
    bought = golden_events(spark, golden)["product_buy"].filter("timestamp < '2022-09-01'")
    clients = relevant_clients(spark, {"product_buy": bought}, workspace.data, cached).orderBy("position").collect()
    assert [row["client_id"] for row in clients] == relevant.tolist()
    active = [row["client_id"] for row in clients if row["is_active"]]
    assert active == np.load(golden / "challenge/target/active_clients.npy").tolist()
