"""A log of some clients -> one number of each client: what the definitions of counters are made of.

Each function takes a ``ClientLog`` and what its definition names (behaviours, a cluster, ...), and returns float64 [C],
NaN where a client has nothing that the number could be of. ``None`` for a behaviour stands for all events.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jobs.transforms.client_log import MICROSECONDS_PER_DAY, ClientLog, Pairs, divide
from schemas.tables import MAX_PRICE

Values = NDArray[np.float64]

N_CLUSTERS = 32
PRICES_PER_GROUP = 10
N_PRICE_GROUPS = (MAX_PRICE + 1) // PRICES_PER_GROUP
HALF_LIFE_DAYS = 14
"""Of an event's weight, 2^(-age / 14 d)."""
SESSION_GAP = 30 * 60 * 1_000_000
"""Microseconds; a longer gap between two events begins another session."""
HOURS_PER_DAY = 24
DAYS_PER_WEEK = 7
DAYS_TO_MONDAY = 3
"""1970-01-01 was a Thursday."""
BG_NBD = {"r": 0.243, "alpha": 4.414, "a": 0.793, "b": 2.426}
"""Of CDNOW's weeks (Fader, Hardie and Lee 2005, table 2), not fitted anew: what counts is the order of clients."""


def n_events(log: ClientLog, behaviour: str | None = None) -> Values:
    """Events."""
    return log.of(behaviour).count()


def n_days(log: ClientLog, behaviour: str | None = None) -> Values:
    """Days with an event."""
    return _n_seen(log.of(behaviour).days, log)


def n_items(log: ClientLog, behaviour: str) -> Values:
    """Different items."""
    return _n_seen(log.of(behaviour).items, log)


def n_categories(log: ClientLog, behaviour: str) -> Values:
    """Different categories."""
    return _n_seen(log.of(behaviour).categories, log)


def mean_price(log: ClientLog, behaviour: str) -> Values:
    """Mean price."""
    return log.of(behaviour).mean(log.of(behaviour).price)


def deviation_of_price(log: ClientLog, behaviour: str) -> Values:
    """Standard deviation of the price."""
    own = log.of(behaviour)
    mean = own.mean(own.price)
    return np.sqrt(own.mean((own.price - mean[own.client]) ** 2))


def max_price(log: ClientLog, behaviour: str) -> Values:
    """Highest price."""
    return price_quantile(log, 100, behaviour)


def min_price(log: ClientLog, behaviour: str) -> Values:
    """Lowest price."""
    return price_quantile(log, 0, behaviour)


def sum_price(log: ClientLog, behaviour: str) -> Values:
    """Sum of prices."""
    own = log.of(behaviour)
    return own.count(np.nan_to_num(own.price))


def ratio(log: ClientLog, upper: str, lower: str) -> Values:
    """Events of one behaviour / (1 + those of another)."""
    return log.of(upper).count() / (1 + log.of(lower).count())


def share_of_items_bought(log: ClientLog, added: str, bought: str) -> Values:
    """Share of the different items of one behaviour that have an event of another."""
    return _share_seen(log.of(added).items, log.of(bought).items, log)


def share_of_categories_bought(log: ClientLog, added: str, bought: str) -> Values:
    """Share of the different categories of one behaviour that have an event of another."""
    return _share_seen(log.of(added).categories, log.of(bought).categories, log)


def mean_gap(log: ClientLog, behaviour: str | None = None) -> Values:
    """Mean days between two events that follow each other."""
    own = log.of(behaviour)
    return divide(own.first_age - own.last_age, own.count() - 1)


def mean_gap_in_hours(log: ClientLog) -> Values:
    """Mean hours between two events that follow each other."""
    return HOURS_PER_DAY * mean_gap(log)


def n_sessions(log: ClientLog) -> Values:
    """Runs of events with at most 30 minutes between two."""
    begins = np.ones(len(log.client), dtype=bool)
    # whole microseconds: differences of ages are rounded, and events are often exactly 30 minutes apart
    begins[1:] = (log.client[1:] != log.client[:-1]) | (np.diff(log.time) > SESSION_GAP)
    return log.count(begins.astype(np.float64))


def events_per_day(log: ClientLog) -> Values:
    """Events per day that has any."""
    return divide(log.count(), _n_seen(log.days, log))


def category_entropy(log: ClientLog) -> Values:
    """Entropy of the categories, in bits."""
    numbers = log.categories.number
    counts = np.bincount(numbers[numbers >= 0], minlength=len(log.categories.client))
    return _entropy(counts.astype(np.float64), log.categories.client, log.n_clients)


def weight_of_cluster(log: ClientLog, cluster: int, behaviour: str) -> Values:
    """Sum of the weights of the events of one cluster of names."""
    own = log.of(behaviour)
    return own.count(_weights(own) * (own.cluster == cluster))


