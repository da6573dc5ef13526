"""Arithmetic over the sequences of a batch, whether each has a row or several share one.

Legend of shapes: B batch, L positions of a row.
"""

import torch
from torch import Tensor

from ml.data.sequence_batch import SequenceBatch
from schemas.tokens import PAD


def run_ends(values: Tensor) -> Tensor:
    """Bool [B, L], where the next position of a row holds another value (any [B, L]), or none follows."""
    is_end = torch.ones_like(values, dtype=torch.bool)
    is_end[:, :-1] = values[:, 1:] != values[:, :-1]
    return is_end


def sequence_least(values: Tensor, segments: Tensor | None) -> Tensor:
    """The least of a sequence's values, [B, 1], or [B, L] where sequences share rows; False is less than True."""
    if segments is None:
        return values.amin(dim=1, keepdim=True)
    # scatter_reduce knows no booleans; float32 holds the small whole numbers that callers give exactly
    flat = values.flatten().float()
    # room for as many sequences as there are positions: to know how many there are is to wait for the device
    least = flat.new_full((len(flat) + 1,), torch.inf).scatter_reduce(0, segments.flatten(), flat, "amin")
    return least[segments].to(values.dtype)


def sequence_numbers(batch: SequenceBatch[Tensor]) -> Tensor:
    """Int64 [B, L], which sequence of its row, or of the packed batch, each position belongs to; 0 at PAD."""
    return (batch.token_ids != PAD).long() if batch.segments is None else batch.segments.long()


def positions_from_newest(segments: Tensor) -> Tensor:
    """How many events of its sequence come after each position, int64 [B, L]; 0 at PAD."""
    width = segments.shape[1]
    index = torch.arange(width, device=segments.device)
    # the nearest end at or after each position: the least of those to its right
    ends = torch.where(run_ends(segments), index, width).flip(1).cummin(dim=1).values.flip(1)
    return torch.where(segments > 0, ends - index, 0)
