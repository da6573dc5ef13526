"""The definitions of counters: each column against plain Python, how many there are, the page that is made of them."""

from dataclasses import astuple
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from counted_by_hand import Event, count_by_hand
from numpy.typing import NDArray

from conf.load import load_config
from jobs.blocks import counters
from jobs.blocks.counter_table import GROUPS, describe_counters, list_counters
from jobs.blocks.counters import count_clients
from jobs.transforms import client_log
from jobs.transforms.client_log import LOG_DDL, build_log, keep_last_events

CUTOFF = datetime(2022, 9, 1)
BEHAVIOURS = load_config("report").behaviours
COUNTERS = list(list_counters(BEHAVIOURS))
ARROW = {"bigint": pa.int64(), "int": pa.int32(), "double": pa.float64(), "timestamp_ntz": pa.timestamp("us")}
SCHEMA = pa.schema([(name, ARROW[kind]) for name, kind in (part.split() for part in LOG_DDL.split(", "))])


def random_events() -> list[Event]:
    """Clients of very different sizes; whole days, equal times, sessions, months, products without a price or name."""
    rng = np.random.default_rng(1)
    shares = np.arange(1, 13) ** 2
    clients = rng.choice(12, 600, p=shares / sum(shares))
    events = []
    for client in clients.tolist():
        behaviour = str(rng.choice(list(BEHAVIOURS)[: 2 + client % 4]))
        seconds = int(rng.choice([1, 60, 7 * 86_400, 14 * 86_400, rng.integers(1, 100 * 86_400)]))
        seconds += int(rng.choice([0, 0, 25, 31])) * 60  # a session goes on, or another begins
        item, of_sku = int(rng.integers(30)), BEHAVIOURS[behaviour].item == "sku"
        category = item % 5 if of_sku and item % 7 else None
        price = float(item * 37 % 100) if of_sku and item % 3 else None
        cluster = item % 6 if of_sku and item % 4 else None
        has_category = category is not None
        popularity = None if behaviour == "search_query" else float(item + 1)
        known = (popularity, float(category * 9) if has_category else None, 50.0 + item % 5 if has_category else None)
        time = CUTOFF - timedelta(seconds=seconds)
        events.append(Event(client, time, behaviour, item if of_sku else 100 + item, category, price, cluster, *known))
    return events


def table_of(events: list[Event]) -> pa.Table:
    names = list(BEHAVIOURS)
    rows = [astuple(event) for event in events]
    columns = [list(column) for column in zip(*rows, strict=True)]
    columns[2] = [names.index(name) for name in columns[2]]
    return pa.table([pa.array(own, kind) for own, kind in zip(columns, SCHEMA.types, strict=True)], schema=SCHEMA)


def log_of(rows: pa.Table) -> client_log.ClientLog:
    return build_log(rows, list(BEHAVIOURS), int(np.datetime64(CUTOFF, "us").astype(np.int64)))


EVENTS = random_events()


@pytest.mark.parametrize("title", GROUPS)
def test_every_counter_equals_plain_python(title: str) -> None:
    log = log_of(table_of(EVENTS))
    own = {client: [event for event in EVENTS if event.client == client] for client in log.client_ids.tolist()}
    of_group = [counter for counter in COUNTERS if counter.family in GROUPS[title][0]]
    n_known = 0
    for counter in of_group:
        expected = [count_by_hand(counter, events, CUTOFF) for events in own.values()]
        np.testing.assert_allclose(counter.compute(log), expected, rtol=1e-9, atol=1e-12, err_msg=counter.name)
        n_known += np.isfinite(expected).sum()
    assert n_known > 0.5 * len(own) * len(of_group)


def test_one_visit_is_enough() -> None:
    events = [Event(7, CUTOFF - timedelta(hours=3), "page_visit", 100)]
    log = log_of(table_of(events))
    for counter in COUNTERS:
        expected = [count_by_hand(counter, events, CUTOFF)]
        np.testing.assert_allclose(counter.compute(log), expected, rtol=1e-9, err_msg=counter.name)


def test_there_are_the_346_of_the_fourth_place_and_each_name_once() -> None:
    n_columns = {title: sum(each.family in families for each in COUNTERS) for title, (families, _) in GROUPS.items()}
    assert list(n_columns.values())[:2] == [205, 141]
    assert len({counter.name for counter in COUNTERS}) == len(COUNTERS) == 465


def test_no_order_of_the_rows_changes_a_number() -> None:
    rows = table_of(EVENTS)
    shuffled = rows.take(pa.array(np.random.default_rng(5).permutation(len(EVENTS))))
    for counter in COUNTERS:
        found, expected = counter.compute(log_of(shuffled)), counter.compute(log_of(rows))
        assert np.array_equal(found, expected, equal_nan=True), counter.name


