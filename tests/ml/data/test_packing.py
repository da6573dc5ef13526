import threading
from contextlib import closing

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ml.data import packing
from ml.data.array_feed import ArrayFeed
from ml.data.packing import PackedFeed, pack_batches, pack_sequences, place
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


def test_a_sequence_longer_than_a_row_is_refused():
    with pytest.raises(ValueError, match="expected sequences of at most 6 tokens, the width of a row; found 7"):
        place(np.array([2, 7]), n_rows=2, width=6)


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_each_sequence_comes_once_whole_and_rows_are_full(world_size, monkeypatch):
    monkeypatch.setattr(packing, "WINDOW", 8192)
    rows = sequences(3000)
    seen, told = [], set()
    for rank in range(world_size):
        below = ArrayFeed(rows, sequences(0), WIDTHS, 128, seed=3, rank=rank, world_size=world_size)
        feed = PackedFeed(below, 128, 2048)
        batches = list(feed.training(1))
        assert {batch.shape for batch in batches} == {(16, 128)}
        # those of the last window share what is left
        assert np.mean([batch.n_tokens for batch in batches[:4]]) > 0.99 * 2048
        assert abs(feed.n_batches - len(batches)) <= 1
        told.add(feed.n_batches)
        for tokens in (tokens for batch in batches for tokens in unpacked(batch)):
            assert len(set(tokens.tolist())) == 1
            seen.append((tokens[0] - FIRST_ITEM, len(tokens)))

    assert len(told) == 1
    assert {(number, int(rows.lengths[number])) for number, _ in seen} == set(seen)
    assert len(set(seen)) == 3000
    assert len(seen) < 3000 + 6 * world_size  # ranks with fewer rows of a width repeat some


LENGTHS = {
    "short": lambda generator: np.clip(generator.geometric(1 / 9.4, 60_000), 2, 128),
    "whole rows": lambda generator: np.full(4000, 256),
    "more than half a row": lambda generator: generator.integers(130, 257, 4000),
    "of MovieLens": lambda generator: np.clip(generator.lognormal(4.55, 0.95, 6000), 20, 200).astype(int),
}


@pytest.mark.parametrize("name", LENGTHS)
@pytest.mark.parametrize("world_size", [1, 2])
def test_how_many_batches_there_are_is_known_to_a_few_percent(name, world_size):
    lengths = LENGTHS[name](np.random.default_rng(1))
    rows = Sequences(np.full(lengths.sum(), FIRST_ITEM, np.int32), np.append(0, lengths.cumsum()))
    widths = (4, 8, 16, 32, 64, 128, 256)
    feeds = [
        PackedFeed(ArrayFeed(rows, rows[:0], widths, 256, 3, rank, world_size), 256, 4096) for rank in range(world_size)
    ]
    n_batches = max(sum(1 for _ in feed.training(1)) for feed in feeds)
    (told,) = {feed.n_batches for feed in feeds}
    assert told == pytest.approx(n_batches, rel=0.02)


@given(st.lists(st.integers(1, 12), max_size=40), st.integers(1, 40))
def test_each_number_says_which_sequence_ends_where(lengths, n_positions):
    number = np.repeat(np.arange(len(lengths)), lengths)
    tokens = FIRST_ITEM + np.arange(len(number))
    rows = Sequences(tokens, np.append(0, np.cumsum(lengths, dtype=int)), timestamps=number)
    seen = []
    for numbers, ends, batch in pack_sequences(rows, n_positions):
        assert batch.token_ids.ravel()[ends].tolist() == tokens[rows.offsets[1:][numbers] - 1].tolist()
        assert batch.segments.ravel()[ends].tolist() == list(range(1, len(numbers) + 1))
        for of_sequence, own in zip(numbers, unpacked(batch), strict=True):
            assert own.tolist() == tokens[number == of_sequence].tolist()
        assert (batch.timestamps == np.append(0, numbers)[batch.segments]).all()
        seen += numbers.tolist()

    assert sorted(seen) == list(range(len(lengths)))


def test_an_epoch_goes_on_where_it_was_left_and_another_epoch_mixes_anew(monkeypatch):
    monkeypatch.setattr(packing, "WINDOW", 1024)
    feed = PackedFeed(ArrayFeed(sequences(500), sequences(0), WIDTHS, 64, seed=3), 128, 512)
    whole = list(feed.training(1))
    with closing(feed.training(1, skip=2)) as rest:
        np.testing.assert_array_equal(next(rest).token_ids, whole[2].token_ids)
    assert not np.array_equal(next(feed.training(2)).token_ids, whole[0].token_ids)


@pytest.mark.parametrize(("n", "n_batches"), [(10, 1), (500, 1), (1000, 2), (20_000, 23)])
def test_all_batches_of_given_sequences_are_full_also_where_these_are_few(n, n_batches):
    sizes = [(batch.n_tokens, batch.token_ids.size) for *_, batch in pack_sequences(sequences(n), 8192)]
    assert len(sizes) == n_batches
    assert len({size for _, size in sizes}) == 1
    assert sizes[0][1] <= 8192
    if n > 10:
        assert sum(n_tokens for n_tokens, _ in sizes) / sum(size for _, size in sizes) > 0.9


def test_batches_for_a_gpu_are_pinned_by_the_thread_that_makes_them(monkeypatch):
    threads = []

    def pin(tensor):  # torch pins nothing without a GPU
        threads.append(threading.current_thread())
        return tensor.clone()

    monkeypatch.setattr(torch.Tensor, "pin_memory", pin)
    below = ArrayFeed(sequences(200), sequences(0), WIDTHS, 64, seed=3)
    pinned, plain = (list(PackedFeed(below, 128, 512, is_pinned=each).training(1)) for each in (True, False))
    assert len(threads) == 2 * len(plain), "each batch's tokens and segments, once"
    assert threading.main_thread() not in threads
    for one, other in zip(pinned, plain, strict=True):
        np.testing.assert_array_equal(one.token_ids, other.token_ids)
        np.testing.assert_array_equal(one.segments, other.segments)


def test_all_columns_are_packed_alike():
    token_ids = np.array([[0, 0, 5, 6], [7, 8, 9, 10], [0, 11, 12, 13]], np.int32)
    batch = SequenceBatch(token_ids, event_types=token_ids % 5, timestamps=token_ids.astype(np.int64) * 10**9)
    (packed,) = pack_batches(iter([batch]), n_rows=2, width=8)

    np.testing.assert_array_equal(packed.event_types, packed.token_ids % 5)
    np.testing.assert_array_equal(packed.timestamps, packed.token_ids.astype(np.int64) * 10**9)
    assert sorted(map(tuple, unpacked(packed))) == [(5, 6), (7, 8, 9, 10), (11, 12, 13)]
    assert packed.lengths.tolist() == [2, 4, 3]
