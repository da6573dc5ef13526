"""The definitions of the block ``counters``, one row per family of columns; ``docs/counters.md`` is made of them:

    python -m jobs.blocks.counter_table > docs/counters.md

The 41 numbers of a window and the 47 weighted ones of a behaviour stand for those of the 4th place of RecSys Challenge
2025, which says how many there are and of what kind, not which; trends and popularity are among the 37 of the 2nd.
"""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from conf.inputs import BehaviourSettings
from conf.load import load_config
from jobs.blocks import counter_aggregates as a
from jobs.transforms.client_log import ClientLog
from schemas.behaviours import ADD_TO_CART, PAGE_VISIT, PRODUCT_BUY, REMOVE_FROM_CART, SEARCH_QUERY, ItemKind
from schemas.blocks import ALL
from schemas.columns import CATEGORY, NAME, PRICE, SKU

WINDOW_DAYS = (7, 14, 28, 60, None)
"""Windows end at the cutoff; None is all of a client's events."""
TREND_DAYS = (7, 30)
QUARTILES = (25, 50, 75)


class Of(StrEnum):
    """Which behaviours a family has a column for."""

    ALL = "all events"
    EACH = "each behaviour"
    EACH_AND_ALL = "each behaviour, all events"
    SKUS = "each behaviour on skus"
    OTHERS = "each other behaviour"
    IDS = "each other behaviour on ids"


class Missing(StrEnum):
    """What stands for a client that has nothing to count."""

    ZERO = "0"
    MEAN = "mean"
    AGE = "days since the client's first event"


@dataclass(frozen=True)
class Family:
    """Columns that differ by behaviour, window and one more value.

    Attributes
    ----------
    name : of a column; {0} and {1} are behaviours, {value} the value
    aggregate : takes a log, the value if there is one, the behaviours if there are some
    of : which behaviours; or, for each column, the names of those that it is made of
    is_log : sign(x) log(1 + abs(x)) is taken: counts, sums, ratios and gaps have heavy tails
    needs : a column of the products, without which there is nothing to count
    """

    name: str
    aggregate: Callable[..., NDArray[np.float64]]
    of: Of | tuple[tuple[str, ...], ...]
    is_log: bool = True
    missing: Missing = Missing.ZERO
    values: Sequence[int] = ()
    needs: str | None = None

    @property
    def about(self) -> str:
        """What the number is."""
        return (self.aggregate.__doc__ or "").strip().rstrip(".")

    def behaviours(self, configured: Mapping[str, BehaviourSettings]) -> list[tuple[str, ...]]:
        """Those of each column; empty for all events."""
        if isinstance(self.of, tuple):
            return list(self.of)
        of_skus: list[tuple[str, ...]] = [(name,) for name, of in configured.items() if of.item == SKU]
        each: list[tuple[str, ...]] = [(name,) for name in configured]
        others = [one for one in each if one not in of_skus]
        found: dict[Of, list[tuple[str, ...]]] = {
            Of.ALL: [()],
            Of.EACH: each,
            Of.EACH_AND_ALL: [*each, ()],
            Of.SKUS: of_skus,
            Of.OTHERS: others,
            Of.IDS: [one for one in others if configured[one[0]].kind == ItemKind.ID],
        }
        return found[self.of]


@dataclass(frozen=True)
class Counter:
    """One column.

    Attributes
    ----------
    behaviours : whose events are counted; empty for all
    value : what ``family.aggregate`` takes besides, if anything
    n_days : of the window; None for all of a client's events
    """

    family: Family
    behaviours: tuple[str, ...]
    value: tuple[int, ...]
    n_days: int | None

    @property
    def name(self) -> str:
        """Such as ``product_buy/7d/events``."""
        window = ALL if self.n_days is None else f"{self.n_days}d"
        value = self.value[0] if self.value else None
        return self.family.name.format(*(self.behaviours or (ALL,)), window=window, value=value)

    def compute(self, log: ClientLog) -> NDArray[np.float64]:
        """The number of each client, float64 [C]; NaN where it is missing."""
        numbers = self.family.aggregate(log.since(self.n_days), *self.value, *self.behaviours)
        return np.copysign(np.log1p(np.abs(numbers)), numbers) if self.family.is_log else numbers


