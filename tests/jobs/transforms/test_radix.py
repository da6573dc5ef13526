"""Sorting by digits is sorting."""

import numpy as np
import pytest

from jobs.transforms.radix import rising_order


@pytest.mark.parametrize("n_bits", [1, 16, 17, 40, 63])
def test_numbers_rise_and_equal_ones_keep_their_order(n_bits: int) -> None:
    limit = 2**n_bits
    numbers = np.random.default_rng(n_bits).integers(-limit, limit, 3000, dtype=np.int64) // 3 * 3
    assert rising_order(numbers).tolist() == np.argsort(numbers, kind="stable").tolist()


def test_the_whole_range_of_64_bits_is_sorted() -> None:
    numbers = np.array([2**63 - 1, 0, -(2**63), -1, 2**63 - 1])
    assert rising_order(numbers).tolist() == [2, 3, 1, 0, 4]


def test_nothing_has_no_order() -> None:
    assert rising_order(np.zeros(0, np.int64)).tolist() == []
