"""Which events of a client are one basket."""

import pytest
import torch

from ml.data.baskets import SECONDS_PER_DAY, basket_numbers, baskets_from_newest
from ml.data.sequence_batch import SequenceBatch

DAYS = torch.tensor([[0, 3, 3, 4, 9, 9], [0, 0, 0, 0, 7, 8]])
LEFT_PADDED = SequenceBatch(torch.tensor([[0, 5, 6, 7, 8, 9], [0, 0, 0, 0, 5, 5]]), timestamps=DAYS * SECONDS_PER_DAY)


def test_events_of_a_day_are_one_basket_and_positions_count_baskets_from_the_newest() -> None:
    is_token = LEFT_PADDED.token_ids > 0
    assert baskets_from_newest(LEFT_PADDED)[is_token].tolist() == [2, 2, 1, 0, 0, 1, 0]
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


def test_without_times_there_are_no_baskets() -> None:
    with pytest.raises(ValueError, match="expected batches with timestamps"):
        basket_numbers(SequenceBatch(torch.tensor([[5, 6]])))