def weight_of_price_group(log: ClientLog, group: int, behaviour: str) -> Values:
    """Sum of the weights of the events of one group of ten prices."""
    own = log.of(behaviour)
    return own.count(_weights(own) * (own.price // PRICES_PER_GROUP == group))


def weighted_count(log: ClientLog, behaviour: str) -> Values:
    """Sum of the events' weights."""
    own = log.of(behaviour)
    return own.count(_weights(own))


def weighted_mean_price(log: ClientLog, behaviour: str) -> Values:
    """Mean price, by the events' weights."""
    own = log.of(behaviour)
    weights = np.where(np.isnan(own.price), 0.0, _weights(own))
    return divide(own.count(weights * np.nan_to_num(own.price)), own.count(weights))


def cluster_entropy(log: ClientLog, behaviour: str) -> Values:
    """Entropy over the clusters of names, in bits, by the events' weights."""
    own = log.of(behaviour)
    return _weighted_entropy(own, own.cluster, own.cluster >= 0, N_CLUSTERS)


def price_entropy(log: ClientLog, behaviour: str) -> Values:
    """Entropy over the groups of prices, in bits, by the events' weights."""
    own = log.of(behaviour)
    groups = np.nan_to_num(own.price // PRICES_PER_GROUP, nan=0).astype(np.int64)
    return _weighted_entropy(own, groups, ~np.isnan(own.price), N_PRICE_GROUPS)


def days_since_last(log: ClientLog, behaviour: str | None = None) -> Values:
    """Days since the last event; without one, since the client's first of any behaviour: it has waited that long."""
    own = log.of(behaviour).last_age
    return np.where(np.isnan(own), log.first_age, own)


def days_since_first(log: ClientLog, behaviour: str | None = None) -> Values:
    """Days since the first event."""
    return log.of(behaviour).first_age


def mean_day_gap(log: ClientLog, behaviour: str | None = None) -> Values:
    """Mean days from one day with events to the next."""
    gaps, client = _day_gaps(log.of(behaviour))
    return divide(np.bincount(client, gaps, log.n_clients), np.bincount(client, minlength=log.n_clients).astype(float))


def median_day_gap(log: ClientLog, behaviour: str | None = None) -> Values:
    """Median days from one day with events to the next."""
    gaps, client = _day_gaps(log.of(behaviour))
    return _quantile(gaps, client, log.n_clients, 0.5)


def silence_in_mean_gaps(log: ClientLog, behaviour: str | None = None) -> Values:
    """Days since the last event / mean days between days with events."""
    return divide(log.of(behaviour).last_age, mean_day_gap(log, behaviour))


def silence_in_median_gaps(log: ClientLog, behaviour: str | None = None) -> Values:
    """Days since the last event / median days between days with events."""
    return divide(log.of(behaviour).last_age, median_day_gap(log, behaviour))


def poisson_silence(log: ClientLog, behaviour: str | None = None) -> Values:
    """How likely a silence as long as the present one is at the client's own rate of days with events."""
    own = log.of(behaviour)
    # plus one: the day of the first event is one of the days that the rate is over
    return np.exp(-divide(n_days(log, behaviour), own.first_age + 1) * own.last_age)


def bg_nbd_alive(log: ClientLog, behaviour: str | None = None) -> Values:
    """How likely the client has not left, by the BG/NBD model of its days with events."""
    own = log.of(behaviour)
    n_repeats, total = n_days(log, behaviour) - 1, own.first_age / DAYS_PER_WEEK
    last = total - own.last_age / DAYS_PER_WEEK
    r, alpha, a, b = BG_NBD.values()
    with np.errstate(over="ignore"):  # an infinite chance of having left is 0 of being there
        left = a / (b + n_repeats - 1) * ((alpha + total) / (alpha + last)) ** (r + n_repeats)
        # by this model a client leaves after a repeat alone: one that has come once is there
        alive = np.where(n_repeats > 0, 1 / (1 + left), 1.0)
    return np.where(np.isnan(total), np.nan, alive)


def trend(log: ClientLog, span: int, behaviour: str | None = None) -> Values:
    """Events of the last days - events of as many days before."""
    own = log.of(behaviour)
    return own.count(np.where(own.age <= span, 1.0, -1.0) * (own.age <= 2 * span))


def n_weeks(log: ClientLog, behaviour: str | None = None) -> Values:
    """Different weeks (from Monday) with an event."""
    return _n_spans(log.of(behaviour), lambda day: (day + DAYS_TO_MONDAY) // DAYS_PER_WEEK)


def n_months(log: ClientLog, behaviour: str | None = None) -> Values:
    """Different months with an event."""
    return _n_spans(log.of(behaviour), lambda day: day.astype("datetime64[D]").astype("datetime64[M]").astype(np.int64))


def weekday_share(log: ClientLog, weekday: int) -> Values:
    """Share of the events on one day of the week, 0 for Monday."""
    day = log.time // MICROSECONDS_PER_DAY
    return _share(log, (day + DAYS_TO_MONDAY) % DAYS_PER_WEEK == weekday)


def hour_share(log: ClientLog, hour: int) -> Values:
    """Share of the events in one hour of the day."""
    return _share(log, log.time % MICROSECONDS_PER_DAY * HOURS_PER_DAY // MICROSECONDS_PER_DAY == hour)


def price_quantile(log: ClientLog, percent: int, behaviour: str) -> Values:
    """Quantile of the prices, between two of them in proportion."""
    own = log.of(behaviour)
    is_known = ~np.isnan(own.price)
    return _quantile(own.price[is_known], own.client[is_known], log.n_clients, percent / 100)


def price_above_category(log: ClientLog, behaviour: str) -> Values:
    """Mean of price - mean price of the category's products."""
    own = log.of(behaviour)
    return own.mean(own.price - own.category_price)


def mean_popularity(log: ClientLog, behaviour: str) -> Values:
    """Mean log(1 + n) of the items' n events of all clients."""
    own = log.of(behaviour)
    return own.mean(np.log1p(own.popularity))


def mean_category_popularity(log: ClientLog, behaviour: str) -> Values:
    """Mean log(1 + n) of the categories' n events of all clients."""
    own = log.of(behaviour)
    return own.mean(np.log1p(own.category_popularity))


def _weights(log: ClientLog) -> Values:
    weights: Values = np.exp2(-log.age / HALF_LIFE_DAYS)
    return weights


def _n_seen(pairs: Pairs, log: ClientLog) -> Values:
    return np.bincount(pairs.client[pairs.seen], minlength=log.n_clients).astype(np.float64)


def _share_seen(of: Pairs, also: Pairs, log: ClientLog) -> Values:
    n_both = np.bincount(of.client[of.seen & also.seen], minlength=log.n_clients)
    return n_both / np.maximum(1, _n_seen(of, log))


def _share(log: ClientLog, is_counted: NDArray[np.bool_]) -> Values:
    return log.count(is_counted.astype(np.float64)) / np.maximum(1, log.count())


def _day_gaps(log: ClientLog) -> tuple[Values, NDArray[np.int64]]:
    """Days from each day with events to the client's next one, and whose they are."""
    client, day = log.days.client[log.days.seen], log.days.value[log.days.seen]
    is_own = client[1:] == client[:-1]
    return np.diff(day)[is_own].astype(np.float64), client[1:][is_own]


def _n_spans(log: ClientLog, span_of_day: Callable[[NDArray[np.int64]], NDArray[np.int64]]) -> Values:
    client, span = log.days.client[log.days.seen], span_of_day(log.days.value[log.days.seen])
    is_first = np.ones(len(client), dtype=bool)
    is_first[1:] = (client[1:] != client[:-1]) | (span[1:] != span[:-1])
    return np.bincount(client[is_first], minlength=log.n_clients).astype(np.float64)


def _quantile(values: Values, client: NDArray[np.int64], n_clients: int, share: float) -> Values:
    """Of each client's values, float64 [C]."""
    # one sort for all clients: np.quantile would be called for each of them
    ordered = values[np.lexsort((values, client))]
    n_values = np.bincount(client, minlength=n_clients)
    has_any = n_values > 0
    at = (n_values[has_any] - 1) * share
    low = np.floor(at).astype(np.int64)
    first, last = (np.cumsum(n_values) - n_values)[has_any], np.cumsum(n_values)[has_any] - 1
    below, above = ordered[first + low], ordered[np.minimum(first + low + 1, last)]
    found = np.full(n_clients, np.nan)
    found[has_any] = below + (at - low) * (above - below)
    return found


def _weighted_entropy(log: ClientLog, value: NDArray[np.int64], is_known: NDArray[np.bool_], n_values: int) -> Values:
    cells = log.client[is_known] * n_values + value[is_known]
    weights = np.bincount(cells, _weights(log)[is_known], log.n_clients * n_values)
    return _entropy(weights, np.repeat(np.arange(log.n_clients), n_values), log.n_clients)


def _entropy(weights: NDArray[Any], client: NDArray[np.int64], n_clients: int) -> Values:
    """In bits, of each client's weights, float64 [C]; 0 without any."""
    total = np.bincount(client, weights, n_clients)[client]
    share = np.divide(weights, total, out=np.zeros(len(weights)), where=total > 0)
    bits = -share * np.log2(np.where(share > 0, share, 1.0))
    return np.bincount(client, bits, n_clients).astype(np.float64)