BUYS = ((PRODUCT_BUY,),)
ADDED_AND_BOUGHT = ((ADD_TO_CART, PRODUCT_BUY),)
RATIOS = (
    (PRODUCT_BUY, ADD_TO_CART),
    (REMOVE_FROM_CART, ADD_TO_CART),
    (ADD_TO_CART, PAGE_VISIT),
    (PRODUCT_BUY, PAGE_VISIT),
    (SEARCH_QUERY, PAGE_VISIT),
)
"""Of the first to the second."""

IN_WINDOWS = (
    Family("{0}/{window}/events", a.n_events, Of.EACH_AND_ALL),
    Family("{0}/{window}/days", a.n_days, Of.EACH_AND_ALL),
    Family("{0}/{window}/skus", a.n_items, Of.SKUS),
    Family("{0}/{window}/categories", a.n_categories, Of.SKUS, needs=CATEGORY),
    Family("{0}/{window}/items", a.n_items, Of.OTHERS),
    Family("{0}/{window}/mean_price", a.mean_price, Of.SKUS, False, Missing.MEAN, needs=PRICE),
    Family("{0}/{window}/price_deviation", a.deviation_of_price, Of.SKUS, False, Missing.MEAN, needs=PRICE),
    Family("{0}/{window}/max_price", a.max_price, BUYS, False, Missing.MEAN, needs=PRICE),
    Family("{0}/{window}/min_price", a.min_price, BUYS, False, Missing.MEAN, needs=PRICE),
    Family("{0}/{window}/price_sum", a.sum_price, BUYS, needs=PRICE),
    Family("{0}/{window}/per_{1}", a.ratio, RATIOS),
    Family("{0}/{window}/sku_share_of_{1}", a.share_of_items_bought, ADDED_AND_BOUGHT, False),
    Family("{0}/{window}/category_share_of_{1}", a.share_of_categories_bought, ADDED_AND_BOUGHT, False, needs=CATEGORY),
    Family("{0}/{window}/mean_gap", a.mean_gap, BUYS, True, Missing.MEAN),
    Family("{0}/{window}/mean_gap_hours", a.mean_gap_in_hours, Of.ALL, True, Missing.MEAN),
    Family("{0}/{window}/sessions", a.n_sessions, Of.ALL),
    Family("{0}/{window}/events_per_day", a.events_per_day, Of.ALL, True, Missing.MEAN),
    Family("{0}/{window}/category_entropy", a.category_entropy, Of.ALL, False, needs=CATEGORY),
)
"""Of each window: 41 columns for the challenge's behaviours."""

WEIGHTED = (
    Family("{0}/cluster_{value}", a.weight_of_cluster, Of.SKUS, values=range(a.N_CLUSTERS), needs=NAME),
    Family("{0}/price_group_{value}", a.weight_of_price_group, Of.SKUS, values=range(a.N_PRICE_GROUPS), needs=PRICE),
    Family("{0}/weighted_events", a.weighted_count, Of.SKUS),
    Family("{0}/weighted_mean_price", a.weighted_mean_price, Of.SKUS, False, Missing.MEAN, needs=PRICE),
    Family("{0}/cluster_entropy", a.cluster_entropy, Of.SKUS, False, needs=NAME),
    Family("{0}/price_entropy", a.price_entropy, Of.SKUS, False, needs=PRICE),
    Family("{0}/days_since_last", a.days_since_last, Of.SKUS, True, Missing.AGE),
)
"""47 columns for a behaviour on skus; an event weighs 2^(-age / 14 d)."""

RHYTHM = (
    Family("{0}/days_since_last", a.days_since_last, Of.OTHERS, True, Missing.AGE),
    Family("{0}/days_since_last", a.days_since_last, Of.ALL, True, Missing.AGE),
    Family("{0}/days_since_first", a.days_since_first, Of.EACH_AND_ALL, True, Missing.MEAN),
    Family("{0}/mean_day_gap", a.mean_day_gap, Of.EACH_AND_ALL, True, Missing.MEAN),
    Family("{0}/median_day_gap", a.median_day_gap, Of.EACH_AND_ALL, True, Missing.MEAN),
    Family("{0}/silence_in_mean_gaps", a.silence_in_mean_gaps, Of.EACH_AND_ALL, True, Missing.MEAN),
    Family("{0}/silence_in_median_gaps", a.silence_in_median_gaps, Of.EACH_AND_ALL, True, Missing.MEAN),
    Family("{0}/poisson_silence", a.poisson_silence, Of.EACH_AND_ALL, False, Missing.MEAN),
    Family("{0}/bg_nbd_alive", a.bg_nbd_alive, Of.EACH_AND_ALL, False, Missing.MEAN),
    Family("{0}/trend_{value}d", a.trend, Of.EACH_AND_ALL, values=TREND_DAYS),
    Family("{0}/weeks", a.n_weeks, Of.EACH_AND_ALL),
    Family("{0}/months", a.n_months, Of.EACH_AND_ALL),
    Family("{0}/weekday_{value}", a.weekday_share, Of.ALL, False, values=range(a.DAYS_PER_WEEK)),
    Family("{0}/hour_{value}", a.hour_share, Of.ALL, False, values=range(a.HOURS_PER_DAY)),
)

