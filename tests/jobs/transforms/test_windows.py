from datetime import datetime

import pytest
from eval_tables import purchases
from pyspark.sql import DataFrame

from conf.inputs import WindowSettings
from jobs.transforms.windows import (
    Windows,
    collect_last_timestamp,
    derive_windows,
    events_before,
    target_events,
    windows_frame,
)

END = datetime(2022, 9, 28, 22, 8, 49)


def from_row(frame: DataFrame) -> Windows:
    return Windows(**frame.collect()[0].asDict())


def test_target_windows_are_the_last_28_calendar_days():
    windows = derive_windows(END, WindowSettings())
    assert windows.input_end == windows.train_start == datetime(2022, 9, 1)
    assert (windows.valid_start, windows.end) == (datetime(2022, 9, 15), END)


def test_a_purchase_at_midnight_counts_its_whole_day():
    windows = derive_windows(datetime(2022, 9, 28), WindowSettings(target_days=1))
    assert (windows.train_start, windows.valid_start) == (datetime(2022, 9, 27), datetime(2022, 9, 28))


def test_in_mode_entry_every_event_is_input_even_after_the_last_purchase():
    last_visit = datetime(2022, 9, 29, 1)
    windows = derive_windows(END, WindowSettings(mode="entry"), last_visit)
    assert windows.input_end > last_visit
    assert windows.train_start == datetime(2022, 9, 1)


def test_windows_come_back_from_their_table_row_as_they_were(spark):
    windows = derive_windows(END, WindowSettings())
    assert from_row(windows_frame(spark, windows)) == windows


@pytest.fixture
def rows(spark):
    times = ["2022-08-31 23:59:59", "2022-09-01", "2022-09-14 23:59:59", "2022-09-15", "2022-09-28 22:08:49"]
    return purchases(spark, [(1, time, sku) for sku, time in enumerate([*times, "2022-09-28 22:08:50"])])


def test_an_event_at_a_boundary_belongs_to_the_window_that_starts_there(rows):
    windows = derive_windows(END, WindowSettings())
    targets = {row["sku"]: row["window"] for row in target_events(rows, windows).collect()}
    assert [row["sku"] for row in events_before(rows, windows.input_end).collect()] == [0]
    assert targets == {1: "train", 2: "train", 3: "validation", 4: "validation"}


def test_the_last_timestamp_of_no_events_is_none(spark, rows):
    assert collect_last_timestamp(rows) == datetime(2022, 9, 28, 22, 8, 50)
    assert collect_last_timestamp(purchases(spark, [])) is None


def test_boundaries_do_not_depend_on_the_zone_of_the_driver(spark, rows, monkeypatch):
    import time

    monkeypatch.setenv("TZ", "Pacific/Auckland")
    time.tzset()
    try:
        windows = from_row(windows_frame(spark, derive_windows(END, WindowSettings())))
        assert windows.train_start == datetime(2022, 9, 1)
        assert events_before(rows, windows.input_end).count() == 1
    finally:
        monkeypatch.undo()
        time.tzset()
