"""What the shop sells and shows: products, categories, pages, queries."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.random import Generator

from conf.synthetic import ShopSettings
from schemas.behaviours import CODES_PER_QUERY

_POPULARITY_EXPONENT = 0.8
_STYLE_SPREAD = 30.0  # standard deviation of a style's codes around a category's, of 256
_CODE_NOISE = 12.0  # of a name's or a query's around its style's
_CYCLE_DAYS = 20.0  # median over categories of the days in which a product is used up
_COMPANION_ELSEWHERE = 0.15  # share of companions that lie in the next category


@dataclass(frozen=True)
class Catalogue:
    """The shop's products [P], categories [C], other pages [U] and queries [C * Q], each named by its position.

    Attributes
    ----------
    sku, price, name : int64 [P], int64 [P] (quantile bucket 0-99), str [P]
    category : int64 [P], position of the category, never falling
    style : int64 [P], below Q: products of one style have names alike, in each category
    cycle_days : float64 [P], mean days in which it is used up; 0 for what lasts
    first : int64 [C + 1]; category c holds the products ``first[c]`` to ``first[c + 1]``, by falling popularity
    popularity : float64 [P + 1], weights of the products before, summed: a draw is a binary search
    launch_day : int64 [P], 0 for the first product of each category
    companion : int64 [P], position of the product that is looked at next
    next_category : int64 [C], a permutation
    category_id : int64 [C]
    product_url, category_url, other_url : int64 [P], [C], [U], all different
    query : str [2 * C * Q]; category c has ``c * Q`` to ``(c + 1) * Q``, one of each style. The second half holds the
        same queries with the numbers in columns, as numpy prints them
    """

    sku: np.ndarray
    price: np.ndarray
    name: np.ndarray
    category: np.ndarray
    style: np.ndarray
    cycle_days: np.ndarray
    first: np.ndarray
    popularity: np.ndarray
    launch_day: np.ndarray
    companion: np.ndarray
    next_category: np.ndarray
    category_id: np.ndarray
    product_url: np.ndarray
    category_url: np.ndarray
    other_url: np.ndarray
    query: np.ndarray

    def draw_products(self, rng: Generator, category: np.ndarray) -> np.ndarray:
        """One product of each given category, by popularity: int64, the shape of ``category``."""
        return self._draw_between(rng, self.first[category], self.first[category + 1])

    def draw_categories(self, rng: Generator, shape: tuple[int, ...]) -> np.ndarray:
        """Categories by the popularity of their products: int64 of the given shape."""
        everything = np.zeros(shape, dtype=np.int64)
        return self.category[self._draw_between(rng, everything, everything + len(self.sku))]

    def _draw_between(self, rng: Generator, start: np.ndarray, stop: np.ndarray) -> np.ndarray:
        low, high = self.popularity[start], self.popularity[stop]
        drawn = np.searchsorted(self.popularity, low + rng.random(start.shape) * (high - low), side="right") - 1
        # a draw that is rounded up to the end of the range would be of the product after it
        return np.clip(drawn, start, stop - 1)


@lru_cache(maxsize=1)  # a Python worker simulates many blocks of one shop
def build_catalogue(settings: ShopSettings) -> Catalogue:
    """The catalogue of a seed; the same settings give the same catalogue."""
    # the order of the draws is part of what a seed means: moved, a line makes another shop
    rng = np.random.default_rng([settings.seed, 0])
    n_products, n_categories = settings.n_products, settings.n_categories
    # half of the products are dealt evenly: no category stays empty
    least = n_products // (2 * n_categories)
    shares = rng.dirichlet(np.full(n_categories, 2.0))
    sizes = least + rng.multinomial(n_products - least * n_categories, shares)
    category, first = np.repeat(np.arange(n_categories), sizes), np.concatenate([[0], np.cumsum(sizes)])
    next_category = _cycle(rng, np.zeros(n_categories, dtype=np.int64))
    rank = np.arange(n_products) - first[category]  # in the category, 0 for the most popular
    category_weight = rng.permutation((1.0 + np.arange(n_categories)) ** -_POPULARITY_EXPONENT)
    weight = category_weight[category] * (1.0 + rank) ** -_POPULARITY_EXPONENT
    centres = rng.integers(0, 256, (n_categories, CODES_PER_QUERY))
    # a style moves the codes of every category alike: whoever reads them finds a client's style in a new category
    moves = rng.normal(0.0, _STYLE_SPREAD, (settings.queries_per_category, CODES_PER_QUERY))
    style = rank % settings.queries_per_category
    query_codes = _codes_near(rng, (centres[:, None] + moves).reshape(-1, CODES_PER_QUERY))
    urls = _ids(rng, n_products + n_categories + settings.n_other_pages)
    product_url, category_url, other_url = np.split(urls, [n_products, n_products + n_categories])
    sku = _ids(rng, n_products)
    # categories differ in their level of prices, products within them more
    prices = rng.normal(0.0, 0.6, n_categories)[category] + rng.normal(0.0, 1.0, n_products)
    name = _to_text(_codes_near(rng, centres[category] + moves[style]))
    # the first of each category is there from the first day: clients fall back on it (draw_near_taste)
    is_late = (rng.random(n_products) < settings.launched_share) & (rank > 0)
    launch_day = np.where(is_late, rng.integers(1, settings.n_days, n_products), 0)
    cycles = _CYCLE_DAYS * np.exp(0.5 * rng.normal(size=n_categories))
    cycles *= rng.random(n_categories) < settings.consumable_share
    onward = next_category[category]
    elsewhere = rng.integers(first[onward], first[onward + 1])
    is_elsewhere = rng.random(n_products) < _COMPANION_ELSEWHERE
    return Catalogue(
        sku=sku,
        # argsort twice ranks: bucket 0 to 99 of equal size
        price=prices.argsort().argsort() * 100 // n_products,
        name=name,
        category=category,
        style=style,
        cycle_days=cycles[category],
        first=first,
        popularity=np.concatenate([[0.0], np.cumsum(weight)]),
        launch_day=launch_day,
        companion=np.where(is_elsewhere, elsewhere, _cycle(rng, category)),
        next_category=next_category,
        category_id=_ids(rng, n_categories),
        product_url=product_url,
        category_url=category_url,
        other_url=other_url,
        query=np.concatenate([_to_text(query_codes), _to_text(query_codes, width=3)]),
    )


def _cycle(rng: Generator, group: np.ndarray) -> np.ndarray:
    """A random permutation of positions that is one cycle within each group (``group`` never falls)."""
    order = np.lexsort((rng.random(len(group)), group))  # shuffled within each group
    starts = np.flatnonzero(np.diff(group, prepend=-1))
    successor = np.roll(order, -1)
    # the last of a group leads back to its first, and not into the next group
    successor[np.append(starts[1:], len(group)) - 1] = order[starts]
    cycle = np.empty_like(order)
    cycle[order] = successor
    return cycle


def _codes_near(rng: Generator, centres: np.ndarray) -> np.ndarray:
    return np.clip(centres + rng.normal(0.0, _CODE_NOISE, centres.shape), 0, 255).astype(np.int64)


def _to_text(codes: np.ndarray, width: int = 1) -> np.ndarray:
    return np.array([f"[{' '.join(f'{code:{width}d}' for code in row)}]" for row in codes.tolist()], dtype=object)


def _ids(rng: Generator, count: int) -> np.ndarray:
    """Different ids in no order, with gaps."""
    return rng.permutation(np.cumsum(rng.integers(1, 20, count)))
