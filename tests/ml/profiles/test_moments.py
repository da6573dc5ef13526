from functools import reduce

import numpy as np
import pytest

from ml.profiles.moments import Moments
from schemas.errors import EntryError


def parts_of(rows, *stops):
    return [Moments.of(part) for part in np.split(rows, stops)]


@pytest.mark.parametrize("order", [[0, 1, 2, 3], [3, 1, 0, 2]])
def test_merged_parts_have_the_moments_of_all_rows_in_any_order(order):
    rows = np.random.default_rng(0).normal(3.0, 2.0, (100, 4)).astype(np.float32)
    parts = parts_of(rows, 1, 40, 40)

    merged = reduce(Moments.merge, [parts[number] for number in order])

    assert merged.n_rows == 100
    np.testing.assert_allclose(merged.mean, rows.mean(axis=0, dtype=np.float64), rtol=1e-12)
    np.testing.assert_allclose(merged.covariance, np.cov(rows, rowvar=False, ddof=0, dtype=np.float64), rtol=1e-10)


def test_a_small_spread_around_a_large_mean_is_not_lost():
    rows = np.random.default_rng(0).normal(0.0, 1e-3, (4_000, 2)) + 1e6

    merged = reduce(Moments.merge, parts_of(rows, 1_000, 2_000, 3_000))

    np.testing.assert_allclose(np.diag(merged.covariance), rows.var(axis=0), rtol=1e-6)
    sums_of_squares = (rows.astype(np.float64) ** 2).mean(axis=0) - rows.mean(axis=0) ** 2
    assert not np.allclose(sums_of_squares, rows.var(axis=0), rtol=0.1)  # what plain sums would have given


def test_no_rows_have_zeros_and_add_nothing():
    nobody, someone = Moments.of(np.empty((0, 2), np.float32)), Moments.of(np.array([[1.0, 2.0]]))

    assert nobody.merge(nobody).mean.tolist() == [0, 0]
    for merged in (nobody.merge(someone), someone.merge(nobody)):
        assert (merged.n_rows, merged.mean.tolist()) == (1, [1, 2])
        assert not merged.products.any()


def test_numbers_that_are_not_finite_are_refused():
    with pytest.raises(EntryError, match="found 2 that are not"):
        Moments.of(np.array([[1.0, np.nan], [np.inf, 1.0]]))
