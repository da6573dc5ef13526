"""The events of a block of clients, in numpy: who, when, and which item by its rank."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.random import Generator, Philox

from conf.synthetic import BenchmarkLogSettings
from jobs.synthetic.benchmark_log.counts import CountTable
from jobs.synthetic.benchmark_log.marginals import BEHAVIOURS, Sizes, client_counts, scale_sizes
from jobs.synthetic.benchmark_log.permutations import Permutation, Use, draw_permutation
from jobs.synthetic.blocks import HOURS, SECONDS_PER_DAY, spread_ids

_LONGEST_SESSION = 12  # events
_PACE, _JITTER = 20.0, 25.0  # seconds from one event of a session to the next: fixed, and the mean of the rest


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


@lru_cache(maxsize=2)  # the behaviours of a log are written one after the other
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
    settings, ordinal = plan.settings, BEHAVIOURS.index(behaviour)
    # what all behaviours of a block share is drawn anew for each, the same from the same seed
    shared, own = (Generator(Philox([settings.seed, block, use])) for use in (0, 1 + ordinal))
    rank = _ranks_of_block(block, plan.ranks, settings)
    counts = plan.clients.count_of(rank)
    n_events = int(counts.sum())
    shuffled = shared.permutation(n_events)
    length, first_session, session_start = _draw_sessions(shared, counts, settings)

    number = plan.events(plan.first_event[block] + np.arange(n_events))
    # permuted numbers are cut into a range per behaviour: so many rows each, spread evenly over all clients
    start = sum(list(plan.sizes.n_rows.values())[:ordinal])
    mine = np.flatnonzero((number >= start) & (number < start + plan.sizes.n_rows[behaviour]))
    event = shuffled[mine]
    client = np.repeat(np.arange(len(counts)), counts)[event]
    nth = event - (np.cumsum(counts) - counts)[client]
    session = nth // length[client]
    pauses = _JITTER * own.standard_exponential(len(nth), dtype=np.float32)
    within = (nth - session * length[client]) * _PACE + pauses
    second = session_start[first_session[client] + session] + within.astype(np.int64)
    last_second = settings.n_days * SECONDS_PER_DAY - 1
    # the last day's sessions end with it: all events of the plan stay in the log
    return Events(spread_ids(rank)[client], np.minimum(second, last_second), number[mine] - start)


def _ranks_of_block(block: int, ranks: Permutation, settings: BenchmarkLogSettings) -> np.ndarray:
    first = block * settings.clients_per_block
    return ranks(np.arange(first, min(first + settings.clients_per_block, ranks.size)))


def _draw_sessions(
    rng: Generator, counts: np.ndarray, settings: BenchmarkLogSettings
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of C clients: events in each of its sessions, int64 [C]; its first session, int64 [C]; starts, int64 [S]."""
    length = rng.integers(1, _LONGEST_SESSION, len(counts), endpoint=True)
    n_sessions = -(-counts // length)
    moment = rng.random(int(n_sessions.sum())) * settings.n_days
    day = np.floor(moment)
    # the fraction of the day goes through the inverse of the hours' distribution
    hour_ends = np.concatenate([[0.0], np.cumsum(HOURS) / HOURS.sum()])
    time_of_day = np.interp(moment - day, hour_ends, np.arange(25.0) * 3600)
    return length, np.cumsum(n_sessions) - n_sessions, (day * SECONDS_PER_DAY + time_of_day).astype(np.int64)
