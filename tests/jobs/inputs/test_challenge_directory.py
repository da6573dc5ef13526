"""The lists of ids that come with a challenge directory."""

import numpy as np
import pytest

from jobs.inputs.challenge_directory import read_id_array, read_popularity
from schemas.errors import InputError


@pytest.mark.parametrize(
    ("array", "found"),
    [
        (np.array([1.5]), "float64"),
        (np.array([[1]]), r"shape \[1, 1\]"),
        (np.array([], dtype=np.int64), r"shape \[0\]"),
        (np.array([4, 5, 4]), "1 repeated"),
        (np.array([{"a": 1}], dtype=object), "allow_pickle=False"),
    ],
)
def test_an_id_file_that_is_no_list_of_distinct_integers_is_an_input_error(tmp_path, array, found):
    np.save(tmp_path / "ids.npy", array, allow_pickle=True)
    with pytest.raises(InputError, match=found):
        read_id_array(tmp_path / "ids.npy")


def test_ids_are_int64_in_the_order_of_the_file_and_none_without_one(tmp_path):
    np.save(tmp_path / "ids.npy", np.array([3, 1, 2], dtype=np.uint16))
    ids = read_id_array(tmp_path / "ids.npy")
    assert ids.dtype == np.int64
    assert ids.tolist() == [3, 1, 2]
    assert read_id_array(tmp_path / "none.npy") is None
    assert read_popularity(tmp_path / "none.npy", 3) is None


@pytest.mark.parametrize("values", [[0.1], [0.1, np.nan], [0.1, -1], ["0", "1"]])
def test_popularity_that_cannot_weigh_labels_is_an_input_error(tmp_path, values):
    np.save(tmp_path / "p.npy", np.array(values))
    with pytest.raises(InputError, match="expected 2 finite numbers"):
        read_popularity(tmp_path / "p.npy", 2)
