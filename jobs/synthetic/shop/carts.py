"""What goes into the cart, what becomes of it, and what is bought again when it is used up."""

import numpy as np
from numpy.random import Generator

from conf.synthetic import ShopSettings
from jobs.synthetic.blocks import SECONDS_PER_DAY
from jobs.synthetic.shop.catalogue import Catalogue
from jobs.synthetic.shop.clients import Clients
from jobs.synthetic.shop.sessions import Rows, Sessions, concatenate

_ADDS = 0.36  # chance to put a product into the cart: readiness 1, home category, price at the client's level
_ADDS_ELSEWHERE = 0.4  # times that outside the home categories
_ADDS_IN_THREAD = 1.6  # times that in a session that continues a thread
_BUYS_NOW, _BUYS_LATER, _REMOVES = 0.45, 0.32, 0.18  # what becomes of a product in the cart
_CYCLE_SHAPE = 16.0  # of the gamma distribution of the days in which a product is used up: it varies by a quarter


def draw_adds(
    rng: Generator, views: Rows, sessions: Sessions, clients: Clients, catalogue: Catalogue, settings: ShopSettings
) -> tuple[Rows, Rows, np.ndarray]:
    """Products that go into the cart, and companions that go with them.

    Parameters
    ----------
    views : session, step and product of each product page

    Returns
    -------
    session, second and product of what is added; the same of the companions, which are seen just before; the position
    of each companion's product among the first
    """
    session, step, product = views
    chance = chance_to_add(product, sessions.client[session], clients, catalogue)
    chance *= np.where(sessions.depth[session] > 0, _ADDS_IN_THREAD, 1.0)
    added = np.flatnonzero(rng.random(len(session)) < chance)
    session, step, product = session[added], step[added], product[added]
    second = sessions.time_of(session, step, 0.5 + 0.3 * rng.random(len(session)))
    companion = catalogue.companion[product]
    is_launched = catalogue.launch_day[companion] <= sessions.day[session]
    goes_with = np.flatnonzero(is_launched & (rng.random(len(session)) < settings.co_purchase))
    # a step takes 20 seconds or more: within 8 the companion is seen and added before the next page
    with_it = session[goes_with], second[goes_with] + rng.integers(4, 9, len(goes_with)), companion[goes_with]
    return (session, second, product), with_it, goes_with


def chance_to_add(product: np.ndarray, client: np.ndarray, clients: Clients, catalogue: Catalogue) -> np.ndarray:
    """Chance that each client, by its row, puts the product into the cart in a session that begins a thread."""
    is_home = (clients.homes[client] == catalogue.category[product][:, None]).any(axis=1)
    distance = np.abs(catalogue.price[product] / 100 - clients.price_level[client])
    chance = _ADDS * clients.readiness[client] * np.exp(-clients.pickiness[client] * distance)
    return chance * np.where(is_home, 1.0, _ADDS_ELSEWHERE)


def empty_carts(
    rng: Generator, sessions: Sessions, adds: Rows, with_it: Rows, goes_with: np.ndarray
) -> tuple[Rows, Rows]:
    """Buys and removes: at the end of the session, or early in the client's next one.

    Parameters
    ----------
    adds, with_it, goes_with : as ``draw_adds`` returns them; a companion shares the fate of its product
    """
    # 0 is bought now, 1 in the next session, 2 removed, 3 left in the cart
    fate = np.searchsorted(np.cumsum([_BUYS_NOW, _BUYS_LATER, _REMOVES]), rng.random(len(adds[0])), side="right")
    end = sessions.time_of(adds[0], sessions.end_step[adds[0]], 0.5 + rng.random(len(adds[0])))
    fate, end = (np.concatenate([values, values[goes_with]]) for values in (fate, end))
    session, add, product = concatenate([adds, with_it])
    following = sessions.following[session]
    # sessions may overlap: what is bought in the next one still comes after it was added
    later = np.maximum(sessions.time_of(following, 0.0, 0.5), add + 60)
    now, next_time, removed = fate == 0, (fate == 1) & (following != session), fate == 2
    buys = [(session[now], end[now], product[now]), (following[next_time], later[next_time], product[next_time])]
    return concatenate(buys), (session[removed], end[removed], product[removed])


def buy_again(
    rng: Generator, buys: Rows, sessions: Sessions, clients: Clients, catalogue: Catalogue
) -> tuple[Rows, ...]:
    """Views, adds and buys of what is used up: in the first session after that, and again after each.

    Clients' loyalty is the chance that a product's next purchase comes at all. A client who has left buys nothing.
    """
    views, adds, again = [], [], []
    while len(buys[0]):
        session, second, product = buys
        client, cycle = sessions.client[session], catalogue.cycle_days[product]
        is_loyal = (cycle > 0) & (rng.random(len(session)) < clients.loyalty[client])
        used = cycle * rng.gamma(_CYCLE_SHAPE, 1 / _CYCLE_SHAPE, len(session))
        due = second + ((1 + used) * SECONDS_PER_DAY).astype(np.int64)  # a day at least: the rounds come to an end
        session = np.where(is_loyal, sessions.first_from(client, due), -1)
        comes = session >= 0
        session, product = session[comes], product[comes]
        views.append((session, sessions.time_of(session, 0.0, 0.2), product))
        adds.append((session, sessions.time_of(session, 0.0, 0.5), product))
        buys = session, sessions.time_of(session, sessions.end_step[session], 0.5 + rng.random(len(session))), product
        again.append(buys)
    return concatenate(views), concatenate(adds), concatenate(again)
