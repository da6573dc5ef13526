from dataclasses import replace

import numpy as np
import pytest

from conf.synthetic import ShopSettings
from jobs.synthetic.blocks import SECONDS_PER_DAY
from jobs.synthetic.shop.carts import buy_again
from jobs.synthetic.shop.catalogue import Catalogue, build_catalogue
from jobs.synthetic.shop.sessions import Sessions
from jobs.synthetic.shop.simulation import Simulation, simulate_block
from schemas.behaviours import PRODUCT_BUY

SETTINGS = ShopSettings(n_clients=1500, clients_per_block=1500, sessions_per_day=0.3)
LAST = 91


@pytest.fixture(scope="module")
def catalogue() -> Catalogue:
    return build_catalogue(SETTINGS)


@pytest.fixture(scope="module")
def shop(catalogue: Catalogue) -> Simulation:
    return simulate_block(0, catalogue, SETTINGS)


def test_who_has_left_visits_no_more(shop: Simulation):
    is_here = np.stack([chain.is_here for chain in shop.days.chains], axis=1)
    has_left = np.stack([chain.has_left for chain in shop.days.chains], axis=1)
    assert shop.days.n_sessions[~is_here].sum() == 0
    assert not (is_here & has_left).any()
    assert 0.05 < has_left[:, LAST].mean() < 0.6


def test_who_is_late_by_its_own_rhythm_has_more_often_left(shop: Simulation):
    chain = shop.days.chains[LAST]
    waits = (chain.is_here | chain.has_left) & ~chain.has_intent
    late = chain.waited / shop.clients.rest_days
    shares = [chain.has_left[waits & (late >= low) & (late < low + 1)].mean() for low in (0, 1, 2)]
    assert shares[0] < 0.3 < shares[1] < 0.98 < shares[2]
    # the same days of waiting say less of a client with long rests than of one with short ones
    weeks = waits & (chain.waited > 20) & (chain.waited < 40)
    is_slow = shop.clients.rest_days > 25
    assert chain.has_left[weeks & is_slow].mean() < chain.has_left[weeks & ~is_slow].mean() - 0.2


def test_a_regular_clients_rests_vary_less(catalogue: Catalogue):
    spreads = []
    for regularity in (1.0, 8.0):
        settings = replace(SETTINGS, regularity=regularity, leave_chance=0.0, n_days=400, n_clients=200)
        simulation = simulate_block(0, catalogue, settings)
        intent = np.stack([chain.has_intent for chain in simulation.days.chains], axis=1)
        rests = [np.diff(np.flatnonzero(np.diff(own.astype(int)) == 1)) for own in intent]
        spreads.append(np.median([own.std() / own.mean() for own in rests if len(own) > 5]))
    assert spreads[1] < 0.6 * spreads[0]


def test_clients_keep_to_hours_of_their_own(shop: Simulation, catalogue: Catalogue):
    def distance(simulation: Simulation) -> float:
        hour = simulation.sessions.second % SECONDS_PER_DAY / 3600
        apart = np.abs(hour - simulation.clients.hour[simulation.sessions.client])
        return float(np.minimum(apart, 24 - apart).mean())

    assert distance(shop) < 0.8 * distance(simulate_block(0, catalogue, replace(SETTINGS, habit_share=0.0)))


def test_weekdays_are_a_clients_own(shop: Simulation):
    weekday = (SETTINGS.first_day.weekday() + np.arange(SETTINGS.n_days)) % 7
    counts = np.stack([shop.days.n_sessions[:, weekday == day].sum(axis=1) for day in range(7)], axis=1)
    busy = counts.sum(axis=1) > 30
    found = np.corrcoef(
        (counts / counts.sum(axis=1, keepdims=True).clip(1))[busy].ravel(), shop.clients.weekday[busy].ravel()
    )
    assert found[0, 1] > 0.5


def test_what_is_used_up_is_bought_again_after_its_cycle_by_who_is_loyal(shop: Simulation, catalogue: Catalogue):
    n_days = 100
    day = np.tile(np.arange(n_days), 2)
    nothing = np.zeros(2 * n_days, dtype=np.int64)
    sessions = Sessions(  # of two clients, one a day
        client=np.repeat([0, 1], n_days),
        second=day * SECONDS_PER_DAY,
        **dict.fromkeys(("following", "depth", "seed", "n_pages", "n_views"), nothing),
        has_intent=nothing > 0,
        pace=nothing + 20.0,
    )
    clients = replace(shop.clients.take(np.array([0, 1])), loyalty=np.array([1.0, 0.0]))
    lasting, used_up = 0, 1
    cycles = catalogue.cycle_days.copy()
    cycles[[lasting, used_up]] = 0.0, 12.0
    first = np.array([0, 0, n_days]), np.zeros(3, dtype=np.int64), np.array([lasting, used_up, used_up])

    rng = np.random.default_rng(0)
    views, adds, buys = buy_again(rng, first, sessions, clients, replace(catalogue, cycle_days=cycles))

    assert set(buys[2]) == {used_up}
    assert set(sessions.client[buys[0]]) == {0}
    gaps = np.diff(np.append(0, buys[1])) / SECONDS_PER_DAY
    assert 12 < gaps.mean() < 16  # the next session comes within a day
    assert (views[1] < adds[1]).all()
    assert (adds[1] < buys[1]).all()


def test_companions_are_bought_together(catalogue: Catalogue):
    def together(simulation: Simulation) -> float:
        session, _, product = simulation.buys
        baskets = set(zip(session.tolist(), product.tolist(), strict=True))
        companions = catalogue.companion[product].tolist()
        return float(np.mean([pair in baskets for pair in zip(session.tolist(), companions, strict=True)]))

    shares = [together(simulate_block(0, catalogue, replace(SETTINGS, co_purchase=share))) for share in (0.0, 0.3)]
    assert shares[1] > 2 * shares[0]


def test_clients_buy_near_their_price_level_and_of_their_style(shop: Simulation, catalogue: Catalogue):
    session, _, product = shop.buys
    client = shop.sessions.client[session]
    distance = np.abs(catalogue.price[product] / 100 - shop.clients.price_level[client])
    any_client = np.random.default_rng(0).permutation(client)
    assert distance.mean() < 0.7 * np.abs(catalogue.price[product] / 100 - shop.clients.price_level[any_client]).mean()
    is_own = catalogue.style[product] == shop.clients.style[client]
    assert is_own.mean() > 2 * (catalogue.style[product] == shop.clients.style[any_client]).mean()


def test_the_last_days_sell_what_had_not_been_sold_before(shop: Simulation):
    buys = shop.events[PRODUCT_BUY]
    late = buys.second >= (SETTINGS.n_days - 28) * SECONDS_PER_DAY
    is_new = ~np.isin(buys.item[late], buys.item[~late])
    assert 0.02 < is_new.mean() < 0.4
