"""The published figures of the challenge's data set, and the tables of counts that meet them at any size.

Sources: "RecSys Challenge 2025" (https://recsys.synerise.com, data set 1) for rows, users and shares; the report
"Ensemble BERT4Rec for the RecSys 2025 Challenge" for the sizes of its vocabularies. What is marked *ours* is
published nowhere.
"""

from dataclasses import dataclass

from jobs.synthetic.benchmark_log.counts import CountTable, fit_rounding, fit_tail
from schemas.behaviours import ADD_TO_CART, PAGE_VISIT, PRODUCT_BUY, REMOVE_FROM_CART, SEARCH_QUERY


@dataclass(frozen=True)
class Sizes:
    """How much of everything a data set has.

    Attributes
    ----------
    n_rows : behaviour -> events
    n_skus : products that exist, bought or not
    n_urls, n_queries : distinct ones that occur
    """

    n_rows: dict[str, int]
    n_clients: int
    n_skus: int
    n_categories: int
    n_urls: int
    n_queries: int

    @property
    def n_events(self) -> int:
        """Events of all behaviours."""
        return sum(self.n_rows.values())


PUBLISHED = Sizes(
    n_rows={
        PRODUCT_BUY: 1_682_296,
        ADD_TO_CART: 5_235_882,
        REMOVE_FROM_CART: 1_697_891,
        PAGE_VISIT: 150_713_186,
        SEARCH_QUERY: 9_571_258,
    },
    n_clients=18_889_063,
    n_skus=1_260_000,
    n_categories=6_774,
    n_urls=12_650_000,
    n_queries=2_390_000,  # the larger item table of the report: 612 M weights, 256 each
)
BEHAVIOURS = tuple(PUBLISHED.n_rows)
N_RELEVANT = 1_000_000
MEDIAN, P90, P99, MAXIMUM = 2, 18, 119, 36_004
"""Events per user."""
MEAN_AS_STATED = 9.4
"""Events per user in the published text; the published counts give 8.94, which is what a log meets."""
NEVER_BOUGHT, BOUGHT_OVER_10 = 0.576, 0.0188
"""Shares of skus."""
N_FREQUENT_URLS, FREQUENT = 1_300_000, 5
"""Urls that are visited so often or more: the report's vocabulary."""

_BOUGHT = {1: 1 - NEVER_BOUGHT, 11: BOUGHT_OVER_10}
_ITEMS = {
    PRODUCT_BUY: _BOUGHT,
    ADD_TO_CART: {1: 0.68},  # ours
    REMOVE_FROM_CART: _BOUGHT,  # ours: about as many rows as purchases
    PAGE_VISIT: {1: 1.0, 2: 0.37, FREQUENT: N_FREQUENT_URLS / PUBLISHED.n_urls},  # 2: ours
    SEARCH_QUERY: {1: 1.0, 2: 0.4},  # 2: ours
}


def scale_sizes(n_events: int) -> Sizes:
    """The published sizes times ``n_events`` over the published number of events; the rows sum to ``n_events``."""
    ratio = n_events / PUBLISHED.n_events
    n_rows = {behaviour: round(count * ratio) for behaviour, count in PUBLISHED.n_rows.items()}
    n_rows[PAGE_VISIT] += n_events - sum(n_rows.values())  # what rounding left over shows least there
    others = {name: max(1, round(count * ratio)) for name, count in vars(PUBLISHED).items() if name != "n_rows"}
    return Sizes(n_rows=n_rows, **others)


def client_counts(sizes: Sizes) -> CountTable:
    """Events per client: everyone has one; mean, median, p90, p99 as published, the maximum as size allows."""
    shares = {1: 1.0, MEDIAN: 0.5, 6: 0.24, P90: 0.1, P99: 0.01, 1_000: 1.5e-4, MAXIMUM: 0.5 / PUBLISHED.n_clients}
    # 6 and 1,000 are ours: straight pieces between the published quantiles give a mean above the published one
    return fit_rounding(sizes.n_clients, sizes.n_events, shares)


def item_counts(behaviour: str, sizes: Sizes) -> CountTable:
    """Events of a behaviour per item: sku, url or query."""
    n_urls_or_queries = {PAGE_VISIT: sizes.n_urls, SEARCH_QUERY: sizes.n_queries}
    n_items = n_urls_or_queries.get(behaviour, sizes.n_skus)
    return fit_tail(n_items, sizes.n_rows[behaviour], _ITEMS[behaviour])


def category_counts(sizes: Sizes) -> CountTable:
    """Skus per category; the spread is *ours*."""
    return fit_tail(sizes.n_categories, sizes.n_skus, {1: 1.0, 2: 0.95})
