import numpy as np
import pytest

from conf.settings import EnsembleSettings
from ml.ensemble import compose_profiles, profile_width, to_float16
from schemas.errors import EntryError

BLOCKS = {
    "product_buy": (np.array([2, 0]), np.array([[1, 2], [3, 4]], dtype=np.float32)),
    "page_visit": (np.array([0]), np.array([[5, 8]], dtype=np.float32)),
}


def test_vectors_stand_side_by_side_with_zeros_and_a_flag_for_the_absent():
    profiles = compose_profiles(BLOCKS, 3, EnsembleSettings(composition="concat", presence_flags=True))

    assert profiles.dtype == np.float32
    assert profiles.tolist() == [
        [3, 4, 5, 8, 1, 1],
        [0, 0, 0, 0, 0, 0],
        [1, 2, 0, 0, 1, 0],
    ]


def test_a_client_with_a_vector_of_zeros_is_told_from_an_absent_one():
    blocks = {"product_buy": (np.array([0]), np.zeros((1, 2), dtype=np.float32))}
    present, absent = compose_profiles(blocks, 2, EnsembleSettings())

    assert not np.array_equal(present, absent)


def test_the_mean_is_over_the_behaviours_that_a_client_has():
    profiles = compose_profiles(BLOCKS, 3, EnsembleSettings(composition="mean", presence_flags=True))

    assert profiles.tolist() == [[4, 6, 1, 1], [0, 0, 0, 0], [1, 2, 1, 0]]


def test_a_behaviour_without_clients_keeps_its_columns():
    blocks = BLOCKS | {"search_query": (np.empty(0, dtype=np.int64), np.empty((0, 2), dtype=np.float32))}
    profiles = compose_profiles(blocks, 1 + 2, EnsembleSettings(presence_flags=False))

    assert profiles[0].tolist() == [3, 4, 5, 8, 0, 0]


@pytest.mark.parametrize("composition", ["concat", "mean"])
@pytest.mark.parametrize("presence_flags", [False, True])
def test_the_width_is_known_beforehand(composition, presence_flags):
    settings = EnsembleSettings(composition=composition, presence_flags=presence_flags)

    assert compose_profiles(BLOCKS, 3, settings).shape == (3, profile_width(2, 2, settings))


def test_the_reports_profile_is_1280_wide():
    assert profile_width(5, 256, EnsembleSettings(presence_flags=False)) == 1280


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf, 65_520.0, -1e6])
def test_numbers_that_float16_cannot_hold_are_refused_with_their_place(number):
    vectors = np.array([[0.0, 1.0], [number, 2.0]], dtype=np.float32)

    with pytest.raises(EntryError, match=r"up to 65504; found .* at \[1, 0\], 1 such"):
        to_float16(vectors)


def test_numbers_within_float16_are_rounded():
    halves = to_float16(np.array([[0.1, -65_504.0]], dtype=np.float32))

    assert halves.dtype == np.float16
    assert halves.tolist() == [[np.float16(0.1), -65_504.0]]
