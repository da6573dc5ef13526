"""The latent state of clients at a cutoff: what a profile that knew all would hold, and nothing that comes later.

A client's traits and state, what they make likely by the rules of the shop, drawn anew, and what it has bought. The
days, sessions and purchases that the shop has at or after the cutoff are not read. Who has not come yet is all zeros.
"""

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from conf.synthetic import ShopSettings
from jobs.synthetic.blocks import SECONDS_PER_DAY
from jobs.synthetic.shop.carts import chance_to_add
from jobs.synthetic.shop.catalogue import Catalogue
from jobs.synthetic.shop.clients import Chain, Clients, session_rate
from jobs.synthetic.shop.sessions import CONTINUES, draw_near_taste
from jobs.synthetic.shop.simulation import Simulation

_MOST_COLUMNS = 256  # of one kind; more categories or styles share columns
_FORECASTS, _FORECAST_WEEKS = 32, 4
_LOOKS = 64  # products drawn by a client's taste
_VIEWS_PER_SESSION = 2  # about
_MOST_PRODUCTS = 128  # with a column of their own: embeddings of all told the probe less
_PRICE_GROUPS = 10


def describe_state(
    simulation: Simulation, catalogue: Catalogue, settings: ShopSettings, block: int, cutoff_day: int
) -> NDArray[np.float32]:
    """The latent state of each client of a block at the midnight that begins a day: float32 [N, width].

    Parameters
    ----------
    simulation : of the block
    cutoff_day : 1 or more
    """
    rng = np.random.default_rng([settings.seed, 2, block])  # not the shop's own numbers, which know the future
    clients, chain = simulation.clients, simulation.days.chains[cutoff_day - 1]
    expected = _expected_sessions(rng, clients, chain, cutoff_day, catalogue, settings)
    parts = [
        *_life(clients, chain, expected),
        *_wishes(rng, simulation, chain, expected.sum(axis=1), cutoff_day, catalogue),
        *_history(simulation, cutoff_day),
    ]
    state = np.concatenate([part.reshape(len(part), -1) for part in parts], axis=1)
    has_come = chain.is_here | chain.has_left
    return np.where(has_come[:, None], state, 0.0).astype(np.float32)


