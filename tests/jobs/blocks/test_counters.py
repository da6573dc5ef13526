"""The block ``counters`` from events: against plain Python, what it must not see, and what is left out."""

import logging
import re
from collections import Counter as Counts
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from datetime import datetime, timedelta

import numpy as np
import pytest
from counted_by_hand import Event, count_by_hand
from pyspark.sql import DataFrame, SparkSession

from conf.load import load_config
from jobs.blocks.counter_aggregates import cluster_entropy, weight_of_cluster
from jobs.blocks.counter_table import list_counters
from jobs.blocks.counters import Shop, collect_counters
from schemas.errors import InputError
from schemas.tables import CLIENTS, PRODUCT_PROPERTIES, events_table

CUTOFF = datetime(2022, 9, 1)
BEHAVIOURS = load_config("report").behaviours
CLIENT_IDS = [50, 10, 40, 20, 30]
SKUS = range(1, 13)
PRODUCTS = [
    (sku, sku % 4 if sku != 5 else None, sku * 7 if sku != 6 else None, f"[{' '.join([str(sku % 3 * 100)] * 16)}]")
    for sku in SKUS
]
Rows = dict[int, dict[str, float]]


def random_events(seed: int = 3, n_events: int = 300) -> list[Event]:
    rng = np.random.default_rng(seed)
    events = []
    for _ in range(n_events):
        behaviour = str(rng.choice(list(BEHAVIOURS)))
        time = CUTOFF - timedelta(seconds=int(rng.integers(1, 80 * 86_400)))
        events.append(Event(int(rng.choice([50, 50, 10, 20, 30, 99])), time, behaviour, int(rng.integers(1, 13))))
    return events


def with_attributes(events: Sequence[Event]) -> list[Event]:
    """What one event tells of its product, and the popularity of its item among all clients' events."""
    of_sku = {sku: (category, price) for sku, category, price, _ in PRODUCTS}
    skus = Counts(event.item for event in events if BEHAVIOURS[event.behaviour].item == "sku")
    urls = Counts(event.item for event in events if event.behaviour == "page_visit")
    categories, prices = Counts(), {}
    for sku, n in skus.items():
        category, price = of_sku[sku]
        categories[category] += n
        prices.setdefault(category, []).extend([price] if price is not None else [])
    found = []
    for event in events:
        if BEHAVIOURS[event.behaviour].item == "sku":
            category, price = of_sku[event.item]
            known = {"category": category, "price": price, "popularity": skus[event.item]}
            if category is not None:
                mean = sum(prices[category]) / len(prices[category])
                known |= {"category_popularity": categories[category], "category_price": mean}
            event = replace(event, **known)
        elif event.behaviour == "page_visit":
            event = replace(event, popularity=urls[event.item])
        found.append(event)
    return found


def frames(spark: SparkSession, events: Sequence[Event], n_parts: int = 1) -> dict[str, DataFrame]:
    made = {}
    for name, of in BEHAVIOURS.items():
        own = [event for event in events if event.behaviour == name]
        is_text = of.item == "query"
        rows = [(e.client, e.time, f"[{' '.join([str(e.item)] * 16)}]" if is_text else e.item) for e in own]
        made[name] = spark.createDataFrame(rows, events_table(name, of.item, of.kind).ddl).repartition(n_parts)
    return made


def count(spark: SparkSession, events: dict[str, DataFrame], products: list[tuple] = PRODUCTS) -> Rows:
    clients = spark.createDataFrame([(n, client, True) for n, client in enumerate(CLIENT_IDS)], CLIENTS.ddl)
    with ExitStack() as cached:
        known = spark.createDataFrame(products, PRODUCT_PROPERTIES.ddl)
        block, vectors = collect_counters(Shop(events, known, clients, BEHAVIOURS), CUTOFF, cached)
        rows = {row["client_id"]: row["vector"] for row in vectors.collect()}
    assert all(np.isfinite(row).all() for row in rows.values())
    return {client: dict(zip(block.columns, row, strict=True)) for client, row in rows.items()}


def test_each_column_is_plain_pythons_standardised_and_nothing_later_is_seen(spark: SparkSession) -> None:
    events = random_events()
    found = count(spark, frames(spark, events))

    assert found.keys() == {50, 10, 20, 30}  # 40 has no event, 99 is not asked for
    known = with_attributes(events)
    own = {client: [event for event in known if event.client == client] for client in found}
    n_columns = 0
    for counter in list_counters(BEHAVIOURS):
        if counter.family.aggregate in (weight_of_cluster, cluster_entropy):
            continue
        numbers = np.array([count_by_hand(counter, events, CUTOFF) for events in own.values()])
        if len(set(numbers[~np.isnan(numbers)].astype(np.float32))) < 2:
            assert counter.name not in found[50], counter.name
            continue
        standard = np.nan_to_num((numbers - np.nanmean(numbers)) / np.nanstd(numbers))
        np.testing.assert_allclose(
            [row[counter.name] for row in found.values()], standard, rtol=1e-3, atol=1e-3, err_msg=counter.name
        )
        n_columns += 1
    assert n_columns > 300
    clusters = {f"product_buy/cluster_{number}" for number in range(32)} & found[50].keys()
    assert len(clusters) == 3  # three different names

    later = [replace(event, time=CUTOFF + timedelta(days=n), item=13) for n, event in enumerate(events[:40])]
    skus = [*PRODUCTS, (13, 1, 99, f"[{' '.join(['255'] * 16)}]"), (14, 1, 99, f"[{' '.join(['50'] * 16)}]")]
    assert count(spark, frames(spark, [*later, *events[::-1]], n_parts=3), skus) == found


def test_what_cannot_be_counted_is_left_out_with_a_line(spark: SparkSession, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    events = frames(spark, [event for event in random_events() if event.behaviour != "remove_from_cart"])
    found = count(spark, events, [(sku, sku % 4, None, None) for sku in SKUS])

    left_out = re.compile(r"remove_from_cart|price|cluster")
    assert [name for name in found[50] if left_out.search(name)] == []
    assert "product_buy/all/events" in found[50]
    for reason in (
        r"\d+ columns are left out: no product with an event has a name: product_buy/cluster_0, ",
        r"\d+ columns are left out: no product with an event has a price: product_buy/7d/mean_price, ",
        r"have no event of remove_from_cart before the cutoff: remove_from_cart/7d/events, ",
    ):
        assert re.search(reason, caplog.text)


def test_a_cutoff_before_the_first_event_is_refused(spark: SparkSession) -> None:
    later = [replace(event, time=CUTOFF) for event in random_events(n_events=20)]
    with pytest.raises(InputError, match=r"expected events of the relevant clients before 2022-09-01 .* found none"):
        count(spark, frames(spark, later))
