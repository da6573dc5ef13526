"""When a block of clients visits, and what it looks at, drawn without a loop over clients or events."""

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from conf.synthetic import ShopSettings
from jobs.synthetic.blocks import HOURS, SECONDS_PER_DAY
from jobs.synthetic.shop.catalogue import Catalogue
from jobs.synthetic.shop.clients import Clients, Days

CONTINUES = 0.45
"""Chance that a session goes on with the thread of the one before."""
_BOUNCES = 0.2  # share of sessions that see no product
_VIEWS_END = 0.4  # chance after each product page that it was the last
_MOST_VIEWS = 20
_FOLLOWS_COMPANION = 0.5  # chance that the next product is the companion; else a fresh draw
_STRAYS = 0.15  # chance that a fresh draw is of any category, not the thread's
_OTHER_PAGES = 1.2  # mean per session
_PAGES_MISLEAD = 0.2  # chance that an other page is drawn as if the client's intent were the opposite
_SEES_CATEGORY, _SEARCHES = 0.6, 0.33
_HINTS = 0.7  # chance that a query is of the style of the thread's product
_PADDED = 0.2  # share of queries written with the numbers in columns
_FRESH_DAYS, _FRESH_BONUS = 14, 0.3  # so long after its launch a product counts as so much nearer in price
_STYLE_BONUS = 0.6  # a product of the client's style counts as so much nearer in price
_CANDIDATES = 8  # products considered for the one nearest in price
_HOUR_SPREAD = 1.5  # standard deviation of a client's own hours


@dataclass(frozen=True)
class Sessions:
    """S sessions ordered by client, then time.

    Attributes
    ----------
    client : int64 [S], row in the block's ``Clients``
    second : int64 [S], the start
    following : int64 [S], the client's next session, its own position where there is none
    depth : int64 [S], sessions of the same thread before it
    seed : int64 [S], product that the session begins with
    has_intent : bool [S], whether the client is in a phase of intent
    n_pages : int64 [S], other pages before the category's page
    n_views : int64 [S], product pages
    pace : float64 [S], seconds per step
    """

    client: np.ndarray
    second: np.ndarray
    following: np.ndarray
    depth: np.ndarray
    seed: np.ndarray
    has_intent: np.ndarray
    n_pages: np.ndarray
    n_views: np.ndarray
    pace: np.ndarray

    def time_of(self, session: np.ndarray, step: np.ndarray | float, fraction: np.ndarray | float) -> np.ndarray:
        """Second at which a session is ``fraction`` of the way through a step: int64, the arguments' shape."""
        return self.second[session] + ((step + fraction) * self.pace[session]).astype(np.int64)

    @property
    def first_view_step(self) -> np.ndarray:
        """Step of the first product page: the category's page and the search come just before."""
        return self.n_pages + 2

    @property
    def end_step(self) -> np.ndarray:
        """Step after the last product page."""
        return self.first_view_step + self.n_views

    @property
    def day(self) -> np.ndarray:
        """Of the start, from 0: int64 [S]."""
        return self.second // SECONDS_PER_DAY

    def first_from(self, client: np.ndarray, second: np.ndarray) -> np.ndarray:
        """Each client's first session that begins at a time or later: int64, -1 where there is none."""
        # client and time as one number, which rises as sessions are ordered: one search for all clients
        beyond = 2 * max(int(self.second.max(initial=0)), int(second.max(initial=0))) + 2
        found = np.searchsorted(self.client * beyond + self.second, client * beyond + second)
        is_own = np.append(self.client, -1)[found] == client
        return np.where(is_own, found, -1)


Rows = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Session, second and item of some events."""


def draw_sessions(
    rng: Generator, days: Days, clients: Clients, catalogue: Catalogue, settings: ShopSettings
) -> Sessions:
    """The sessions that the clients' days say, each with its thread."""
    client, day = np.nonzero(days.n_sessions)
    client, day = (np.repeat(values, days.n_sessions[client, day]) for values in (client, day))
    common = rng.choice(24, len(day), p=HOURS / HOURS.sum())
    own = (rng.normal(clients.hour[client], _HOUR_SPREAD) % 24).astype(np.int64)
    hour = np.where(rng.random(len(day)) < settings.habit_share, own, common)
    second = day * SECONDS_PER_DAY + hour * 3600 + rng.integers(0, 3600, len(day))
    order = np.lexsort((second, client))
    client, day, second = client[order], day[order], second[order]

    position = np.arange(len(client))
    is_first = np.diff(client, prepend=-1) != 0
    begins = is_first | (rng.random(len(client)) >= CONTINUES)
    start = np.maximum.accumulate(np.where(begins, position, 0))
    interest, has_intent = (
        np.stack([getattr(chain, name) for chain in days.chains], axis=1)[client, day]
        for name in ("interest", "has_intent")
    )
    # each session draws a product, and takes that of the session which began its thread
    seed = draw_near_taste(rng, interest, day, client, clients, catalogue)[start]
    return Sessions(
        client=client,
        second=second,
        following=np.where(np.append(is_first[1:], True), position, position + 1),
        depth=position - start,
        seed=_follow_companions(seed, position - start, day[start], catalogue),
        has_intent=has_intent,
        n_pages=rng.poisson(_OTHER_PAGES, len(client)),
        n_views=np.where(
            rng.random(len(client)) < _BOUNCES, 0, np.minimum(rng.geometric(_VIEWS_END, len(client)), _MOST_VIEWS)
        ),
        pace=rng.uniform(20.0, 70.0, len(client)),
    )


