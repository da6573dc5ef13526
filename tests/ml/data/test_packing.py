from contextlib import closing

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml.data.array_feed import ArrayFeed
from ml.data.packing import FILL, PackedFeed, pack_batches, place
from ml.data.sequence_batch import SequenceBatch, Sequences
from schemas.tokens import FIRST_ITEM

WIDTHS = (1, 4, 8, 16, 32)


def sequences(n, seed=0, mean=9.4, longest=32):
    """Sequence i holds the token FIRST_ITEM + i alone, so that it can be told from all others."""
    lengths = np.clip(np.random.default_rng(seed).geometric(1 / mean, n), 2, longest)
    return Sequences.from_rows([[FIRST_ITEM + i] * length for i, length in enumerate(lengths)])


def unpacked(batch):
    """The tokens of each segment of a packed batch."""
    order = np.argsort(batch.segments.ravel(), kind="stable")
    numbers, tokens = batch.segments.ravel()[order], batch.token_ids.ravel()[order]
    return np.split(tokens[numbers > 0], np.cumsum(batch.lengths)[:-1])


@given(st.lists(st.integers(1, 12), max_size=40), st.integers(1, 6))
def test_no_sequence_overlaps_another_or_goes_over_the_end_of_a_row(lengths, n_rows):
    width = 12
    starts = place(np.array(lengths, np.int64), n_rows, width)
    taken = np.zeros(n_rows * width, int)
    for start, length in zip(starts, lengths, strict=True):
        if start >= 0:
            taken[start : start + length] += 1
            assert start // width == (start + length - 1) // width

    assert taken.max(initial=0) <= 1
    # what found no room would not fit into what is left of any row
    left = (taken.reshape(n_rows, width) == 0).sum(axis=1)
    for start, length in zip(starts, lengths, strict=True):
        assert start >= 0 or length > left.max()


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_each_sequence_comes_once_whole_and_rows_are_full(world_size):
    rows = sequences(3000)
    seen = []
    for rank in range(world_size):
        below = ArrayFeed(rows, sequences(0), WIDTHS, 128, seed=3, rank=rank, world_size=world_size)
        feed = PackedFeed(below, 128, 2048)
        batches = list(feed.training(1))
        assert {batch.shape for batch in batches} == {(16, 128)}
        assert np.mean([batch.n_tokens for batch in batches[:-1]]) > 0.98 * FILL * 2048
        assert abs(feed.n_batches - len(batches)) <= 0.2 * len(batches)
        for tokens in (tokens for batch in batches for tokens in unpacked(batch)):
            assert len(set(tokens.tolist())) == 1
            seen.append((tokens[0] - FIRST_ITEM, len(tokens)))

    assert {(number, int(rows.lengths[number])) for number, _ in seen} == set(seen)
    assert len(set(seen)) == 3000
    assert len(seen) < 3000 + 6 * world_size  # ranks with fewer rows of a width repeat some


def test_an_epoch_goes_on_where_it_was_left_and_another_epoch_mixes_anew():
    feed = PackedFeed(ArrayFeed(sequences(500), sequences(0), WIDTHS, 64, seed=3), 128, 512)
    whole = list(feed.training(1))
    with closing(feed.training(1, skip=2)) as rest:
        np.testing.assert_array_equal(next(rest).token_ids, whole[2].token_ids)
    assert not np.array_equal(next(feed.training(2)).token_ids, whole[0].token_ids)


def test_all_columns_are_packed_alike():
    token_ids = np.array([[0, 0, 5, 6], [7, 8, 9, 10], [0, 11, 12, 13]], np.int32)
    batch = SequenceBatch(token_ids, event_types=token_ids % 5, timestamps=token_ids.astype(np.int64) * 10**9)
    (packed,) = pack_batches(iter([batch]), n_rows=2, width=8)

    np.testing.assert_array_equal(packed.event_types, packed.token_ids % 5)
    np.testing.assert_array_equal(packed.timestamps, packed.token_ids.astype(np.int64) * 10**9)
    assert sorted(map(tuple, unpacked(packed))) == [(5, 6), (7, 8, 9, 10), (11, 12, 13)]
    assert packed.lengths.tolist() == [2, 4, 3]