TASTE = (
    Family("{0}/price_quantile_{value}", a.price_quantile, Of.SKUS, False, Missing.MEAN, values=QUARTILES, needs=PRICE),
    Family("{0}/price_above_category", a.price_above_category, Of.SKUS, False, Missing.MEAN, needs=PRICE),
    Family("{0}/mean_popularity", a.mean_popularity, Of.SKUS, False, Missing.MEAN),
    Family("{0}/mean_category_popularity", a.mean_category_popularity, Of.SKUS, False, Missing.MEAN, needs=CATEGORY),
    Family("{0}/mean_popularity", a.mean_popularity, Of.IDS, False, Missing.MEAN),
)

GROUPS = {
    "In windows of 7, 14, 28, 60 days, and in all": (IN_WINDOWS, WINDOW_DAYS),
    "Weighted by exp2(-age / 14 days)": (WEIGHTED, (None,)),
    "A client's own rhythm": (RHYTHM, (None,)),
    "Prices and popularity": (TASTE, (None,)),
}
"""Title -> the families, and the windows that each has."""

INTRODUCTION = """
Made by `python -m jobs.blocks.counter_table > docs/counters.md`; do not edit.

The block `counters` has {n_columns} columns for the challenge's five behaviours; the stage `counters` makes it where
`ensemble.blocks` names it. All events lie before the cutoff; of a client with more than 200,000, the last ones count.

- WINDOW is `7d`, `14d`, `28d`, `60d` or `all`; a window of w days is cutoff - w <= time < cutoff.
- BEHAVIOUR is one of the behaviours; *on skus* are those whose item is a `sku`.
- *log*: sign(x) log(1 + abs(x)) is taken. Then each column is standardised over the clients that have events, and
  clipped to ±10.
- *without*: what stands for a client that has nothing to count; `mean` is the mean of those that have.
- Prices are the challenge's, 0 to 99. Clusters of names are found by k-means (Spark MLlib, 32 clusters) on the 16 codes
  of the products that have events.

A client without any event is not present. A column that is the same for all clients, as those of a behaviour without
events, of prices where there are none, or of names, is left out with a line in the log.
"""


def list_counters(behaviours: Mapping[str, BehaviourSettings]) -> Iterator[Counter]:
    """Every column of the table, in the block's order; also those of behaviours that the configuration lacks."""
    for families, windows in GROUPS.values():
        for n_days in windows:
            for family in families:
                for own in family.behaviours(behaviours):
                    for value in family.values or (None,):
                        yield Counter(family, own, () if value is None else (value,), n_days)


def describe_counters() -> str:
    """The page ``docs/counters.md``, for the behaviours of ``conf/default.yaml``."""
    behaviours = load_config().behaviours
    n_columns = len(list(list_counters(behaviours)))
    lines = ["# Counters", "", *INTRODUCTION.format(n_columns=n_columns).strip().split("\n")]
    for title, (families, windows) in GROUPS.items():
        head = "| column | of | columns | number | log | without |"
        lines += ["", f"## {title}", "", head, "|---|---|---|---|---|---|"]
        for family in families:
            own = family.behaviours(behaviours)
            n_own = len(own) * len(windows) * max(1, len(family.values))
            named = ", ".join(" and ".join(f"`{name}`" for name in names) for names in own)
            of = family.of if isinstance(family.of, Of) else named
            span = f"{family.values[0]}..{family.values[-1]}" if len(family.values) > 3 else "VALUE"
            first = ALL if of is Of.ALL else "BEHAVIOUR"
            name = family.name.format(first, "OTHER", window="WINDOW", value=span)
            lines.append(
                f"| `{name}` | {of} | {n_own} | {family.about} | {'yes' if family.is_log else ''} | {family.missing} |"
            )
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    sys.stdout.write(describe_counters())
