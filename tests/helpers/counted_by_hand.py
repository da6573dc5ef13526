"""Counters in plain Python, one client and one column at a time: what the numpy of ``jobs/blocks`` must equal."""

import math
import statistics as st
from collections import Counter as Counts
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise

from jobs.blocks.counter_table import Counter

DAY = timedelta(days=1)
NAN = math.nan


@dataclass(frozen=True)
class Event:
    """One event; ``client`` and ``item`` are whole numbers, None is no value."""

    client: int
    time: datetime
    behaviour: str
    item: int
    category: int | None = None
    price: float | None = None
    cluster: int | None = None
    popularity: float | None = None
    category_popularity: float | None = None
    category_price: float | None = None


def count_by_hand(counter: Counter, events: Iterable[Event], cutoff: datetime) -> float:
    """The column of one client, NaN where it is missing.

    Parameters
    ----------
    events : the client's, all before the cutoff
    """
    everything = sorted(events, key=lambda event: event.time)
    if counter.n_days is not None:
        everything = [event for event in everything if cutoff - event.time <= counter.n_days * DAY]
    own = [
        [event for event in everything if event.behaviour == behaviour] for behaviour in counter.behaviours
    ] or [everything]  # fmt: skip
    found = _number(counter.family.aggregate.__name__, own, everything, cutoff, counter.value)
    return math.copysign(math.log1p(abs(found)), found) if counter.family.is_log else found


def _number(
    name: str, parts: Sequence[list[Event]], everything: list[Event], cutoff: datetime, value: tuple[int, ...]
) -> float:
    own, others = parts[0], parts[-1]
    ages = [(cutoff - event.time) / DAY for event in own]
    prices = sorted(event.price for event in own if event.price is not None)
    weights = [2 ** (-age / 14) for age in ages]
    days = sorted({event.time.date() for event in own})
    gaps = [(later - earlier).days for earlier, later in pairwise(days)]
    times = [event.time for event in own]
    priced = [(weight, event.price) for weight, event in zip(weights, own, strict=True) if event.price is not None]
    above = [e.price - e.category_price for e in own if e.price is not None and e.category_price is not None]
    simple = {
        "n_events": lambda: len(own),
        "n_days": lambda: len(days),
        "n_items": lambda: len({event.item for event in own}),
        "n_categories": lambda: len({event.category for event in own} - {None}),
        "mean_price": lambda: mean(prices),
        "deviation_of_price": lambda: st.pstdev(prices) if prices else NAN,
        "max_price": lambda: max(prices, default=NAN),
        "min_price": lambda: min(prices, default=NAN),
        "sum_price": lambda: sum(prices),
        "ratio": lambda: len(own) / (1 + len(others)),
        "share_of_items_bought": lambda: share({e.item for e in own}, {e.item for e in others}),
        "share_of_categories_bought": lambda: share(
            {e.category for e in own} - {None}, {e.category for e in others} - {None}
        ),
        "mean_gap": lambda: mean([(b - a) / DAY for a, b in pairwise(times)]),
        "mean_gap_in_hours": lambda: mean([(b - a) / timedelta(hours=1) for a, b in pairwise(times)]),
        "n_sessions": lambda: min(len(own), 1) + sum(b - a > timedelta(minutes=30) for a, b in pairwise(times)),
        "events_per_day": lambda: len(own) / len(days) if own else NAN,
        "category_entropy": lambda: entropy(Counts(e.category for e in own if e.category is not None).values()),
        "weight_of_cluster": lambda: sum(w for w, e in zip(weights, own, strict=True) if e.cluster == value[0]),
        "weight_of_price_group": lambda: sum(w for w, price in priced if price // 10 == value[0]),
        "weighted_count": lambda: sum(weights),
        "weighted_mean_price": lambda: sum(w * p for w, p in priced) / sum(w for w, _ in priced) if priced else NAN,
        "cluster_entropy": lambda: entropy(
            sum(w for w, e in zip(weights, own, strict=True) if e.cluster == cluster) for cluster in range(32)
        ),
        "price_entropy": lambda: entropy(sum(w for w, p in priced if p // 10 == group) for group in range(10)),
        "days_since_last": lambda: min(ages) if ages else max((cutoff - e.time) / DAY for e in everything),
        "days_since_first": lambda: max(ages, default=NAN),
        "mean_day_gap": lambda: mean(gaps),
        "median_day_gap": lambda: st.median(gaps) if gaps else NAN,
        "silence_in_mean_gaps": lambda: min(ages) / mean(gaps) if gaps else NAN,
        "silence_in_median_gaps": lambda: min(ages) / st.median(gaps) if gaps else NAN,
        "poisson_silence": lambda: math.exp(-len(days) / (max(ages) + 1) * min(ages)) if ages else NAN,
        "bg_nbd_alive": lambda: alive(len(days) - 1, ages) if ages else NAN,
        "trend": lambda: sum(age <= value[0] for age in ages) - sum(value[0] < age <= 2 * value[0] for age in ages),
        "n_weeks": lambda: len({day.isocalendar()[:2] for day in days}),
        "n_months": lambda: len({(day.year, day.month) for day in days}),
        "weekday_share": lambda: sum(e.time.weekday() == value[0] for e in own) / max(1, len(own)),
        "hour_share": lambda: sum(e.time.hour == value[0] for e in own) / max(1, len(own)),
        "price_quantile": lambda: quantile(prices, value[0] / 100),
        "price_above_category": lambda: mean(above),
        "mean_popularity": lambda: mean([math.log1p(e.popularity) for e in own if e.popularity is not None]),
        "mean_category_popularity": lambda: mean(
            [math.log1p(e.category_popularity) for e in own if e.category_popularity is not None]
        ),
    }
    return float(simple[name]())


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else NAN


def share(of: set, also: set) -> float:
    return len(of & also) / max(1, len(of))


def entropy(weights: Iterable[float]) -> float:
    found = [weight for weight in weights if weight > 0]
    return -sum(weight / sum(found) * math.log2(weight / sum(found)) for weight in found)


def quantile(ordered: Sequence[float], of: float) -> float:
    if not ordered:
        return NAN
    place = (len(ordered) - 1) * of
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])


def alive(n_repeats: int, ages: Sequence[float]) -> float:
    """Fader, Hardie and Lee 2005, equation 7 of their note on P(alive)."""
    if n_repeats == 0:
        return 1.0
    total, last = max(ages) / 7, (max(ages) - min(ages)) / 7
    odds = 0.793 / (2.426 + n_repeats - 1) * ((4.414 + total) / (4.414 + last)) ** (0.243 + n_repeats)
    return 1 / (1 + odds)
