"""Everything that a block of clients is and does."""

from dataclasses import dataclass

import numpy as np

from conf.synthetic import ShopSettings
from jobs.synthetic.blocks import SECONDS_PER_DAY
from jobs.synthetic.shop.carts import buy_again, draw_adds, empty_carts
from jobs.synthetic.shop.catalogue import Catalogue
from jobs.synthetic.shop.clients import Clients, Days, draw_clients, simulate_days
from jobs.synthetic.shop.sessions import (
    Rows,
    Sessions,
    concatenate,
    draw_sessions,
    draw_views,
    search,
    visit_other_pages,
)
from schemas.behaviours import ADD_TO_CART, PAGE_VISIT, PRODUCT_BUY, REMOVE_FROM_CART, SEARCH_QUERY


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
class Simulation:
    """A block of clients.

    Attributes
    ----------
    buys : session, second and product of what is bought
    events : by behaviour
    """

    clients: Clients
    days: Days
    sessions: Sessions
    buys: Rows
    events: dict[str, Events]


def simulate_block(block: int, catalogue: Catalogue, settings: ShopSettings) -> Simulation:
    """A block of clients from its first day to the last; it depends on the settings and the block alone."""
    rng = np.random.default_rng([settings.seed, 1, block])  # the catalogue draws from 0, the oracle from 2
    start = block * settings.clients_per_block
    indices = np.arange(start, min(start + settings.clients_per_block, settings.n_clients))
    # every draw is from one generator: another order of these lines is another shop
    clients = draw_clients(rng, indices, catalogue, settings)
    days = simulate_days(rng, clients, catalogue, settings)
    sessions = draw_sessions(rng, days, clients, catalogue, settings)
    views = draw_views(rng, sessions, clients, catalogue)
    visits = visit_other_pages(rng, sessions, catalogue)
    searches = search(rng, sessions, catalogue, settings)
    adds, with_it, goes_with = draw_adds(rng, views, sessions, clients, catalogue, settings)
    bought, removes = empty_carts(rng, sessions, adds, with_it, goes_with)
    views_again, adds_again, bought_again = buy_again(rng, bought, sessions, clients, catalogue)

    session, step, product = views
    seen = session, sessions.time_of(session, step, 0.3 * rng.random(len(session))), product
    seen_with_it = with_it[0], with_it[1] - 2, with_it[2]
    all_seen, all_added, buys = (
        concatenate(parts)
        for parts in ([seen, seen_with_it, views_again], [adds, with_it, adds_again], [bought, bought_again])
    )
    rows = {
        PRODUCT_BUY: _named(buys, catalogue.sku),
        ADD_TO_CART: _named(all_added, catalogue.sku),
        REMOVE_FROM_CART: _named(removes, catalogue.sku),
        PAGE_VISIT: concatenate([*visits, _named(all_seen, catalogue.product_url)]),
        SEARCH_QUERY: searches,
    }
    events = {}
    for behaviour, (session, second, item) in rows.items():
        kept = second < settings.n_days * SECONDS_PER_DAY  # a session of the last day may end after it
        events[behaviour] = Events(clients.client_id[sessions.client[session[kept]]], second[kept], item[kept])
    return Simulation(clients, days, sessions, buys, events)


def _named(rows: Rows, names: np.ndarray) -> Rows:
    return rows[0], rows[1], names[rows[2]]
