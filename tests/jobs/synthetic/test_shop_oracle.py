from dataclasses import replace

import numpy as np
import pytest

from conf.synthetic import ShopSettings
from jobs.synthetic.blocks import SECONDS_PER_DAY
from jobs.synthetic.shop import oracle
from jobs.synthetic.shop.catalogue import Catalogue, build_catalogue
from jobs.synthetic.shop.clients import Days
from jobs.synthetic.shop.oracle import describe_state
from jobs.synthetic.shop.simulation import Simulation, simulate_block

SETTINGS = ShopSettings(n_clients=500, clients_per_block=500)
CUTOFF = 92


@pytest.fixture(scope="module")
def catalogue() -> Catalogue:
    return build_catalogue(SETTINGS)


@pytest.fixture(scope="module")
def shop(catalogue: Catalogue) -> Simulation:
    return simulate_block(0, catalogue, SETTINGS)


def forget_future(shop: Simulation) -> Simulation:
    """The same clients with nothing at or after the cutoff."""
    is_before = shop.sessions.second < CUTOFF * SECONDS_PER_DAY
    position = np.cumsum(is_before) - 1
    sessions = replace(shop.sessions, **{name: values[is_before] for name, values in vars(shop.sessions).items()})
    session, second, product = (values[shop.buys[1] < CUTOFF * SECONDS_PER_DAY] for values in shop.buys)
    days = Days(shop.days.n_sessions[:, :CUTOFF], shop.days.chains[:CUTOFF])
    return Simulation(shop.clients, days, sessions, (position[session], second, product), {})


def test_nothing_of_the_target_windows_is_in_the_state(shop: Simulation, catalogue: Catalogue):
    known = describe_state(shop, catalogue, SETTINGS, 0, CUTOFF)
    without = describe_state(forget_future(shop), catalogue, SETTINGS, 0, CUTOFF)
    np.testing.assert_array_equal(known, without)
    assert not np.array_equal(known, describe_state(shop, catalogue, SETTINGS, 0, CUTOFF + 1))


def test_who_has_not_come_yet_is_all_zeros_and_the_others_are_not(shop: Simulation, catalogue: Catalogue):
    state = describe_state(shop, catalogue, SETTINGS, 0, CUTOFF)
    is_to_come = shop.clients.join_day >= CUTOFF
    assert 0 < is_to_come.sum() < len(is_to_come)
    np.testing.assert_array_equal((state != 0).any(axis=1), ~is_to_come)


def test_the_state_fits_an_entry():
    few = replace(SETTINGS, n_clients=50)
    many_categories = replace(few, n_categories=300, n_products=900, queries_per_category=2)
    for settings in (few, many_categories, replace(few, n_categories=3, n_products=900, queries_per_category=300)):
        catalogue = build_catalogue(settings)
        state = describe_state(simulate_block(0, catalogue, settings), catalogue, settings, 0, CUTOFF)
        assert state.shape[1] <= 2048
        assert np.isfinite(state.astype(np.float16)).all()


def test_the_state_tells_who_buys_better_than_recency(shop: Simulation, catalogue: Catalogue):
    state = describe_state(shop, catalogue, SETTINGS, 0, CUTOFF)
    session, second, _ = shop.buys
    client, is_before = shop.sessions.client[session], second < CUTOFF * SECONDS_PER_DAY
    bought_last = np.full(SETTINGS.n_clients, -np.inf)
    np.maximum.at(bought_last, client[is_before], second[is_before])
    buys = np.isin(np.arange(SETTINGS.n_clients), client[~is_before])
    asked = np.isfinite(bought_last)
    expected_adds = state[:, 19]
    assert _auroc(buys[asked], expected_adds[asked]) > 0.03 + _auroc(buys[asked], bought_last[asked])


def _auroc(labels: np.ndarray, scores: np.ndarray) -> float:
    return float(
        (scores[labels][:, None] > scores[~labels]).mean() + 0.5 * (scores[labels][:, None] == scores[~labels]).mean()
    )


def test_a_thread_leads_to_what_is_sold_and_a_product_is_used_up_once(shop: Simulation, catalogue: Catalogue):
    _, of_thread = oracle._threads(shop, CUTOFF, catalogue)
    assert len(of_thread)
    assert (catalogue.launch_day[of_thread] < CUTOFF).all()
    client, product, _ = oracle._used_up(shop, CUTOFF, catalogue)
    assert len(client)
    assert len({*zip(client.tolist(), product.tolist(), strict=True)}) == len(client)


def test_a_block_in_which_nobody_has_bought_yet_has_a_state(shop: Simulation, catalogue: Catalogue):
    nothing = replace(shop, buys=tuple(values[:0] for values in shop.buys))
    assert np.isfinite(describe_state(nothing, catalogue, SETTINGS, 0, CUTOFF)).all()
