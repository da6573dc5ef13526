"""The events of some clients in numpy, by client and time, and parts of them: what counters are computed from.

Legend of shapes: n events, C clients, P pairs of a client and a value.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from jobs.transforms.packed import ODD
from schemas.columns import BEHAVIOUR, CATEGORY, CLIENT_ID, PRICE, TIMESTAMP

ITEM, CLUSTER = "item", "cluster"
POPULARITY, CATEGORY_POPULARITY, CATEGORY_PRICE = "popularity", "category_popularity", "category_price"
LOG_DDL = (
    f"{CLIENT_ID} bigint, {TIMESTAMP} timestamp_ntz, {BEHAVIOUR} int, {ITEM} bigint, {CATEGORY} bigint, "
    f"{PRICE} double, {CLUSTER} int, {POPULARITY} double, {CATEGORY_POPULARITY} double, {CATEGORY_PRICE} double"
)
"""Rows that a log is made of. ``behaviour`` is the position of the behaviour's name, ``item`` a hash of the item and of
what kind it is; all after ``item`` may be null."""

MICROSECONDS_PER_DAY = 86_400_000_000
MAX_EVENTS = 200_000
"""Of one client, its last ones: no client needs more room than that."""


@dataclass(frozen=True, eq=False)
class Pairs:
    """Which pair of a client and a value (an item, a category, a day) each event is of.

    Attributes
    ----------
    number : int64 [n], -1 for an event without a value
    client, value : int64 [P], of each pair, by client, then value
    """

    number: NDArray[np.int64]
    client: NDArray[np.int64]
    value: NDArray[np.int64]

    @classmethod
    def of(cls, client: NDArray[np.int64], values: pa.ChunkedArray) -> "Pairs":
        """The pairs of some events; a null is no value."""
        # with nulls numpy would get floats, which do not hold every int64
        value = values.fill_null(0).to_numpy()
        rows = np.flatnonzero(values.is_valid().to_numpy())
        order = rows[np.lexsort((value[rows], client[rows]))]
        of_pair, own = client[order], value[order]
        is_first = np.ones(len(order), dtype=bool)
        is_first[1:] = (of_pair[1:] != of_pair[:-1]) | (own[1:] != own[:-1])
        number = np.full(len(client), -1, np.int64)
        number[order] = np.cumsum(is_first) - 1
        return cls(number, of_pair[is_first], own[is_first])

    def take(self, rows: NDArray[np.int64]) -> "Pairs":
        """Those of some of the events; the pairs keep their numbers."""
        return Pairs(self.number[rows], self.client, self.value)

    @cached_property
    def seen(self) -> NDArray[np.bool_]:
        """Whether each pair has an event here, bool [P]."""
        seen = np.zeros(len(self.client), dtype=bool)
        seen[self.number[self.number >= 0]] = True
        return seen


@dataclass(frozen=True, eq=False)
class ClientLog:
    """Events by client, then time.

    Attributes
    ----------
    behaviours : the names that ``kind`` counts
    client_ids : int64 [C], rising; a part of a log has the same clients, some of them without events
    client : int64 [n], the client's position in ``client_ids``
    time : int64 [n], microseconds since 1970
    age : float64 [n], days before the cutoff, above 0
    kind : int64 [n]
    cluster : int64 [n], -1 where there is none
    price, popularity, category_popularity, category_price : float64 [n], NaN where there is none
    items, categories, days : of the events; a day is counted from 1970
    """

    behaviours: tuple[str, ...]
    client_ids: NDArray[np.int64]
    client: NDArray[np.int64]
    time: NDArray[np.int64]
    age: NDArray[np.float64]
    kind: NDArray[np.int64]
    cluster: NDArray[np.int64]
    price: NDArray[np.float64]
    popularity: NDArray[np.float64]
    category_popularity: NDArray[np.float64]
    category_price: NDArray[np.float64]
    items: Pairs
    categories: Pairs
    days: Pairs
    _parts: dict[object, "ClientLog"] = field(default_factory=dict)

    @property
    def n_clients(self) -> int:
        """C."""
        return len(self.client_ids)

    def of(self, behaviour: str | None) -> "ClientLog":
        """The events of one behaviour; None for all."""
        if behaviour is None:
            return self
        return self._part(behaviour, lambda: self.kind == self.behaviours.index(behaviour))

    def since(self, n_days: int | None) -> "ClientLog":
        """The events of the last days before the cutoff; None for all."""
        return self if n_days is None else self._part(n_days, lambda: self.age <= n_days)

    def masked(self, share: float, seed: int) -> "ClientLog":
        """The events without some, each left out with a chance of ``share``.

        What is left out depends on the seed, the client and how many events it had before, not on other clients.
        """

        def is_kept() -> NDArray[np.bool_]:
            n_events = np.bincount(self.client, minlength=self.n_clients)
            number = np.arange(len(self.client)) - (np.cumsum(n_events) - n_events)[self.client]
            keys = self.client_ids.view(np.uint64)[self.client] * ODD + number.astype(np.uint64)
            # the upper 53 bits, which a double holds exactly
            drawn = pd.util.hash_array(keys ^ np.uint64(seed), categorize=False) >> np.uint64(11)
            return drawn * 2.0**-53 >= share

        return self._part(("masked", share, seed), is_kept)

    def _part(self, key: object, is_in: Callable[[], NDArray[np.bool_]]) -> "ClientLog":
        # kept: counters ask for the same few parts again and again
        if key not in self._parts:
            rows = np.flatnonzero(is_in())
            parts: dict[str, Any] = {}
            for name in (each.name for each in fields(self) if each.name not in ("behaviours", "client_ids", "_parts")):
                own = getattr(self, name)
                parts[name] = own.take(rows) if isinstance(own, Pairs) else own[rows]
            self._parts[key] = replace(self, **parts, _parts={})
        return self._parts[key]

    def count(self, weights: NDArray[Any] | None = None) -> NDArray[np.float64]:
        """Each client's events, or the sum of their weights, float64 [C]."""
        return np.bincount(self.client, weights, self.n_clients).astype(np.float64)

    def mean(self, values: NDArray[Any]) -> NDArray[np.float64]:
        """Each client's mean of what its events have, float64 [C]; NaN where none has a value."""
        is_known = ~np.isnan(values)
        return divide(self.count(np.where(is_known, values, 0.0)), self.count(is_known.astype(np.float64)))

    @cached_property
    def last_age(self) -> NDArray[np.float64]:
        """Days since each client's last event, float64 [C]; NaN without one."""
        return self._pick(slice(None))

    @cached_property
    def first_age(self) -> NDArray[np.float64]:
        """Days since each client's first event, float64 [C]; NaN without one."""
        return self._pick(slice(None, None, -1))

    def _pick(self, order: slice) -> NDArray[np.float64]:
        ages = np.full(self.n_clients, np.nan)
        ages[self.client[order]] = self.age[order]  # of several values for one position numpy keeps the last
        return ages