def test_a_client_with_too_many_events_keeps_its_last_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = table_of(EVENTS)
    assert keep_last_events(rows) is rows
    monkeypatch.setattr(client_log, "MAX_EVENTS", 20)
    shrunk = pa.concat_tables([keep_last_events(rows.slice(start, 200)) for start in (0, 200, 400)])
    kept = keep_last_events(shrunk)
    assert log_of(kept).count().max() == 20
    finish = count_clients(COUNTERS, list(BEHAVIOURS), CUTOFF)
    assert finish(rows).equals(finish(kept))
    assert finish(rows).equals(finish(shrunk))
    latest = max(event.time for event in EVENTS if event.client == 11)
    assert max(kept.filter(pa.compute.equal(kept["client_id"], 11))["timestamp"].to_pylist()) == latest


def test_how_many_clients_are_counted_together_changes_no_number(monkeypatch: pytest.MonkeyPatch) -> None:
    finish = count_clients(COUNTERS, list(BEHAVIOURS), CUTOFF, mask_share=0.3, mask_seeds=[4])

    def numbers() -> tuple[list[int], NDArray[np.float32]]:
        counted = finish(table_of(EVENTS))
        return counted["client_id"].to_pylist(), np.frombuffer(b"".join(counted["numbers"].to_pylist()), np.float32)

    whole = numbers()
    monkeypatch.setattr(counters, "EVENTS_AT_ONCE", 50)
    assert numbers()[0] == whole[0] == sorted({event.client for event in EVENTS})
    np.testing.assert_array_equal(numbers()[1], whole[1])
    assert len(finish(table_of(EVENTS)[:0])) == 0


def test_events_exactly_half_an_hour_apart_are_of_one_session_at_every_distance_from_the_cutoff() -> None:
    start = CUTOFF - timedelta(days=9)
    pairs = [(n, start + timedelta(seconds=n * 97 + gap)) for n in range(2000) for gap in (0, 30 * 60)]
    n_sessions = next(each for each in COUNTERS if each.name == "all/all/sessions")
    log = log_of(table_of([Event(client, time, "page_visit", 100) for client, time in pairs]))
    np.testing.assert_array_equal(n_sessions.compute(log), np.log1p(1))


def test_the_page_is_what_the_definitions_say() -> None:
    page = Path(__file__).parents[3] / "docs" / "counters.md"
    assert page.read_text() == describe_counters(), "run python -m jobs.blocks.counter_table > docs/counters.md"


def test_a_masked_log_counts_as_one_of_the_events_that_are_left() -> None:
    whole = log_of(table_of(EVENTS))
    log = whole.masked(0.3, seed=7)
    assert 0.6 < len(log.client) / len(EVENTS) < 0.8
    assert not np.array_equal(log.time, whole.masked(0.3, seed=8).time)
    left = {
        "client_id": log.client_ids[log.client],
        "timestamp": log.time,
        "behaviour": log.kind,
        **{name: [None if n < 0 else pairs.value[n] for n in pairs.number.tolist()]
           for name, pairs in (("item", log.items), ("category", log.categories))},
        "cluster": [None if n < 0 else n for n in log.cluster.tolist()],
        **{name: [None if np.isnan(n) else n for n in getattr(log, name).tolist()]
           for name in ("price", "popularity", "category_popularity", "category_price")},
    }  # fmt: skip
    anew = log_of(pa.table([pa.array(left[name], kind) for name, kind in zip(SCHEMA.names, SCHEMA.types, strict=True)],
                           schema=SCHEMA))  # fmt: skip
    has_any = np.isin(log.client_ids, anew.client_ids)
    for counter in COUNTERS:
        np.testing.assert_array_equal(counter.compute(log)[has_any], counter.compute(anew), err_msg=counter.name)
    # what is masked of a client does not depend on the others
    client = int(log.client_ids[-1])
    alone = log_of(table_of([event for event in EVENTS if event.client == client])).masked(0.3, seed=7)
    assert alone.time.tolist() == log.time[log.client == len(log.client_ids) - 1].tolist()


def test_a_client_whose_events_are_all_masked_has_counters_of_nothing() -> None:
    log = log_of(table_of(EVENTS)).masked(1.0, seed=7)
    assert len(log.client) == 0
    for counter in COUNTERS:
        numbers = counter.compute(log)
        assert numbers.shape == (log.n_clients,), counter.name
        assert (np.isnan(numbers) | (numbers == 0)).all(), counter.name
