import numpy as np
import pytest

from ml.data.batching import like_length_batches, rows_per_batch


@pytest.mark.parametrize(("tokens_per_batch", "width", "expected"), [(8, 4, 2), (9, 4, 2), (3, 4, 1), (8, 1, 8)])
def test_a_batch_has_the_rows_that_fit_and_at_least_one(tokens_per_batch, width, expected):
    assert rows_per_batch(tokens_per_batch, width) == expected


def test_rows_of_like_length_share_a_batch_that_holds_them():
    batches = like_length_batches(np.array([1, 4, 2, 1, 4, 9]), tokens_per_batch=8)

    assert [batch.tolist() for batch in batches] == [[5], [1, 4], [2, 0, 3]]


def test_no_lengths_make_no_batches():
    assert list(like_length_batches(np.array([], dtype=np.int64), tokens_per_batch=8)) == []
