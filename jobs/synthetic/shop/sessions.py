"""What a block of clients does: every event of every session, drawn without a loop over clients or events."""

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from conf.synthetic import ShopSettings
from jobs.synthetic.blocks import HOURS, SECONDS_PER_DAY
from jobs.synthetic.shop.catalogue import Catalogue
from jobs.synthetic.shop.clients import Clients, draw_clients, simulate_days
from schemas.behaviours import ADD_TO_CART, PAGE_VISIT, PRODUCT_BUY, REMOVE_FROM_CART, SEARCH_QUERY

_CONTINUES = 0.45  # chance that a session goes on with the thread of the one before
_BOUNCES = 0.2  # share of sessions that see no product
_VIEWS_END = 0.4  # chance after each product page that it was the last
_MOST_VIEWS = 20
_FOLLOWS_COMPANION = 0.5  # chance that the next product is the companion; else a fresh draw
_STRAYS = 0.15  # chance that a fresh draw is of any category, not the thread's
_OTHER_PAGES = 1.2  # mean per session
_PAGES_MISLEAD = 0.2  # chance that an other page is drawn as if the client's intent were the opposite
_SEES_CATEGORY, _SEARCHES = 0.6, 0.33
_HINTS = 0.7  # chance that a query is the one that belongs to the thread's product
_PADDED = 0.2  # share of queries written with the numbers in columns
_FRESH_DAYS, _FRESH_BONUS = 14, 0.3  # so long after its launch a product counts as so much nearer in price
_CANDIDATES = 4  # products considered for the one nearest in price
_ADDS = 0.36  # chance to put a product into the cart: readiness 1, home category, price at the client's level
_ADDS_ELSEWHERE = 0.4  # times that outside the home categories
_ADDS_IN_THREAD = 1.6  # times that in a session that continues a thread
_BUYS_NOW, _BUYS_LATER, _REMOVES = 0.45, 0.32, 0.18  # what becomes of a product in the cart


@dataclass(frozen=True)
class Events:
    """E events of one behaviour, in no order.

    Attributes
    ----------
    client_id : int64 [E]
    second : int64 [E], since the shop's first midnight
    item : int64 [E], sku or url; of a search the position in ``Catalogue.query``
    """

    client_id: np.ndarray
    second: np.ndarray
    item: np.ndarray


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

    def time_of(self, session: np.ndarray, step: np.ndarray, fraction: np.ndarray | float) -> np.ndarray:
        """Second at which a session is ``fraction`` of the way through a step: int64, the arguments' shape."""
        return self.second[session] + ((step + fraction) * self.pace[session]).astype(np.int64)

    @property
    def first_view_step(self) -> np.ndarray:
        """Step of the first product page: the category's page and the search come just before."""
        return self.n_pages + 2


def simulate_block(block: int, catalogue: Catalogue, settings: ShopSettings) -> dict[str, Events]:
    """Every event of a block of clients, by behaviour; it depends on the settings and the block alone."""
    rng = np.random.default_rng([settings.seed, 1, block])
    start = block * settings.clients_per_block
    indices = np.arange(start, min(start + settings.clients_per_block, settings.n_clients))
    clients = draw_clients(rng, indices, catalogue)
    # every draw is from one generator: another order of these lines is another shop
    sessions = _draw_sessions(rng, clients, catalogue, settings)
    session, step, product = _draw_views(rng, sessions, clients, catalogue)
    view = sessions.time_of(session, step, 0.3 * rng.random(len(session)))

    visits = _visit_other_pages(rng, sessions, catalogue)
    visits.append((session, view, catalogue.product_url[product]))
    added = np.flatnonzero(rng.random(len(session)) < _chance_to_add(session, product, sessions, clients, catalogue))
    session, step, product = session[added], step[added], product[added]
    add = sessions.time_of(session, step, 0.5 + 0.3 * rng.random(len(session)))
    sku = catalogue.sku[product]
    buys, removes = _empty_carts(rng, sessions, session, add, sku)
    rows = {
        PRODUCT_BUY: buys,
        ADD_TO_CART: (session, add, sku),
        REMOVE_FROM_CART: removes,
        PAGE_VISIT: _concatenate(visits),
        SEARCH_QUERY: _search(rng, sessions, catalogue, settings),
    }
    events = {}
    for behaviour, (session, second, item) in rows.items():
        kept = second < settings.n_days * SECONDS_PER_DAY  # a session of the last day may end after it
        events[behaviour] = Events(clients.client_id[sessions.client[session[kept]]], second[kept], item[kept])
    return events


