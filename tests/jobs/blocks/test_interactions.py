"""The rows that the network of interactions is trained on: nothing of the scored windows is in them."""

from collections.abc import Sequence
from contextlib import ExitStack
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
from eval_tables import SMALL
from pyspark.sql import SparkSession

from conf.interactions import InteractionSettings
from jobs.blocks.counters import Shop, known_counters
from jobs.blocks.interactions import earlier_cutoffs, training_rows, write_rows
from ml.data.counter_rows import NUMBERS
from schemas.tables import CLIENTS, PRODUCT_PROPERTIES

CUTOFF = datetime(2022, 8, 1)
FIRST = datetime(2022, 6, 10)
BEHAVIOURS = SMALL.behaviours
COUNTERS = [counter.name for counter in known_counters(BEHAVIOURS)]
LABELS = [("category", 0, 0), ("category", 1, 1), ("sku", 70, 2)]
Row = tuple[int, datetime, int]
Found = dict[tuple[int, int], tuple[bool, list[int] | None, np.ndarray]]


def events_until(end: datetime) -> tuple[list[Row], list[Row]]:
    """Purchases and visits of 12 clients; of each day the half that buys is another one, and visits tell which."""
    rng = np.random.default_rng(2)
    buys: list[Row] = []
    visits: list[Row] = []
    for day in range((end - FIRST).days):
        for client in range(12):
            time = FIRST + timedelta(days=day, hours=int(rng.integers(24)))
            is_buyer = rng.random() < 0.3
            visits += [(client, time, 900 + int(is_buyer))] * (9 if is_buyer else 1)
            buys += [(client, time, 70 + int(rng.integers(4)))] * is_buyer
    return buys, visits


def rows_of(spark: SparkSession, buys: Sequence[Row], visits: Sequence[Row], url: str) -> Found:
    products = [(70 + number, number % 2, number * 10, f"[{' '.join([str(number)] * 16)}]") for number in range(4)]
    shop = Shop(
        {
            "product_buy": spark.createDataFrame(buys, "client_id bigint, timestamp timestamp_ntz, sku bigint"),
            "page_visit": spark.createDataFrame(visits, "client_id bigint, timestamp timestamp_ntz, url bigint"),
        },
        spark.createDataFrame(products, PRODUCT_PROPERTIES.ddl),
        spark.createDataFrame([(client, client, True) for client in range(13)], CLIENTS.ddl),
        BEHAVIOURS,
    )
    labels = spark.createDataFrame(LABELS, "column string, id bigint, label int")
    with ExitStack() as cached:
        cutoffs = earlier_cutoffs(CUTOFF, FIRST, (14, 28, 99))
        assert cutoffs == {14: datetime(2022, 7, 18), 28: datetime(2022, 7, 4)}
        shop = shop.with_names_before(datetime(2022, 7, 4), cached)
        settings = InteractionSettings(view_weight=0.5)
        rows = training_rows(shop, cutoffs, labels, 14, settings, 5, cached)
        found = {}
        for row in write_rows(rows, 24, url).collect():
            numbers = np.frombuffer(row[NUMBERS], np.float32).reshape(settings.n_views, len(COUNTERS))
            found[row["client_id"], row["days_before"]] = (row["is_active"], row["labels"], numbers)
    return found


def test_training_rows_see_no_event_of_the_scored_windows_and_labels_are_of_the_days_after_each_cutoff(
    spark: SparkSession, tmp_path: Path
) -> None:
    buys, visits = events_until(CUTOFF + timedelta(days=28))
    before, seen = ([row for row in rows if row[1] < CUTOFF] for rows in (buys, visits))
    # in the scored windows, and only there, a page tells who buys
    leak = [(client, time, 999) for client, time, _ in buys if time >= CUTOFF]
    found = rows_of(spark, [*buys], [*visits, *leak], str(tmp_path / "all"))
    clean = rows_of(spark, before, seen, str(tmp_path / "before"))

    assert found.keys() == clean.keys() == {(client, days) for client in range(12) for days in (14, 28)}
    for (client, days), (is_active, labels, numbers) in found.items():
        assert (is_active, labels) == clean[client, days][:2]
        np.testing.assert_array_equal(numbers, clean[client, days][2])

        cutoff = CUTOFF - timedelta(days=days)
        own = [(time, sku - 70) for owner, time, sku in buys if owner == client]
        after = {sku for time, sku in own if cutoff <= time < cutoff + timedelta(days=14)}
        assert labels == (sorted({sku % 2 for sku in after} | {2 for sku in after if sku == 0}) if after else None)
        assert is_active == any(time < cutoff for time, _ in own)
        n_own = sum(time < cutoff for time, _ in own)
        counted = np.expm1(numbers[:, COUNTERS.index("product_buy/all/events")])
        assert round(counted[0]) == n_own
        assert counted[1:].max() < n_own  # three in ten events are masked, twice
    views = np.stack([numbers for _, _, numbers in found.values()])
    assert not np.array_equal(views[:, 1], views[:, 2], equal_nan=True)
