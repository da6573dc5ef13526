"""Which events of a client are one basket."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from packed_rows import random_sequences, tokens_by_sequence
from small_encoders import settings_of

from ml.data.baskets import SECONDS_PER_DAY, basket_numbers, baskets_from_newest
from ml.data.packing import pack_batches
from ml.data.sequence_batch import SequenceBatch
from ml.data.vocabulary import VocabularyDescription
from ml.models.registry import build_encoder

DAYS = torch.tensor([[0, 3, 3, 4, 9, 9], [0, 0, 0, 0, 7, 8]])
LEFT_PADDED = SequenceBatch(torch.tensor([[0, 5, 6, 7, 8, 9], [0, 0, 0, 0, 5, 5]]), timestamps=DAYS * SECONDS_PER_DAY)


def test_events_of_a_day_are_one_basket_and_positions_count_baskets_from_the_newest() -> None:
    assert baskets_from_newest(LEFT_PADDED).tolist() == [[0, 2, 2, 1, 0, 0], [0, 0, 0, 0, 1, 0]]
    numbers = basket_numbers(LEFT_PADDED)
    assert (numbers[0, 1:] - numbers[0, 1]).tolist() == [0, 0, 1, 2, 2]
    assert int(numbers.max()) < 6


def test_clients_that_share_a_row_share_no_basket() -> None:
    batch = SequenceBatch(
        torch.tensor([[5, 6, 7, 8, 9, 0]]),
        timestamps=torch.tensor([[1, 2, 2, 2, 3, 0]]) * SECONDS_PER_DAY,
        segments=torch.tensor([[1, 1, 1, 2, 2, 0]]),
    )
    assert baskets_from_newest(batch)[0, :5].tolist() == [1, 0, 0, 1, 0]
    assert basket_numbers(batch)[0, :5].tolist() == [0, 1, 1, 2, 3]


@torch.no_grad()
def test_rows_that_clients_share_may_be_wider_than_any_sequence() -> None:
    sequences = random_sequences(20, 30, longest=8)
    sequences = replace(sequences, timestamps=SECONDS_PER_DAY * (np.arange(len(sequences.tokens)) // 2))
    padded = sequences.batch(np.arange(20), width=8)
    (packed,) = pack_batches(iter([padded]), n_rows=8, width=32)
    assert (packed.token_ids[-1] == 0).sum() > 8
    torch.manual_seed(7)
    encoder = build_encoder(
        settings_of(event_columns=True, positions="basket", hidden_size=8, n_heads=2, max_length=8),
        VocabularyDescription(30),
    ).eval()
    own, shared = (tokens_by_sequence(batch, encoder.encode(batch)) for batch in (padded.tensors(), packed.tensors()))
    torch.testing.assert_close(torch.cat(shared), torch.cat(own), atol=1e-5, rtol=1e-4)


def test_without_times_there_are_no_baskets() -> None:
    with pytest.raises(ValueError, match="expected batches with timestamps"):
        basket_numbers(SequenceBatch(torch.tensor([[5, 6]])))
