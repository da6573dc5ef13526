"""Who visits the shop: lasting traits, and what changes from day to day."""

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from conf.synthetic import ShopSettings
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


@dataclass(frozen=True)
class Days:
    """What N clients are up to on each of D days.

    Attributes
    ----------
    n_sessions : int64 [N, D]
    interest : int64 [N, D], category position
    has_intent : bool [N, D], in a phase of many sessions
    """

    n_sessions: np.ndarray
    interest: np.ndarray
    has_intent: np.ndarray


def draw_clients(rng: Generator, indices: np.ndarray, catalogue: Catalogue) -> Clients:
    """The clients of the given indices."""
    n_clients = len(indices)
    homes = catalogue.draw_categories(rng, (n_clients, N_HOMES))
    homes[:, -1] = catalogue.next_category[homes[:, 0]]
    return Clients(
        client_id=spread_ids(indices),
        homes=homes,
        price_level=rng.random(n_clients),
        readiness=rng.gamma(1.2, 1 / 1.2, n_clients),
    )


def spread_ids(indices: np.ndarray) -> np.ndarray:
    """Ids below 2**32 that differ where the indices do and keep no order (an odd factor is invertible)."""
    return (indices.astype(np.uint64) * np.uint64(2_654_435_761) % np.uint64(2**32)).astype(np.int64)


def simulate_days(rng: Generator, clients: Clients, catalogue: Catalogue, settings: ShopSettings) -> Days:
    """The shop's days for a block of clients; the state of a day follows from the day before alone."""
    shape = len(clients.client_id), settings.n_days
    has_intent, interest = np.empty(shape, dtype=bool), np.empty(shape, dtype=np.int64)
    intent_now = rng.random(shape[0]) < _INTENT_BEGINS / (_INTENT_BEGINS + _INTENT_ENDS)
    interest_now = clients.homes[:, 0]
    for day in range(settings.n_days):
        has_intent[:, day], interest[:, day] = intent_now, interest_now
        flips = rng.random(shape[0]) < np.where(intent_now, _INTENT_ENDS, _INTENT_BEGINS)
        intent_now = intent_now ^ flips
        interest_now = _drift(rng, interest_now, clients, catalogue)
    rate = settings.sessions_per_day * np.exp(settings.sessions_spread * rng.normal(size=(shape[0], 1)))
    rate = rate * np.where(has_intent, _RATE_IN_INTENT, _RATE_AT_REST) * _is_alive(rng, shape) * _day_factor(settings)
    return Days(rng.poisson(rate), interest, has_intent)


def _drift(rng: Generator, interest: np.ndarray, clients: Clients, catalogue: Catalogue) -> np.ndarray:
    n_clients = len(interest)
    home = clients.homes[np.arange(n_clients), rng.integers(0, N_HOMES, n_clients)]
    changed = np.where(rng.random(n_clients) < _ONWARD, catalogue.next_category[interest], home)
    return np.where(rng.random(n_clients) < _DRIFT, changed, interest)


def _is_alive(rng: Generator, shape: tuple[int, int]) -> np.ndarray:
    """Whether the client has joined and not lapsed: bool [N, days]."""
    n_clients, n_days = shape
    joined = rng.uniform(-_DAYS_BEFORE, n_days, (n_clients, 1)).clip(0)
    lapsed = joined + rng.exponential(_MEAN_LIFE_DAYS, (n_clients, 1))
    days = np.arange(n_days)
    return (days >= np.floor(joined)) & (days < lapsed)


def _day_factor(settings: ShopSettings) -> np.ndarray:
    return _WEEKDAY[(settings.first_day.weekday() + np.arange(settings.n_days)) % 7]