_Rows = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Session, second and item of some events."""


def _draw_sessions(rng: Generator, clients: Clients, catalogue: Catalogue, settings: ShopSettings) -> Sessions:
    n_sessions, interest, has_intent = simulate_days(rng, clients, catalogue, settings)
    client, day = np.nonzero(n_sessions)
    client, day = (np.repeat(values, n_sessions[client, day]) for values in (client, day))
    hour = rng.choice(24, len(day), p=HOURS / HOURS.sum())
    second = day * SECONDS_PER_DAY + hour * 3600 + rng.integers(0, 3600, len(day))
    order = np.lexsort((second, client))
    client, day, second = client[order], day[order], second[order]

    position = np.arange(len(client))
    is_first = np.diff(client, prepend=-1) != 0
    begins = is_first | (rng.random(len(client)) >= _CONTINUES)
    start = np.maximum.accumulate(np.where(begins, position, 0))
    seed = _draw_near_price(rng, interest[client, day], day, clients.price_level[client], catalogue)[start]
    return Sessions(
        client=client,
        second=second,
        following=np.where(np.append(is_first[1:], True), position, position + 1),
        depth=position - start,
        seed=_follow_companions(seed, position - start, day[start], catalogue),
        has_intent=has_intent[client, day],
        n_pages=rng.poisson(_OTHER_PAGES, len(client)),
        n_views=np.where(
            rng.random(len(client)) < _BOUNCES, 0, np.minimum(rng.geometric(_VIEWS_END, len(client)), _MOST_VIEWS)
        ),
        pace=rng.uniform(20.0, 70.0, len(client)),
    )


def _draw_near_price(
    rng: Generator, category: np.ndarray, day: np.ndarray, price_level: np.ndarray, catalogue: Catalogue
) -> np.ndarray:
    """A product of each category: of a few drawn by popularity and launched by the day, the nearest in price."""
    candidates = catalogue.draw_products(rng, np.repeat(category[:, None], _CANDIDATES, axis=1))
    distance = np.abs(catalogue.price[candidates] / 100 - price_level[:, None])
    age = day[:, None] - catalogue.launch_day[candidates]
    is_fresh = (catalogue.launch_day[candidates] > 0) & (age < _FRESH_DAYS)
    distance = np.where(age < 0, np.inf, distance - _FRESH_BONUS * is_fresh)
    nearest = np.argmin(distance, axis=1)
    rows = np.arange(len(category))
    is_launched = np.isfinite(distance[rows, nearest])
    return np.where(is_launched, candidates[rows, nearest], catalogue.first[category])


def _follow_companions(product: np.ndarray, n_steps: np.ndarray, day: np.ndarray, catalogue: Catalogue) -> np.ndarray:
    """The product reached by going from companion to companion; it stays where the next is not yet launched."""
    for step in range(n_steps.max(initial=0)):
        onward = np.flatnonzero(n_steps > step)
        companion = catalogue.companion[product[onward]]
        is_launched = catalogue.launch_day[companion] <= day[onward]
        product[onward] = np.where(is_launched, companion, product[onward])
    return product


def _draw_views(rng: Generator, sessions: Sessions, clients: Clients, catalogue: Catalogue) -> _Rows:
    """Session, step and product of each product page: the companion of the one before, or a fresh draw."""
    product = sessions.seed.copy()
    day = sessions.second // SECONDS_PER_DAY
    views = []
    for ordinal in range(sessions.n_views.max(initial=0)):
        session = np.flatnonzero(sessions.n_views > ordinal)
        if ordinal > 0:
            any_category = rng.integers(0, len(catalogue.category_id), len(session))
            strays = rng.random(len(session)) < _STRAYS
            category = np.where(strays, any_category, catalogue.category[sessions.seed[session]])
            price_level = clients.price_level[sessions.client[session]]
            fresh = _draw_near_price(rng, category, day[session], price_level, catalogue)
            companion = catalogue.companion[product[session]]
            follows = rng.random(len(session)) < _FOLLOWS_COMPANION
            is_launched = catalogue.launch_day[companion] <= day[session]
            product[session] = np.where(follows & is_launched, companion, fresh)
        views.append((session, sessions.first_view_step[session] + ordinal, product[session]))
    return _concatenate(views)


def _visit_other_pages(rng: Generator, sessions: Sessions, catalogue: Catalogue) -> list[_Rows]:
    """Pages that show no product: other pages, then the category's."""
    session = np.repeat(np.arange(len(sessions.client)), sessions.n_pages)
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


