"""Who visits the shop: lasting traits, and what changes from day to day."""

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from conf.synthetic import ShopSettings
from jobs.synthetic.blocks import spread_ids
from jobs.synthetic.shop.catalogue import Catalogue

N_HOMES = 3
_DAYS_BEFORE = 240  # clients who joined before the first day did so up to this many days ago, or longer
_MEAN_LIFE_DAYS = 300.0
_DRIFT = 0.05  # chance per day that the interest changes
_ONWARD = 0.35  # share of changes that lead to the next category instead of a home
_INTENT_BEGINS, _INTENT_ENDS = 0.03, 0.05  # chances per day
_RATE_IN_INTENT, _RATE_AT_REST = 2.5, 0.2  # times the client's own rate of sessions
_WEEKDAY = np.array([1.0, 0.95, 0.95, 1.0, 1.05, 1.15, 1.2])  # Monday first


@dataclass(frozen=True)
class Clients:
    """A block of N clients.

    Attributes
    ----------
    client_id : int64 [N]
    homes : int64 [N, N_HOMES], category positions
    price_level : float64 [N], 0 to 1
    readiness : float64 [N], mean about 1: multiplies the chance to put into the cart
    """

    client_id: np.ndarray
    homes: np.ndarray
    price_level: np.ndarray
    readiness: np.ndarray


def draw_clients(rng: Generator, indices: np.ndarray, catalogue: Catalogue) -> Clients:
    """The clients of the given indices."""
    n_clients = len(indices)
    homes = catalogue.draw_categories(rng, (n_clients, N_HOMES))
    homes[:, -1] = catalogue.next_category[homes[:, 0]]  # an interest that moves on may come home
    return Clients(
        client_id=spread_ids(indices),
        homes=homes,
        price_level=rng.random(n_clients),
        readiness=rng.gamma(1.2, 1 / 1.2, n_clients),
    )


def simulate_days(
    rng: Generator, clients: Clients, catalogue: Catalogue, settings: ShopSettings
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What a block of clients does on each of D days; the state of a day follows from the day before alone.

    Returns
    -------
    sessions that begin, int64 [N, D]; category of interest, int64 [N, D]; whether it is a phase of intent, bool [N, D]
    """
    shape = len(clients.client_id), settings.n_days
    has_intent, interest = np.empty(shape, dtype=bool), np.empty(shape, dtype=np.int64)
    # the first day is drawn from the chain's stationary distribution: no day differs from others by its number
    intent_now = rng.random(shape[0]) < _INTENT_BEGINS / (_INTENT_BEGINS + _INTENT_ENDS)
    interest_now = clients.homes[:, 0]
    for day in range(settings.n_days):
        has_intent[:, day], interest[:, day] = intent_now, interest_now
        flips = rng.random(shape[0]) < np.where(intent_now, _INTENT_ENDS, _INTENT_BEGINS)
        intent_now = intent_now ^ flips
        home = clients.homes[np.arange(shape[0]), rng.integers(0, N_HOMES, shape[0])]
        changed = np.where(rng.random(shape[0]) < _ONWARD, catalogue.next_category[interest_now], home)
        interest_now = np.where(rng.random(shape[0]) < _DRIFT, changed, interest_now)
    rate = settings.sessions_per_day * np.exp(settings.sessions_spread * rng.normal(size=(shape[0], 1)))
    joined = rng.uniform(-_DAYS_BEFORE, settings.n_days, (shape[0], 1)).clip(0)
    lapsed = joined + rng.exponential(_MEAN_LIFE_DAYS, (shape[0], 1))
    days = np.arange(settings.n_days)
    is_alive = (days >= np.floor(joined)) & (days < lapsed)
    weekday = (settings.first_day.weekday() + days) % 7
    rate = rate * np.where(has_intent, _RATE_IN_INTENT, _RATE_AT_REST) * is_alive * _WEEKDAY[weekday]
    return rng.poisson(rate), interest, has_intent
