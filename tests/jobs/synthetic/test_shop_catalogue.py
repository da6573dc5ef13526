import numpy as np
import pytest

from conf.load import checked
from conf.synthetic import ShopSettings
from jobs.synthetic.shop.catalogue import build_catalogue
from schemas.behaviours import CODES_PER_QUERY
from schemas.errors import ConfigError

CATALOGUE = build_catalogue(ShopSettings(n_products=120, n_categories=6))


def test_ids_and_pages_are_all_different():
    pages = np.concatenate([CATALOGUE.product_url, CATALOGUE.category_url, CATALOGUE.other_url])
    for ids in (CATALOGUE.sku, CATALOGUE.category_id, pages):
        assert len(np.unique(ids)) == len(ids)


def test_every_category_has_a_product_on_the_first_day():
    assert (CATALOGUE.launch_day[CATALOGUE.first[:-1]] == 0).all()
    assert np.array_equal(CATALOGUE.category[CATALOGUE.first[:-1]], np.arange(6))


def test_prices_are_hundredths_of_the_price_distribution():
    hundredths, counts = np.unique(CATALOGUE.price, return_counts=True)
    assert np.array_equal(hundredths, np.arange(100))
    assert set(counts) <= {1, 2}  # 120 products


def test_queries_and_names_are_sixteen_codes():
    for text in (*CATALOGUE.query, *CATALOGUE.name):
        assert (text[0], text[-1]) == ("[", "]")
        codes = [int(code) for code in text[1:-1].split()]
        assert len(codes) == CODES_PER_QUERY
        assert all(0 <= code <= 255 for code in codes)


def test_a_query_is_written_with_single_spaces_or_in_columns():
    single, in_columns = np.split(CATALOGUE.query, 2)
    for plain, padded in zip(single, in_columns, strict=True):
        assert "  " not in plain
        assert len(padded) == len("[]") + 4 * CODES_PER_QUERY - 1
        assert plain[1:-1].split() == padded[1:-1].split()


def test_a_name_is_nearest_to_the_query_of_its_category_and_style():
    names, queries = (_codes(text) for text in (CATALOGUE.name, np.split(CATALOGUE.query, 2)[0]))
    nearest = ((names[:, None] - queries) ** 2).sum(axis=2).argmin(axis=1)
    own = CATALOGUE.category * 8 + CATALOGUE.style
    assert (nearest == own).mean() > 0.9  # a twentieth would be chance


def _codes(text: np.ndarray) -> np.ndarray:
    return np.array([each[1:-1].split() for each in text], dtype=float)


def test_products_of_some_categories_are_used_up():
    cycles = [np.unique(CATALOGUE.cycle_days[CATALOGUE.category == category]) for category in range(6)]
    assert all(len(of_category) == 1 for of_category in cycles)
    assert 0 < sum(of_category[0] > 0 for of_category in cycles) < 6


def test_next_categories_and_companions_lead_elsewhere():
    assert sorted(CATALOGUE.next_category) == list(range(6))
    assert (CATALOGUE.next_category != np.arange(6)).all()
    assert (CATALOGUE.companion != np.arange(120)).all()


def test_a_draw_stays_in_its_category():
    category = np.repeat(np.arange(6), 200)
    drawn = CATALOGUE.draw_products(np.random.default_rng(0), category)
    assert np.array_equal(CATALOGUE.category[drawn], category)


@pytest.mark.parametrize("values", [{"n_clients": 0}, {"n_days": 41}, {"n_products": 10}, {"relevant_share": 1.5}])
def test_settings_out_of_range_are_refused_by_name(values: dict):
    with pytest.raises(ConfigError, match=next(iter(values))):
        checked(ShopSettings, values, "the shop")
