"""Who visits the shop: lasting traits, and what changes from day to day.

A client lives in a chain of days: phases of intent, rests of its own length between them, and a hidden end. ``Chain``
is its state; the next day follows from it alone, so that the same rules go on from any day (``oracle``).
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from conf.synthetic import ShopSettings
from jobs.synthetic.blocks import spread_ids
from jobs.synthetic.shop.catalogue import Catalogue

N_HOMES = 4
_DAYS_BEFORE = 150  # the chain begins so long before the first day: who visits then came at some time before
_DRIFT = 0.05  # chance per day of rest that the interest changes
_ONWARD = 0.3  # share of changes that lead to the next category instead of a home
_INTENT_DAYS = 3.0  # mean length of a phase of intent
_REST_SHARE = 0.25  # of a client's sessions
_REST_SPREAD = 0.6  # standard deviation of the logarithm of clients' mean rests
_WEEKDAY = np.array([1.0, 0.95, 0.95, 1.0, 1.05, 1.15, 1.2])  # Monday first


@dataclass(frozen=True)
class Clients:
    """A block of N clients.

    Attributes
    ----------
    client_id : int64 [N]
    homes : int64 [N, N_HOMES], category positions
    taste : float64 [N, N_HOMES], share of each home in its interests
    style : int64 [N], the kind of products that it prefers in every category
    price_level : float64 [N], 0 to 1
    pickiness : float64 [N], how much a distance from this level matters
    novelty : float64 [N], how much products of the last days attract it; mean 1
    readiness : float64 [N], mean about 1: multiplies the chance to put into the cart
    loyalty : float64 [N], chance to buy again what is used up
    sessions_per_day : float64 [N], mean while it has not left
    rest_days : float64 [N], mean days between two phases of intent
    leave_chance : float64 [N], at the end of each phase
    weekday : float64 [N, 7], how many more sessions there are on a weekday, Monday first; mean 1
    hour : float64 [N], of the day, about which its own hours lie
    join_day : int64 [N], the first day, below 0 for those who came before the log begins
    """

    client_id: np.ndarray
    homes: np.ndarray
    taste: np.ndarray
    style: np.ndarray
    price_level: np.ndarray
    pickiness: np.ndarray
    novelty: np.ndarray
    readiness: np.ndarray
    loyalty: np.ndarray
    sessions_per_day: np.ndarray
    rest_days: np.ndarray
    leave_chance: np.ndarray
    weekday: np.ndarray
    hour: np.ndarray
    join_day: np.ndarray

    def take(self, rows: np.ndarray) -> "Clients":
        """The clients of these rows, in this order."""
        return Clients(**{name: values[rows] for name, values in vars(self).items()})

    def draw_homes(self, rng: Generator) -> np.ndarray:
        """A home category of each client, by its taste: int64 [N]."""
        bounds = self.taste.cumsum(axis=1)[:, :-1]
        # a draw is above as many bounds as there are homes before its own
        return np.take_along_axis(self.homes, (rng.random((len(bounds), 1)) > bounds).sum(axis=1)[:, None], 1)[:, 0]


@dataclass(frozen=True)
class Chain:
    """The state of N clients on a day.

    Attributes
    ----------
    is_here : bool [N], has come and has not left
    has_left : bool [N]
    has_intent : bool [N], is in a phase of intent
    waited : int64 [N], days since the last phase of intent ended
    interest : int64 [N], category
    """

    is_here: np.ndarray
    has_left: np.ndarray
    has_intent: np.ndarray
    waited: np.ndarray
    interest: np.ndarray

    def next_day(
        self, rng: Generator, day: int, clients: Clients, catalogue: Catalogue, settings: ShopSettings
    ) -> "Chain":
        """The state on ``day``, of that on the day before."""
        # one draw serves two rules where no client is under both: phases end in intent and begin at rest
        chance = rng.random((4, len(self.waited)))
        ends = self.has_intent & (chance[0] < 1 / _INTENT_DAYS)
        leaves = ends & (chance[1] < clients.leave_chance)
        comes = (clients.join_day == day) | (self.has_left & (chance[1] < settings.return_chance))
        waited = np.where(self.has_intent, 0, self.waited + 1)
        # the Weibull distribution's chance to end within the next day what has lasted ``waited`` days; by the scale its
        # mean is ``rest_days``
        scale = clients.rest_days / math.gamma(1 + 1 / settings.regularity)
        hazard = -np.expm1((waited / scale) ** settings.regularity - ((waited + 1) / scale) ** settings.regularity)
        begins = comes | (self.is_here & ~self.has_intent & (chance[0] < hazard))
        onward = catalogue.next_category[self.interest]
        changed = np.where(chance[2] < _ONWARD, onward, clients.draw_homes(rng))
        return Chain(
            is_here=comes | (self.is_here & ~leaves),
            has_left=(self.has_left & ~comes) | leaves,
            has_intent=begins | (self.has_intent & ~ends),
            waited=waited,
            interest=np.where(begins | (chance[3] < _DRIFT * ~self.has_intent), changed, self.interest),
        )

    def take(self, rows: np.ndarray) -> "Chain":
        """The state of these rows, in this order."""
        return Chain(**{name: values[rows] for name, values in vars(self).items()})


@dataclass(frozen=True)
class Days:
    """What N clients are and do on each of D days.

    Attributes
    ----------
    n_sessions : int64 [N, D], that begin
    chains : the state of each day
    """

    n_sessions: np.ndarray
    chains: tuple[Chain, ...]


def draw_clients(rng: Generator, indices: np.ndarray, catalogue: Catalogue, settings: ShopSettings) -> Clients:
    """The clients of the given indices."""
    n_clients = len(indices)
    homes = catalogue.draw_categories(rng, (n_clients, N_HOMES))
    homes[:, -1] = catalogue.next_category[homes[:, 0]]  # an interest that moves on may come home
    return Clients(
        client_id=spread_ids(indices),
        homes=homes,
        taste=rng.dirichlet(np.full(N_HOMES, 1.5), n_clients),
        style=rng.integers(0, settings.queries_per_category, n_clients),
        price_level=rng.random(n_clients),
        pickiness=settings.price_pickiness * rng.gamma(2.0, 0.5, n_clients),
        novelty=rng.gamma(1.0, 1.0, n_clients),
        readiness=rng.gamma(1.2, 1 / 1.2, n_clients),
        loyalty=rng.beta(1.0, 2.0, n_clients),
        sessions_per_day=settings.sessions_per_day * np.exp(settings.sessions_spread * rng.normal(size=n_clients)),
        rest_days=settings.rest_days * np.exp(_REST_SPREAD * rng.normal(size=n_clients)),
        leave_chance=np.minimum(settings.leave_chance * rng.exponential(1.0, n_clients), 0.9),
        weekday=_WEEKDAY * (1 - settings.habit_share + settings.habit_share * 7 * rng.dirichlet(np.ones(7), n_clients)),
        hour=rng.normal(18.0, 4.0, n_clients) % 24,
        join_day=rng.integers(-_DAYS_BEFORE, settings.n_days, n_clients),
    )


def simulate_days(rng: Generator, clients: Clients, catalogue: Catalogue, settings: ShopSettings) -> Days:
    """What a block of clients does on each of D days; the state of a day follows from the day before alone."""
    nobody = np.zeros(len(clients.client_id), dtype=bool)
    chain = Chain(nobody, nobody, nobody, np.zeros(len(nobody), dtype=np.int64), clients.homes[:, 0])
    chains = []
    # a loop over days: each follows from the one before; within a day all clients are drawn at once
    for day in range(-_DAYS_BEFORE, settings.n_days):
        chain = chain.next_day(rng, day, clients, catalogue, settings)
        if day >= 0:
            chains.append(chain)
    rates = [session_rate(chain, day, clients, settings) for day, chain in enumerate(chains)]
    return Days(rng.poisson(np.stack(rates, axis=1)), tuple(chains))


def session_rate(chain: Chain, day: int, clients: Clients, settings: ShopSettings) -> np.ndarray:
    """Mean sessions on a day in a state: float64 [N]."""
    # over both phases the mean is ``sessions_per_day``, whatever part of its days a client is in intent
    intent_share = _INTENT_DAYS / (_INTENT_DAYS + clients.rest_days)
    in_intent, at_rest = (1 - _REST_SHARE) / intent_share, _REST_SHARE / (1 - intent_share)
    weekday = clients.weekday[:, (settings.first_day.weekday() + day) % 7]
    return clients.sessions_per_day * np.where(chain.has_intent, in_intent, at_rest) * chain.is_here * weekday
