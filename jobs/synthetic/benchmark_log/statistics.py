"""How near a written benchmark log comes to the published figures."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from jobs.synthetic.benchmark_log import marginals as m
from schemas import columns as c
from schemas.behaviours import PAGE_VISIT, PRODUCT_BUY
from schemas.tables import PRODUCT_PROPERTIES


@dataclass(frozen=True)
class Statistic:
    """A figure of the challenge's data set, scaled to the log's size if it grows with it, and the log's own."""

    name: str
    target: float
    made: float

    @property
    def ratio(self) -> float:
        """Made over target."""
        return self.made / self.target


@dataclass(frozen=True)
class Histogram:
    """``n_things`` int64 [K] things have ``count`` int64 [K] events each; ``count`` rises."""

    count: np.ndarray
    n_things: np.ndarray

    @property
    def total(self) -> int:
        """Things that have an event."""
        return int(self.n_things.sum())

    def quantile(self, share: float) -> int:
        """The smallest count that this share of the things does not exceed."""
        return int(self.count[np.searchsorted(np.cumsum(self.n_things), share * self.total)])

    def n_with(self, least: int) -> int:
        """Things that have so many events or more."""
        return int(self.n_things[self.count >= least].sum())


def collect_statistics(sources: Mapping[str, DataFrame], clients: DataFrame, n_relevant: int) -> list[Statistic]:
    """Published and made figures, in the order of the table.

    Parameters
    ----------
    sources : name -> rows of the written file, for the five behaviours and ``product_properties``
    clients : one row per event of any behaviour, with its ``client_id``
    """
    n_rows = {behaviour: sources[behaviour].count() for behaviour in m.BEHAVIOURS}
    n_events = sum(n_rows.values())
    sizes, ratio = m.scale_sizes(n_events), n_events / m.PUBLISHED.n_events
    users = collect_histogram(clients, c.CLIENT_ID)
    urls = collect_histogram(sources[PAGE_VISIT], c.URL)
    bought = collect_histogram(sources[PRODUCT_BUY], c.SKU)
    products = sources[PRODUCT_PROPERTIES.name]
    n_skus, n_categories = products.agg(F.count_distinct(c.SKU), F.count_distinct(c.CATEGORY)).collect()[0]
    per_user, mean = "events per user", n_events / users.total
    figures = [
        *((f"rows, {behaviour}", sizes.n_rows[behaviour], n_rows[behaviour]) for behaviour in m.BEHAVIOURS),
        ("users", sizes.n_clients, users.total),
        (f"{per_user}, mean (by the counts)", m.PUBLISHED.n_events / m.PUBLISHED.n_clients, mean),
        (f"{per_user}, mean (as stated)", m.MEAN_AS_STATED, mean),
        (f"{per_user}, median", m.MEDIAN, users.quantile(0.5)),
        (f"{per_user}, p90", m.P90, users.quantile(0.9)),
        (f"{per_user}, p99", m.P99, users.quantile(0.99)),
        (f"{per_user}, maximum (at full size)", m.MAXIMUM, int(users.count[-1])),
        ("skus", sizes.n_skus, n_skus),
        ("skus never bought, share", m.NEVER_BOUGHT, 1 - bought.total / n_skus),
        ("skus bought > 10 times, share", m.BOUGHT_OVER_10, bought.n_with(11) / n_skus),
        ("categories", sizes.n_categories, n_categories),
        ("urls", sizes.n_urls, urls.total),
        (f"urls visited >= {m.FREQUENT} times", round(m.N_FREQUENT_URLS * ratio), urls.n_with(m.FREQUENT)),
        ("relevant clients", round(m.N_RELEVANT * ratio), n_relevant),
    ]
    return [Statistic(*figure) for figure in figures]


def format_statistics(statistics: Iterable[Statistic]) -> list[str]:
    """The table, a line each: name, target, made, ratio."""
    head = f"{'':<40}{'target':>14}{'made':>14}{'ratio':>8}"
    return [head, *(f"{s.name:<40}{_format(s.target):>14}{_format(s.made):>14}{s.ratio:>8.3f}" for s in statistics)]


def _format(value: float) -> str:
    return f"{value:,.0f}" if value == round(value) else f"{value:,.4f}"


def collect_histogram(events: DataFrame, column: str) -> Histogram:
    """How many values of the column occur how often: a row per frequency reaches the driver, not one per value."""
    frequencies = events.groupBy(column).agg(F.count("*").alias("n"))
    rows = frequencies.groupBy("n").agg(F.count("*").alias("n_things")).orderBy("n").collect()
    return Histogram(*(np.array([row[name] for row in rows], dtype=np.int64) for name in ("n", "n_things")))
