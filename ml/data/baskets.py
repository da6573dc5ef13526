"""Baskets: the events of a client's day, which order says nothing about (Li et al. 2023, arXiv:2308.01308).

Legend of shapes: B batch, L positions of a row.
"""

import torch
from torch import Tensor

from ml.data.sequence_batch import SequenceBatch, required_column
from schemas.tokens import PAD

SECONDS_PER_DAY = 86_400


def basket_ends(batch: SequenceBatch[Tensor]) -> Tensor:
    """Bool [B, L], whether a position is the last of its basket; a sequence's last one is, and so is each PAD."""
    days = required_column(batch, "timestamps") // SECONDS_PER_DAY
    is_end = torch.ones_like(days, dtype=torch.bool)
    is_end[:, :-1] = days[:, 1:] != days[:, :-1]
    if batch.segments is not None:
        is_end[:, :-1] |= batch.segments[:, 1:] != batch.segments[:, :-1]
    return is_end | (batch.token_ids == PAD)


def basket_numbers(batch: SequenceBatch[Tensor]) -> Tensor:
    """Int64 [B, L], rising from 0 over the baskets of a row; equal within one."""
    return basket_ends(batch).long().cumsum(dim=1) - basket_ends(batch).long()


def baskets_from_newest(batch: SequenceBatch[Tensor]) -> Tensor:
    """Int64 [B, L], how many baskets of its sequence come after a position's own; of no meaning at PAD."""
    numbers = basket_numbers(batch)
    if batch.segments is None:
        return numbers[:, -1:] - numbers
    newest = numbers.new_zeros(batch.segments.numel() + 1)
    newest = newest.scatter_reduce(0, batch.segments.flatten(), numbers.flatten(), "amax")
    return newest[batch.segments] - numbers