def _expected_sessions(
    rng: Generator, clients: Clients, chain: Chain, cutoff_day: int, catalogue: Catalogue, settings: ShopSettings
) -> NDArray[np.float64]:
    """Mean sessions of each of the next weeks, [N, weeks], where the days from the cutoff on are drawn anew."""
    n_clients = len(clients.client_id)
    rows = np.repeat(np.arange(n_clients), _FORECASTS)
    ahead, others = chain.take(rows), clients.take(rows)
    expected = np.zeros((n_clients, _FORECAST_WEEKS))
    for day in range(7 * _FORECAST_WEEKS):
        ahead = ahead.next_day(rng, cutoff_day + day, others, catalogue, settings)
        rate = session_rate(ahead, cutoff_day + day, others, settings)
        expected[:, day // 7] += rate.reshape(n_clients, _FORECASTS).mean(axis=1)
    return expected


def _life(clients: Clients, chain: Chain, expected: NDArray[np.float64]) -> list[NDArray[np.floating]]:
    """Here or gone, in which phase, the rhythm, and how much of each week is to come."""
    here, rested = chain.is_here, chain.waited / clients.rest_days
    return [
        here,
        here & chain.has_intent,
        here * ~chain.has_intent * np.minimum(rested, 3.0),
        np.log(clients.sessions_per_day + 1e-3),
        np.log(clients.rest_days),
        5 * clients.leave_chance,
        np.log(expected + 0.02),
        clients.weekday - 1,
        np.sin(clients.hour * np.pi / 12),
        np.cos(clients.hour * np.pi / 12),
    ]


def _wishes(
    rng: Generator,
    simulation: Simulation,
    chain: Chain,
    n_sessions: NDArray[np.float64],
    cutoff_day: int,
    catalogue: Catalogue,
) -> list[NDArray[np.floating]]:
    """What a client likes, and how much it would put into the cart of each category, price group and popular product.

    Parameters
    ----------
    n_sessions : to come, float64 [N]
    """
    clients = simulation.clients
    n_clients, n_categories, n_products = len(clients.client_id), len(catalogue.category_id), len(catalogue.sku)
    looking = np.repeat(np.arange(n_clients), _LOOKS)
    # half of what it looks at is of the interest that it has now, which lasts for a while
    is_now = np.tile(np.arange(_LOOKS) % 2 == 0, n_clients)
    category = np.where(is_now, chain.interest[looking], clients.take(looking).draw_homes(rng))
    product = draw_near_taste(rng, category, np.full(len(looking), cutoff_day - 1), looking, clients, catalogue)
    n_views = _VIEWS_PER_SESSION * n_sessions[looking] / _LOOKS
    reader, of_thread = _threads(simulation, cutoff_day, catalogue)
    owner, of_used_up, chance_again = _used_up(simulation, cutoff_day, catalogue)
    comes = np.minimum(n_sessions, 1.0)
    rows, products = np.concatenate([looking, reader, owner]), np.concatenate([product, of_thread, of_used_up])
    adds = np.concatenate(
        [
            n_views * chance_to_add(product, looking, clients, catalogue),
            CONTINUES * comes[reader] * chance_to_add(of_thread, reader, clients, catalogue),
            chance_again * comes[owner],
        ]
    )
    is_sold = catalogue.launch_day < cutoff_day
    # what is not sold yet has weight 0: it comes last, and is cut off
    popular = np.argsort(-np.diff(catalogue.popularity) * is_sold, kind="stable")[: min(_MOST_PRODUCTS, is_sold.sum())]
    column = np.full(n_products, -1)
    column[popular] = np.arange(len(popular))
    has_column = column[products] >= 0
    of_kinds = [
        _spread(rows, catalogue.category[products], adds, n_clients, n_categories),
        _spread(rows, catalogue.price[products] * _PRICE_GROUPS // 100, adds, n_clients, _PRICE_GROUPS),
        _spread(rows[has_column], column[products[has_column]], adds[has_column], n_clients, len(popular)),
    ]
    return [
        np.log(np.bincount(rows, adds, n_clients) + 0.02),
        *(np.log1p(20 * of_kind) for of_kind in of_kinds),
        _spread(np.arange(n_clients), clients.style, 1.0, n_clients, int(catalogue.style.max()) + 1),
        2 * clients.price_level - 1,
        clients.pickiness / 3,
        clients.novelty,
        np.log(clients.readiness + 0.05),
        clients.loyalty,
    ]


def _threads(
    simulation: Simulation, cutoff_day: int, catalogue: Catalogue
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Client's row and product of the threads left off: the companion of what the last session began with.

    As a session does, a thread stays where the companion is not launched yet.
    """
    last = _last_sessions(simulation, cutoff_day)
    seen = np.flatnonzero(last >= 0)
    product = simulation.sessions.seed[last[seen]]
    companion = catalogue.companion[product]
    return seen, np.where(catalogue.launch_day[companion] < cutoff_day, companion, product)


def _used_up(
    simulation: Simulation, cutoff_day: int, catalogue: Catalogue
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Client's row and product of what was bought and is used up about the cutoff, and the chance to buy it again."""
    session, second, product = (values[simulation.buys[1] < cutoff_day * SECONDS_PER_DAY] for values in simulation.buys)
    client = simulation.sessions.client[session]
    # the last purchase of each product: one before it has been followed already
    order = np.lexsort((second, product, client))
    last = order[(np.diff(client[order], append=-1) != 0) | (np.diff(product[order], append=-1) != 0)]
    client, second, product = client[last], second[last], product[last]
    cycle = catalogue.cycle_days[product]
    age = cutoff_day - second / SECONDS_PER_DAY
    # due in the four weeks after the cutoff, or at most two weeks before it
    comes = (cycle > 0) & (age < cycle + 14) & (age + 28 > cycle)
    return client[comes], product[comes], simulation.clients.loyalty[client[comes]]


def _last_sessions(simulation: Simulation, cutoff_day: int) -> NDArray[np.int64]:
    """Position of each client's last session, int64 [N], -1 where there is none."""
    sessions = simulation.sessions
    before = np.flatnonzero(sessions.second < cutoff_day * SECONDS_PER_DAY)
    last = np.full(len(simulation.clients.client_id), -1)
    last[sessions.client[before]] = before  # sessions are in the order of time: the last one stays
    return last


def _history(simulation: Simulation, cutoff_day: int) -> list[NDArray[np.floating]]:
    """How recent, and how much."""
    sessions, n_clients = simulation.sessions, len(simulation.clients.client_id)
    last = _last_sessions(simulation, cutoff_day)
    seconds = np.append(sessions.second, 0)[last]  # who has none is as one who came on the first day
    recency = cutoff_day - seconds / SECONDS_PER_DAY
    session, second, _ = simulation.buys
    is_before = second < cutoff_day * SECONDS_PER_DAY
    client = sessions.client[session[is_before]]
    bought = np.full(n_clients, float(cutoff_day))
    np.minimum.at(bought, client, cutoff_day - second[is_before] / SECONDS_PER_DAY)
    n_before = np.bincount(sessions.client[sessions.second < cutoff_day * SECONDS_PER_DAY], minlength=n_clients)
    return [
        np.log1p(recency),
        np.minimum(recency / simulation.clients.rest_days, 5.0),
        np.log1p(bought),
        np.log1p(n_before),
        np.log1p(np.bincount(client, minlength=n_clients)),
    ]


def _spread(
    rows: np.ndarray, columns: np.ndarray, weight: np.ndarray | float, n_rows: int, n_columns: int
) -> NDArray[np.float64]:
    """Weights summed by row and column: [n_rows, n_columns], or fewer columns that several share."""
    n_columns = min(n_columns, _MOST_COLUMNS)
    position = rows * n_columns + columns % n_columns
    weights = np.broadcast_to(np.asarray(weight, dtype=np.float64), position.shape)
    return np.bincount(position, weights, n_rows * n_columns).astype(np.float64).reshape(n_rows, n_columns)
