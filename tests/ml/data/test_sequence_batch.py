"""Batches of aligned columns, and ragged sequences in memory."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from ml.data.sequence_batch import SequenceBatch, Sequences, concatenate
from schemas.tokens import PAD, UNK

ROWS = Sequences.from_rows([[5], [3, 4, 6], [], [UNK, UNK], [UNK, 7]])


def test_rows_lie_one_after_the_other() -> None:
    assert ROWS.tokens.dtype == np.int32
    assert ROWS.offsets.tolist() == [0, 1, 4, 4, 6, 8]
    assert ROWS.lengths.tolist() == [1, 3, 0, 2, 2]
    assert len(ROWS) == 5
    assert len(Sequences.from_rows([])) == 0


def test_a_row_needs_an_item_and_another_token_to_be_learnt_from() -> None:
    assert ROWS.is_learnable.tolist() == [False, True, False, False, True]


def test_rows_end_in_the_last_column_and_long_ones_keep_their_last_tokens() -> None:
    padded = ROWS.padded(np.array([1, 0, 4]), width=2)
    assert padded.dtype == np.int32
    assert padded.tolist() == [[4, 6], [PAD, 5], [UNK, 7]]
    assert ROWS.padded(np.array([1]), width=5).tolist() == [[PAD, PAD, 3, 4, 6]]
    assert ROWS.padded(np.array([], dtype=np.int64), width=2).shape == (0, 2)


def test_offsets_may_begin_within_a_longer_array() -> None:
    part = Sequences(ROWS.tokens, ROWS.offsets[1:3])
    assert part.padded(np.array([0]), width=4).tolist() == [[PAD, 3, 4, 6]]
    assert part.is_learnable.tolist() == [True]
    with pytest.raises(ValueError, match="a step of 2"):
        ROWS[::2]


def test_rows_are_cut_into_consecutive_pieces_that_end_with_their_last_tokens() -> None:
    rows = Sequences.from_rows([[9], [3, 4, 5, 6, 7], [], [5, 6], [1, 2, 3, 4]])
    pieces = Sequences(rows.tokens, rows.offsets[1:]).cut(2)
    found = [pieces.tokens[start:end].tolist() for start, end in pairwise(pieces.offsets)]
    assert found == [[3], [4, 5], [6, 7], [5, 6], [1, 2], [3, 4]]


def test_all_columns_of_a_row_are_padded_alike() -> None:
    types, times = np.array([1, 2, 3], np.int8), np.array([10, 20, 30])
    batch = Sequences(np.array([5, 6, 7], np.int32), np.array([0, 1, 3]), types, times).batch(np.array([1, 0]), 2)
    assert batch.token_ids.tolist() == [[6, 7], [PAD, 5]]
    assert batch.event_types is not None
    assert batch.timestamps is not None
    assert (batch.event_types.dtype, batch.event_types.tolist()) == (np.int8, [[2, 3], [0, 1]])
    assert (batch.timestamps.dtype, batch.timestamps.tolist()) == (np.int64, [[20, 30], [0, 10]])
    assert ROWS.batch(np.array([0]), 2).event_types is None


BATCH = SequenceBatch(np.array([[PAD, 3, 4], [5, 6, 7]], np.int32), timestamps=np.array([[0, 30, 40], [50, 60, 70]]))


def test_columns_stay_aligned_and_those_that_nobody_asked_for_stay_away() -> None:
    both = concatenate([BATCH, BATCH[:1]])
    assert both.token_ids.tolist() == [[PAD, 3, 4], [5, 6, 7], [PAD, 3, 4]]
    assert both.timestamps is not None
    assert both[np.array([2, 1])].timestamps.tolist() == [[0, 30, 40], [50, 60, 70]]  # type: ignore[union-attr]
    assert both.event_types is None
    assert (len(both), both.shape, both.n_tokens) == (3, (3, 3), 7)


def test_tensors_are_int64() -> None:
    tensors = BATCH.tensors()
    assert tensors.token_ids.dtype == torch.int64
    assert torch.equal(tensors.token_ids, torch.tensor([[PAD, 3, 4], [5, 6, 7]]))
    assert tensors.timestamps is not None
    assert tensors.segments is None
    assert tensors.n_tokens == 5
