from itertools import pairwise

import numpy as np
import pytest

from jobs.synthetic.benchmark_log.permutations import Use, draw_permutation, hash_to_codes


@pytest.mark.parametrize("size", [1, 2, 10, 4_096, 10_007])
@pytest.mark.parametrize("use", list(Use))
def test_every_number_is_reached_once(size: int, use: Use):
    assert np.array_equal(np.sort(draw_permutation(size, 7, use)(np.arange(size))), np.arange(size))


def test_large_sizes_do_not_overflow():
    size = 2_000_000_000
    reached = draw_permutation(size, 7, Use.NUMBER_OF_EVENT)(np.arange(size - 1_000, size))
    assert len(np.unique(reached)) == 1_000
    assert reached.min() >= 0
    assert reached.max() < size


def test_two_uses_tell_nothing_of_each_other():
    places = [draw_permutation(100_000, 7, use)(np.arange(100_000)) for use in Use]
    for one, other in pairwise(places):
        cells, _, _ = np.histogram2d(one, other, bins=10)
        assert cells.min() > 900  # of 1,000 on average


def test_numbers_and_seeds_have_codes_of_their_own():
    codes = hash_to_codes(np.arange(5_000), 7)
    assert codes.shape == (5_000, 16)
    assert len(np.unique(codes, axis=0)) == 5_000
    assert np.abs(codes.mean(axis=0) - 127.5).max() < 5
    assert not np.array_equal(codes, hash_to_codes(np.arange(5_000), 8))
