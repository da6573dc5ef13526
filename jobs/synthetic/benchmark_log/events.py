"""The events of a block of clients, in numpy: who, when, and which item by its rank."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.random import Generator, Philox

from conf.synthetic import BenchmarkLogSettings
from jobs.synthetic.benchmark_log.counts import CountTable
from jobs.synthetic.benchmark_log.marginals import BEHAVIOURS, Sizes, client_counts, scale_sizes
from jobs.synthetic.benchmark_log.permutations import Permutation, Use, draw_permutation
from jobs.synthetic.benchmark_log.text import SECONDS_PER_DAY
from jobs.synthetic.shop.clients import spread_ids

_LONGEST_SESSION = 12  # events
_PACE, _JITTER = 20.0, 25.0  # seconds from one event of a session to the next: fixed, and the mean of the rest
_HOURS = np.array([2, 1, 1, 1, 1, 2, 4, 6, 8, 9, 10, 10, 10, 10, 9, 9, 10, 11, 13, 15, 16, 14, 9, 5], dtype=float)
_HOUR_ENDS = np.concatenate([[0.0], np.cumsum(_HOURS) / _HOURS.sum()])


@dataclass(frozen=True)
class LogPlan:
    """What all blocks and behaviours share.

    Attributes
    ----------
    clients : events per client, by rank
    ranks : client -> rank
    events : number of an event, counted through all clients -> number counted through all behaviours and items
    first_event : int64 [blocks + 1], events of the blocks before
    """

    settings: BenchmarkLogSettings
    sizes: Sizes
    clients: CountTable
    ranks: Permutation
    events: Permutation
    first_event: np.ndarray

    @property
    def n_blocks(self) -> int:
        """Blocks of clients; the last may be smaller."""
        return len(self.first_event) - 1

    def numbers_of(self, behaviour: str) -> tuple[int, int]:
        """The first number of a behaviour's events, and the one after its last."""
        end = np.cumsum(list(self.sizes.n_rows.values()))[BEHAVIOURS.index(behaviour)]
        return int(end) - self.sizes.n_rows[behaviour], int(end)


@dataclass(frozen=True)
class Events:
    """E events of one behaviour and one block; their clients and times are in random order.

    Attributes
    ----------
    client_id : int64 [E]
    second : int64 [E], since the first day's midnight
    number : int64 [E], among all events of the behaviour, each once in the whole log; it owns an item
    """

    client_id: np.ndarray
    second: np.ndarray
    number: np.ndarray


@lru_cache(maxsize=2)
def plan_log(settings: BenchmarkLogSettings) -> LogPlan:
    """The log of the settings; counts every client's events once, about a second for 10 million clients."""
    sizes = scale_sizes(settings.n_events)
    clients = client_counts(sizes)
    ranks = draw_permutation(sizes.n_clients, settings.seed, Use.RANK_OF_CLIENT)
    events = draw_permutation(sizes.n_events, settings.seed, Use.NUMBER_OF_EVENT)
    n_blocks = -(-sizes.n_clients // settings.clients_per_block)
    n_events = [clients.count_of(_ranks_of_block(block, ranks, settings)).sum() for block in range(n_blocks)]
    return LogPlan(settings, sizes, clients, ranks, events, np.concatenate([[0], np.cumsum(n_events)]))


def draw_block(block: int, behaviour: str, plan: LogPlan) -> Events:
    """The events of one behaviour of one block; they depend on the settings, the block and the behaviour alone."""
    settings = plan.settings
    shared, own = (Generator(Philox([settings.seed, block, use])) for use in (0, 1 + BEHAVIOURS.index(behaviour)))
    rank = _ranks_of_block(block, plan.ranks, settings)
    counts = plan.clients.count_of(rank)
    n_events = int(counts.sum())
    shuffled = shared.permutation(n_events)
    sessions = _draw_sessions(shared, counts, settings)

    number = plan.events(plan.first_event[block] + np.arange(n_events))
    start, end = plan.numbers_of(behaviour)
    mine = np.flatnonzero((number >= start) & (number < end))
    event = shuffled[mine]
    client = np.repeat(np.arange(len(counts)), counts)[event]
    nth = event - (np.cumsum(counts) - counts)[client]
    return Events(
        client_id=spread_ids(rank)[client],
        second=np.minimum(sessions.time_of(own, client, nth), settings.n_days * SECONDS_PER_DAY - 1),
        number=number[mine] - start,
    )


def _ranks_of_block(block: int, ranks: Permutation, settings: BenchmarkLogSettings) -> np.ndarray:
    first = block * settings.clients_per_block
    return ranks(np.arange(first, min(first + settings.clients_per_block, ranks.size)))


@dataclass(frozen=True)
class _Sessions:
    """``length`` int64 [C], events of a session; ``first`` int64 [C], the client's first; ``start`` int64 [S]."""

    length: np.ndarray
    first: np.ndarray
    start: np.ndarray

    def time_of(self, rng: Generator, client: np.ndarray, nth: np.ndarray) -> np.ndarray:
        """Second of the clients' nth events: int64; neighbours in a session are seconds to minutes apart."""
        length = self.length[client]
        session = nth // length
        within = (nth - session * length) * _PACE + _JITTER * rng.standard_exponential(len(nth), dtype=np.float32)
        return self.start[self.first[client] + session] + within.astype(np.int64)


def _draw_sessions(rng: Generator, counts: np.ndarray, settings: BenchmarkLogSettings) -> _Sessions:
    length = rng.integers(1, _LONGEST_SESSION, len(counts), endpoint=True)
    n_sessions = -(-counts // length)
    moment = rng.random(int(n_sessions.sum())) * settings.n_days
    day = np.floor(moment)
    time_of_day = np.interp(moment - day, _HOUR_ENDS, np.arange(25.0) * 3600)
    return _Sessions(length, np.cumsum(n_sessions) - n_sessions, (day * SECONDS_PER_DAY + time_of_day).astype(np.int64))