def _search(rng: Generator, sessions: Sessions, catalogue: Catalogue, settings: ShopSettings) -> _Rows:
    session = np.flatnonzero(rng.random(len(sessions.client)) < _SEARCHES)
    seed = sessions.seed[session]
    hinted = rng.random(len(session)) < _HINTS
    any_query = rng.integers(0, settings.queries_per_category, len(session))
    within = np.where(hinted, seed % settings.queries_per_category, any_query)
    query = catalogue.category[seed] * settings.queries_per_category + within
    in_columns = (rng.random(len(session)) < _PADDED) * (len(catalogue.query) // 2)
    return session, sessions.time_of(session, sessions.n_pages[session] + 1, 0.2), query + in_columns


def _chance_to_add(
    session: np.ndarray, product: np.ndarray, sessions: Sessions, clients: Clients, catalogue: Catalogue
) -> np.ndarray:
    client = sessions.client[session]
    is_home = (clients.homes[client] == catalogue.category[product][:, None]).any(axis=1)
    distance = np.abs(catalogue.price[product] / 100 - clients.price_level[client])
    chance = _ADDS * clients.readiness[client] * np.exp(-2.0 * distance)
    chance *= np.where(is_home, 1.0, _ADDS_ELSEWHERE) * np.where(sessions.depth[session] > 0, _ADDS_IN_THREAD, 1.0)
    return chance


def _empty_carts(
    rng: Generator, sessions: Sessions, session: np.ndarray, add: np.ndarray, sku: np.ndarray
) -> tuple[_Rows, _Rows]:
    """Buys and removes: at the end of the session, or early in the client's next one."""
    fate = np.searchsorted(np.cumsum([_BUYS_NOW, _BUYS_LATER, _REMOVES]), rng.random(len(session)), side="right")
    following = sessions.following[session]
    end = sessions.time_of(
        session, (sessions.first_view_step + sessions.n_views)[session], 0.5 + rng.random(len(session))
    )
    # sessions may overlap: what is bought in the next one still comes after it was added
    later = np.maximum(sessions.time_of(following, np.zeros(len(session)), 0.5), add + 60)
    now, next_time, removed = fate == 0, (fate == 1) & (following != session), fate == 2
    buys = _concatenate([(session[now], end[now], sku[now]), (session[next_time], later[next_time], sku[next_time])])
    return buys, (session[removed], end[removed], sku[removed])


def _concatenate(parts: list[_Rows]) -> _Rows:
    nothing = np.empty(0, dtype=np.int64)
    first, second, third = (np.concatenate(column) for column in zip((nothing, nothing, nothing), *parts, strict=True))
    return first, second, third
