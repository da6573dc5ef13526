from dataclasses import replace

import numpy as np
import pytest

from conf.load import checked
from conf.synthetic import BenchmarkLogSettings
from jobs.synthetic.benchmark_log.events import Events, draw_block, plan_log
from jobs.synthetic.benchmark_log.marginals import BEHAVIOURS, scale_sizes
from schemas.behaviours import PAGE_VISIT, PRODUCT_BUY
from schemas.errors import ConfigError

SETTINGS = BenchmarkLogSettings(n_events=100_000, clients_per_block=2_500)
LOG = plan_log(SETTINGS)
_ID_AND_TIME = ("client_id", "second")


@pytest.fixture(scope="module")
def events() -> dict[str, list[Events]]:
    return {name: [draw_block(block, name, LOG) for block in range(LOG.n_blocks)] for name in BEHAVIOURS}


def test_every_event_of_a_behaviour_is_drawn_once(events: dict[str, list[Events]]):
    for name, n_rows in LOG.sizes.n_rows.items():
        numbers = np.concatenate([block.number for block in events[name]])
        assert np.array_equal(np.sort(numbers), np.arange(n_rows))


def test_behaviours_together_give_each_client_its_count(events: dict[str, list[Events]]):
    ids = np.concatenate([block.client_id for blocks in events.values() for block in blocks])
    _, counts = np.unique(ids, return_counts=True)
    expected = LOG.clients.count_of(np.arange(LOG.sizes.n_clients))
    assert np.array_equal(np.sort(counts), np.sort(expected))


def test_blocks_share_no_client_and_weigh_about_the_same(events: dict[str, list[Events]]):
    visits = events[PAGE_VISIT]
    ids = [set(block.client_id.tolist()) for block in visits]
    assert len(ids) == 5  # 11,184 clients in blocks of 2,500
    assert len(set.union(*ids)) == sum(map(len, ids))
    weights = np.array([len(block.number) for block in visits[:-1]])
    assert weights.max() < 1.2 * weights.min()


def test_a_block_is_the_same_whichever_was_drawn_before(events: dict[str, list[Events]]):
    for name in BEHAVIOURS:
        again = draw_block(1, name, LOG)
        for column, values in vars(events[name][1]).items():
            assert np.array_equal(getattr(again, column), values)


def test_another_seed_is_another_log(events: dict[str, list[Events]]):
    other = draw_block(0, PAGE_VISIT, plan_log(replace(SETTINGS, seed=8)))
    assert not np.array_equal(other.client_id[:100], events[PAGE_VISIT][0].client_id[:100])


def test_rows_of_a_block_are_in_order_neither_of_client_nor_of_time(events: dict[str, list[Events]]):
    for column in _ID_AND_TIME:
        values = getattr(events[PAGE_VISIT][0], column)
        assert np.mean(values[1:] > values[:-1]) == pytest.approx(0.5, abs=0.02)


def test_a_heavy_client_comes_in_bursts_all_over_the_days(events: dict[str, list[Events]]):
    ids, seconds = (np.concatenate([getattr(block, name) for block in events[PAGE_VISIT]]) for name in _ID_AND_TIME)
    values, counts = np.unique(ids, return_counts=True)
    mine = np.sort(seconds[ids == values[counts.argmax()]])
    assert mine[-1] < SETTINGS.n_days * 86_400
    assert len(np.unique(mine // 86_400)) > 60
    gaps = np.diff(mine)
    assert np.mean(gaps < 600) > 0.5
    assert (gaps == 0).any()


def test_ids_do_not_tell_how_active_a_client_is(events: dict[str, list[Events]]):
    ids = np.concatenate([block.client_id for block in events[PAGE_VISIT]])
    values, counts = np.unique(ids, return_counts=True)
    assert abs(np.corrcoef(values, np.log(counts))[0, 1]) < 0.05


def test_behaviours_of_a_client_share_its_sessions(events: dict[str, list[Events]]):
    visits, buys = events[PAGE_VISIT][0], events[PRODUCT_BUY][0]
    seen = {(client, second // 3_600) for client, second in zip(visits.client_id, visits.second, strict=True)}
    near = [(client, second // 3_600) in seen for client, second in zip(buys.client_id, buys.second, strict=True)]
    assert np.mean(near) > 0.7


@pytest.mark.parametrize("n_events", [10_000, 10_001, 123_456, 170_000_000])
def test_rows_sum_to_the_events_asked_for(n_events: int):
    assert sum(scale_sizes(n_events).n_rows.values()) == n_events


@pytest.mark.parametrize("values", [{"n_events": 9_999}, {"n_days": 41}, {"relevant_share": 1.5}, {"seed": -1}])
def test_settings_out_of_range_are_refused_by_name(values: dict):
    with pytest.raises(ConfigError, match=next(iter(values))):
        checked(BenchmarkLogSettings, values, "the benchmark log")
