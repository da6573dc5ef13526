import numpy as np
import pytest

from jobs.synthetic.benchmark_log.counts import CountTable, fit_rounding, fit_tail

FIVE_THINGS = CountTable(level=np.array([1, 2, 7]), at_least=np.array([4, 3, 1]))  # counts 7, 2, 2, 1


def test_ranks_have_falling_counts_and_none_after_the_last():
    assert FIVE_THINGS.count_of(np.arange(5)).tolist() == [7, 2, 2, 1, 0]
    assert FIVE_THINGS.n_events == 12


def test_each_rank_owns_as_many_events_as_it_counts():
    assert FIVE_THINGS.owner_of(np.arange(12)).tolist() == [0] * 7 + [1, 1, 2, 2, 3]


@pytest.mark.parametrize("n_things", [200, 3_000, 100_000])
def test_a_table_by_rounding_meets_total_and_quantiles(n_things: int):
    table = fit_rounding(n_things, 9 * n_things, {1: 1.0, 2: 0.5, 18: 0.1, 400: 0.001})
    counts = table.count_of(np.arange(n_things))
    assert counts.sum() == table.n_events == 9 * n_things
    assert counts.min() == 1
    assert counts.max() <= 400
    assert np.quantile(counts, [0.5, 0.9], method="inverted_cdf").tolist() == [2, 18]


@pytest.mark.parametrize(("n_things", "n_events"), [(200, 270), (50_000, 66_500)])
def test_a_table_by_its_tail_meets_total_and_shares(n_things: int, n_events: int):
    table = fit_tail(n_things, n_events, {1: 0.4, 11: 0.02})
    counts = table.count_of(np.arange(n_things))
    assert counts.sum() == table.n_events == n_events
    assert (counts >= 1).sum() == 0.4 * n_things
    assert (counts >= 11).sum() == 0.02 * n_things


def test_counts_above_a_thousand_keep_the_total():
    table = fit_tail(1_000, 900_000, {1: 1.0, 5: 0.3})
    counts = table.count_of(np.arange(1_000))
    assert counts.max() > 10_000
    assert counts.sum() == 900_000
