import numpy as np
import pytest

from ml.batch import like_length_batches, pad_left, rows_per_batch


def test_rows_end_in_the_last_column_and_longer_ones_lose_their_oldest_tokens():
    padded = pad_left([np.array([3]), np.array([4, 5, 6, 7]), np.array([8, 9, 3])], width=3)

    assert padded.tolist() == [[0, 0, 3], [5, 6, 7], [8, 9, 3]]


def test_a_row_without_tokens_is_all_padding():
    padded = pad_left([np.array([], dtype=np.int32), np.array([3, 4], dtype=np.int32)], width=2)

    assert padded.tolist() == [[0, 0], [3, 4]]


def test_no_rows_make_an_empty_batch_of_the_width():
    assert pad_left([], width=4).shape == (0, 4)


def test_padded_ids_are_int64_whatever_the_width_of_the_input():
    assert pad_left([np.array([3], dtype=np.int32)], width=2).dtype == np.int64


@pytest.mark.parametrize(("tokens_per_batch", "width", "expected"), [(8, 4, 2), (9, 4, 2), (3, 4, 1), (8, 1, 8)])
def test_a_batch_has_the_rows_that_fit_and_at_least_one(tokens_per_batch, width, expected):
    assert rows_per_batch(tokens_per_batch, width) == expected


def test_rows_of_like_length_share_a_batch_that_holds_them():
    batches = like_length_batches(np.array([1, 4, 2, 1, 4, 9]), tokens_per_batch=8)

    assert [batch.tolist() for batch in batches] == [[5], [1, 4], [2, 0, 3]]


def test_no_lengths_make_no_batches():
    assert list(like_length_batches(np.array([], dtype=np.int64), tokens_per_batch=8)) == []
