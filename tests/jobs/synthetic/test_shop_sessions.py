from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from conf.synthetic import ShopSettings
from jobs.synthetic.shop.catalogue import Catalogue, build_catalogue
from jobs.synthetic.shop.simulation import simulate_block
from schemas.behaviours import ADD_TO_CART, PAGE_VISIT, PRODUCT_BUY, REMOVE_FROM_CART, SEARCH_QUERY

SETTINGS = ShopSettings(n_clients=450, clients_per_block=200)
PAIR = ["client_id", "sku"]


@pytest.fixture(scope="module")
def catalogue() -> Catalogue:
    return build_catalogue(SETTINGS)


@pytest.fixture(scope="module")
def shop(catalogue: Catalogue) -> dict[str, pd.DataFrame]:
    blocks = [_simulate(block, catalogue) for block in range(SETTINGS.n_blocks)]
    return {name: pd.concat([block[name] for block in blocks]) for name in blocks[0]}


def _simulate(block: int, catalogue: Catalogue, settings: ShopSettings = SETTINGS) -> dict[str, pd.DataFrame]:
    return {name: pd.DataFrame(vars(rows)) for name, rows in simulate_block(block, catalogue, settings).events.items()}


def test_a_block_is_the_same_whichever_blocks_are_simulated_before_it(catalogue: Catalogue):
    alone = _simulate(1, catalogue)
    _simulate(0, catalogue)
    for name, rows in _simulate(1, catalogue).items():
        pd.testing.assert_frame_equal(rows, alone[name])


def test_another_seed_is_another_shop(catalogue: Catalogue):
    visits, others = (_simulate(0, catalogue, replace(SETTINGS, seed=seed))[PAGE_VISIT] for seed in (7, 8))
    assert len(visits) != len(others) or not (visits["second"] == others["second"]).all()


def test_more_clients_change_no_full_block(catalogue: Catalogue):
    more = _simulate(0, catalogue, replace(SETTINGS, n_clients=10_000))
    for name, rows in _simulate(0, catalogue).items():
        pd.testing.assert_frame_equal(rows, more[name])


def test_blocks_share_no_client(catalogue: Catalogue):
    blocks = [set(_simulate(block, catalogue)[PAGE_VISIT]["client_id"]) for block in range(3)]
    assert len(set.union(*blocks)) == sum(map(len, blocks))
    assert len(blocks[-1]) <= 50  # 450 clients in blocks of 200


def test_every_event_falls_on_a_day_of_the_shop(shop: dict[str, pd.DataFrame]):
    for events in shop.values():
        assert events["second"].between(0, SETTINGS.n_days * 86_400 - 1).all()


def test_a_product_is_seen_before_it_is_added_and_added_before_it_is_bought_or_removed(
    shop: dict[str, pd.DataFrame], catalogue: Catalogue
):
    sku_of_url = dict(zip(catalogue.product_url, catalogue.sku, strict=True))
    first_view = _first(shop[PAGE_VISIT].assign(item=shop[PAGE_VISIT]["item"].map(sku_of_url)).dropna())
    first_add, first_buy, first_remove = (_first(shop[name]) for name in (ADD_TO_CART, PRODUCT_BUY, REMOVE_FROM_CART))
    assert (first_view.reindex(first_add.index) < first_add).all()
    assert (first_add.reindex(first_buy.index) < first_buy).all()
    assert (first_add.reindex(first_remove.index) < first_remove).all()


def test_no_more_is_bought_and_removed_than_was_added(shop: dict[str, pd.DataFrame]):
    n_added, n_bought, n_removed = (
        _by_pair(shop[name]).size() for name in (ADD_TO_CART, PRODUCT_BUY, REMOVE_FROM_CART)
    )
    assert (n_bought.add(n_removed, fill_value=0) <= n_added.reindex(n_bought.index.union(n_removed.index))).all()


def _first(events: pd.DataFrame) -> pd.Series:
    """Time of the first event of each client and sku."""
    return _by_pair(events)["second"].min()


def _by_pair(events: pd.DataFrame):
    return events.astype({"item": "int64"}).rename(columns={"item": "sku"}).groupby(PAIR)


def test_nothing_is_seen_before_its_launch(shop: dict[str, pd.DataFrame], catalogue: Catalogue):
    launch_day = dict(zip(catalogue.product_url, catalogue.launch_day, strict=True))
    views = shop[PAGE_VISIT].assign(launch_day=shop[PAGE_VISIT]["item"].map(launch_day)).dropna()
    assert (views["second"] // 86_400 >= views["launch_day"]).all()


def test_searches_name_a_query_and_other_events_an_item(shop: dict[str, pd.DataFrame], catalogue: Catalogue):
    assert shop[SEARCH_QUERY]["item"].between(0, len(catalogue.query) - 1).all()
    pages = [catalogue.product_url, catalogue.category_url, catalogue.other_url]
    for name, items in ((PAGE_VISIT, np.concatenate(pages)), (PRODUCT_BUY, catalogue.sku)):
        assert shop[name]["item"].isin(items).all()


def test_the_category_seen_most_in_a_month_is_bought_from_far_above_chance_in_the_next_two_weeks(
    shop: dict[str, pd.DataFrame], catalogue: Catalogue
):
    category_of_url = dict(zip(catalogue.product_url, catalogue.category, strict=True))
    category_of_sku = dict(zip(catalogue.sku, catalogue.category, strict=True))
    visits, buys = shop[PAGE_VISIT], shop[PRODUCT_BUY]
    month = visits[visits["second"].between(60 * 86_400, 90 * 86_400 - 1)]
    favourite = month.assign(category=month["item"].map(category_of_url)).groupby("client_id")["category"]
    favourite = favourite.agg(lambda seen: seen.value_counts().idxmax() if seen.notna().any() else None).dropna()
    after = buys[buys["second"].between(90 * 86_400, 104 * 86_400 - 1) & buys["client_id"].isin(favourite.index)]
    bought = after["item"].map(category_of_sku).to_numpy()
    guessed = favourite.reindex(after["client_id"]).to_numpy()
    chance = (bought[:, None] == guessed[None, :]).mean()
    assert len(bought) > 50
    assert (bought == guessed).mean() > 4 * chance