def divide(upper: NDArray[Any], lower: NDArray[Any]) -> NDArray[np.float64]:
    """The quotients, NaN where ``lower`` is 0."""
    return np.divide(upper, lower, out=np.full(len(upper), np.nan), where=lower != 0)


def keep_last_events(rows: pa.Table) -> pa.Table:
    """The rows without all but the last ``MAX_EVENTS`` of each client."""
    _, client, n_events = np.unique(rows.column(CLIENT_ID).to_numpy(), return_inverse=True, return_counts=True)
    if n_events.max(initial=0) <= MAX_EVENTS:
        return rows
    order = _event_order(rows, client)
    n_later = np.cumsum(n_events)[client[order]] - 1 - np.arange(len(order))
    return rows.take(pa.array(order[n_later < MAX_EVENTS]))


def split_by_clients(rows: pa.Table, most_rows: int) -> Iterator[pa.Table]:
    """Tables of all rows of some clients each, by rising client; of ``most_rows``, and those of one client more."""
    _, client, n_events = np.unique(rows.column(CLIENT_ID).to_numpy(), return_inverse=True, return_counts=True)
    part = (np.cumsum(n_events) - 1) // most_rows
    order = np.argsort(part[client], kind="stable")
    ends = np.cumsum(np.bincount(part[client]))
    for start, end in zip([0, *ends], ends, strict=False):
        if start < end:
            yield rows.take(pa.array(order[start:end]))


def build_log(rows: pa.Table, behaviours: Sequence[str], cutoff: int) -> ClientLog:
    """All events of some clients as a log, the same for any order of the rows.

    Parameters
    ----------
    rows : of ``LOG_DDL``, all before the cutoff
    cutoff : microseconds since 1970
    """
    client_ids, client = np.unique(rows.column(CLIENT_ID).to_numpy(), return_inverse=True)
    order = _event_order(rows, client)
    rows, client = rows.take(pa.array(order)), client[order]
    time = rows.column(TIMESTAMP).to_numpy().view(np.int64)
    # null becomes NaN
    numbers = {name: rows.column(name).to_numpy() for name in (POPULARITY, CATEGORY_POPULARITY, CATEGORY_PRICE)}
    return ClientLog(
        behaviours=tuple(behaviours),
        client_ids=client_ids,
        client=client,
        time=time,
        age=(cutoff - time) / MICROSECONDS_PER_DAY,
        kind=rows.column(BEHAVIOUR).to_numpy().astype(np.int64),
        cluster=rows.column(CLUSTER).fill_null(-1).to_numpy().astype(np.int64),
        price=rows.column(PRICE).to_numpy(),
        items=Pairs.of(client, rows.column(ITEM)),
        categories=Pairs.of(client, rows.column(CATEGORY)),
        days=Pairs.of(client, pa.chunked_array([time // MICROSECONDS_PER_DAY])),
        **numbers,
    )


def _event_order(rows: pa.Table, client: NDArray[np.int64]) -> NDArray[np.int64]:
    """Rows by client and time, then behaviour and item: of events that tie on all, one is as good as the other."""
    time, kind, item = (rows.column(name) for name in (TIMESTAMP, BEHAVIOUR, ITEM))
    return np.lexsort((item.fill_null(0).to_numpy(), kind.to_numpy(), time.to_numpy().view(np.int64), client))
