"""Baskets: the events of a client's day, which order says nothing about (Li et al. 2023, arXiv:2308.01308).

Legend of shapes: B batch, L positions of a row.
"""

from torch import Tensor

from ml.data.segments import run_ends, sequence_least
from ml.data.sequence_batch import SECONDS_PER_DAY, SequenceBatch, required_column
from schemas.tokens import PAD


def basket_ends(batch: SequenceBatch[Tensor]) -> Tensor:
    """Bool [B, L], whether a position is the last of its basket; a sequence's last one is, and so is each PAD."""
    is_end = run_ends(required_column(batch, "timestamps") // SECONDS_PER_DAY)
    if batch.segments is not None:
        is_end |= run_ends(batch.segments)
    return is_end | (batch.token_ids == PAD)


def basket_numbers(batch: SequenceBatch[Tensor]) -> Tensor:
    """Int64 [B, L], rising from 0 over the baskets of a row; equal within one."""
    is_end = basket_ends(batch).long()
    # an end is still of its own basket: the number rises at the position after it
    return is_end.cumsum(dim=1) - is_end


def baskets_from_newest(batch: SequenceBatch[Tensor]) -> Tensor:
    """Int64 [B, L], how many baskets of its sequence come after a position's own; 0 at PAD."""
    numbers = basket_numbers(batch)
    # the greatest of a sequence is the least of the negatives
    from_newest = -sequence_least(-numbers, batch.segments) - numbers
    # a row that sequences share may hold more PAD than a table of positions has rows
    return from_newest.masked_fill(batch.token_ids == PAD, 0)