def draw_near_taste(
    rng: Generator, category: np.ndarray, day: np.ndarray, client: np.ndarray, clients: Clients, catalogue: Catalogue
) -> np.ndarray:
    """A product of each category: of a few drawn by popularity and launched by the day, the nearest to the taste.

    Nearest in price to the client's level, where its style and, for those whom novelties attract, products of the last
    days count as nearer.
    """
    candidates = catalogue.draw_products(rng, np.repeat(category[:, None], _CANDIDATES, axis=1))
    distance = np.abs(catalogue.price[candidates] / 100 - clients.price_level[client][:, None])
    age = day[:, None] - catalogue.launch_day[candidates]
    is_fresh = (catalogue.launch_day[candidates] > 0) & (age < _FRESH_DAYS)
    distance -= _FRESH_BONUS * clients.novelty[client][:, None] * is_fresh
    distance -= _STYLE_BONUS * (catalogue.style[candidates] == clients.style[client][:, None])
    distance = np.where(age < 0, np.inf, distance)
    nearest = np.argmin(distance, axis=1)
    rows = np.arange(len(category))
    is_launched = np.isfinite(distance[rows, nearest])
    # where none of the few is launched yet, the category's first product, which always is
    return np.where(is_launched, candidates[rows, nearest], catalogue.first[category])


def _follow_companions(product: np.ndarray, n_steps: np.ndarray, day: np.ndarray, catalogue: Catalogue) -> np.ndarray:
    """The product reached by going from companion to companion; it stays where the next is not yet launched."""
    for step in range(n_steps.max(initial=0)):
        onward = np.flatnonzero(n_steps > step)
        companion = catalogue.companion[product[onward]]
        is_launched = catalogue.launch_day[companion] <= day[onward]
        product[onward] = np.where(is_launched, companion, product[onward])
    return product


def draw_views(rng: Generator, sessions: Sessions, clients: Clients, catalogue: Catalogue) -> Rows:
    """Session, step and product of each product page: the companion of the one before, or a fresh draw."""
    product, day = sessions.seed.copy(), sessions.day
    views = []
    for ordinal in range(sessions.n_views.max(initial=0)):
        session = np.flatnonzero(sessions.n_views > ordinal)
        if ordinal > 0:
            any_category = rng.integers(0, len(catalogue.category_id), len(session))
            strays = rng.random(len(session)) < _STRAYS
            category = np.where(strays, any_category, catalogue.category[sessions.seed[session]])
            fresh = draw_near_taste(rng, category, day[session], sessions.client[session], clients, catalogue)
            companion = catalogue.companion[product[session]]
            follows = rng.random(len(session)) < _FOLLOWS_COMPANION
            is_launched = catalogue.launch_day[companion] <= day[session]
            product[session] = np.where(follows & is_launched, companion, fresh)
        views.append((session, sessions.first_view_step[session] + ordinal, product[session]))
    return concatenate(views)


def visit_other_pages(rng: Generator, sessions: Sessions, catalogue: Catalogue) -> list[Rows]:
    """Pages that show no product: other pages, then the category's."""
    session = np.repeat(np.arange(len(sessions.client)), sessions.n_pages)
    # 0, 1, ... in each session
    step = np.arange(len(session)) - np.repeat(np.cumsum(sessions.n_pages) - sessions.n_pages, sessions.n_pages)
    # the cube favours the first pages; rest turns the order around, so that pages tell intent from rest
    page = (len(catalogue.other_url) * rng.random(len(session)) ** 3).astype(np.int64)
    is_reversed = sessions.has_intent[session] == (rng.random(len(session)) < _PAGES_MISLEAD)
    page = np.where(is_reversed, len(catalogue.other_url) - 1 - page, page)
    category_session = np.flatnonzero(rng.random(len(sessions.client)) < _SEES_CATEGORY)
    category = catalogue.category[sessions.seed[category_session]]
    category_second = sessions.time_of(category_session, sessions.n_pages[category_session], 0.2)
    return [
        (session, sessions.time_of(session, step, 0.3 * rng.random(len(session))), catalogue.other_url[page]),
        (category_session, category_second, catalogue.category_url[category]),
    ]


def search(rng: Generator, sessions: Sessions, catalogue: Catalogue, settings: ShopSettings) -> Rows:
    """Queries before the first product page, of its category and mostly of its style."""
    session = np.flatnonzero(rng.random(len(sessions.client)) < _SEARCHES)
    seed = sessions.seed[session]
    hinted = rng.random(len(session)) < _HINTS
    any_style = rng.integers(0, settings.queries_per_category, len(session))
    within = np.where(hinted, catalogue.style[seed], any_style)
    query = catalogue.category[seed] * settings.queries_per_category + within
    in_columns = (rng.random(len(session)) < _PADDED) * (len(catalogue.query) // 2)
    return session, sessions.time_of(session, sessions.n_pages[session] + 1, 0.2), query + in_columns


def concatenate(parts: list[Rows]) -> Rows:
    """The rows of all parts; of none too."""
    nothing = np.empty(0, dtype=np.int64)
    first, second, third = (np.concatenate(column) for column in zip((nothing, nothing, nothing), *parts, strict=True))
    return first, second, third
