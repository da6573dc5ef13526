"""How many things have how many events: tables that meet published shares and totals exactly."""

from collections.abc import Callable
from dataclasses import dataclass
from math import erfc, sqrt
from statistics import NormalDist

import numpy as np

_BISECTIONS = 60  # more than the bits of what they look for
_STEEPEST = 20.0  # slope of a tail: of the logarithm of the count over the normal quantile
_LARGEST = 10**10  # more events than a log has
_EVERY_COUNT_BELOW = 1024
_RATIO = 1.01  # of neighbouring levels above that


@dataclass(frozen=True)
class CountTable:
    """The numbers of events of some things (clients, skus, ...), as K levels; rank 0 has the most events.

    Attributes
    ----------
    level : int64 [K], numbers of events that may occur, rising from 1
    at_least : int64 [K], how many things have ``level`` events or more, never rising

    Examples
    --------
    Three things with 5, 1 and 1 events:

    >>> table = CountTable(np.array([1, 5]), np.array([3, 1]))
    >>> table.n_events, table.count_of(np.arange(4)).tolist(), table.owner_of(np.arange(7)).tolist()
    (7, [5, 1, 1, 0], [0, 0, 0, 0, 0, 1, 2])
    """

    level: np.ndarray
    at_least: np.ndarray

    @property
    def n_events(self) -> int:
        """Events of all things together."""
        return int(self.at_least @ np.diff(self.level, prepend=0))

    def count_of(self, rank: np.ndarray) -> np.ndarray:
        """Events of the things of these ranks: int64, the argument's shape."""
        # negated, for a search needs numbers that rise
        n_levels = np.searchsorted(-self.at_least, -rank, side="left")
        return np.concatenate([[0], self.level])[n_levels]

    def owner_of(self, event: np.ndarray) -> np.ndarray:
        """Rank of the thing that an event is of: int64; the most frequent thing has the events 0, 1, ..."""
        count, n_things_before = self.level[::-1], np.concatenate([[0], self.at_least[::-1]])
        first_event = np.concatenate([[0], np.cumsum(np.diff(n_things_before) * count)])
        group = np.searchsorted(first_event, event, side="right") - 1  # of the things with equally many events
        return n_things_before[group] + (event - first_event[group]) // count[group]


def fit_rounding(n_things: int, n_events: int, shares: dict[int, float]) -> CountTable:
    """The table of a lognormal in pieces whose total is met by where counts are rounded.

    A count is the quantile function at the thing's rank plus a constant below 1, rounded down: whole quantiles stay
    what they are (to half a thing), while the total can take many values, up to ``n_things`` apart.

    Parameters
    ----------
    shares : count -> share of the things that have so many or more, falling from 1.0 for 1. In between, the
        logarithm of the count is linear in the normal quantile of the share. Nothing exceeds the last count
    """
    level = _levels(max(shares))
    return _fit(n_things, n_events, level, 1.0, lambda constant: _share_from(level - constant, shares))


def fit_tail(n_things: int, n_events: int, shares: dict[int, float]) -> CountTable:
    """The table of a lognormal in pieces that meets every share, and the total by the weight of its tail.

    Parameters
    ----------
    shares : as for ``fit_rounding``, but the share for 1 may be below 1.0: the rest have no event. Above the last
        count the logarithm's slope is the one that is fitted
    """
    level = _levels(_LARGEST)
    return _fit(n_things, n_events, level, _STEEPEST, lambda slope: _share_from(level, shares, slope))


def _fit(
    n_things: int, n_events: int, level: np.ndarray, most: float, shares: Callable[[float], np.ndarray]
) -> CountTable:
    """The table of the parameter between 0 and ``most`` that comes nearest from below; level 2 takes the rest."""
    # bisection: the total rises with the parameter, but in steps, so that no method by slopes would do
    low, high = 0.0, most
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        fits = _round_shares(n_things, level, shares(middle)).n_events <= n_events
        low, high = (middle, high) if fits else (low, middle)
    table = _round_shares(n_things, level, shares(low))
    # a thing more that has two events instead of one is one event more: the total is met exactly
    table.at_least[1] += n_events - table.n_events
    assert (np.diff(table.at_least) <= 0).all(), f"no table of {n_things} things has {n_events} events"
    used = table.at_least > 0
    return CountTable(level[used], table.at_least[used])


def _round_shares(n_things: int, level: np.ndarray, share: np.ndarray) -> CountTable:
    # 1e-9: at full size the largest count has the share of half a thing, which must round to one
    return CountTable(level, np.floor(n_things * share + 0.5 + 1e-9).astype(np.int64))


def _share_from(counts: np.ndarray, shares: dict[int, float], tail_slope: float | None = None) -> np.ndarray:
    """Share of things with at least so many events: float64, the shape of ``counts``."""
    inner = {count: share for count, share in shares.items() if share < 1.0}
    known = np.log(list(inner))
    quantile = np.array([NormalDist().inv_cdf(1.0 - share) for share in inner.values()])
    wanted = np.log(np.maximum(counts, 1e-9))
    # interp is flat beyond its ends: below them the first piece goes on, above them the tail
    found = np.interp(wanted, known, quantile)
    if len(inner) > 1:
        below = quantile[0] + (wanted - known[0]) * (quantile[1] - quantile[0]) / (known[1] - known[0])
        found = np.where(wanted < known[0], below, found)
    if tail_slope is not None:
        above = quantile[-1] + (wanted - known[-1]) / max(tail_slope, 1e-12)
        found = np.where(wanted > known[-1], above, found)
    # erfc: of the small shares of a tail, 1 - cdf would lose the digits
    share = np.array([erfc(z / sqrt(2.0)) / 2.0 for z in found.tolist()])
    return np.where(counts <= 1, shares[1], share)


def _levels(largest: int) -> np.ndarray:
    """Every number up to a thousand, then steps of one per cent, then the largest: int64 [K]."""
    n_steps = int(np.log(max(largest / _EVERY_COUNT_BELOW, 1.0)) / np.log(_RATIO)) + 1
    coarse = np.floor(_EVERY_COUNT_BELOW * _RATIO ** np.arange(n_steps)).astype(np.int64)
    levels = np.concatenate([np.arange(1, _EVERY_COUNT_BELOW), coarse])
    return np.append(levels[levels < largest], largest)
