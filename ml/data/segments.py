"""Arithmetic over the sequences of a batch, whether each has a row or several share one.

Legend of shapes: B batch, L positions of a row.
"""

import torch
from torch import Tensor


def run_ends(values: Tensor) -> Tensor:
    """Bool [B, L], where the next position of a row holds another value (any [B, L]), or none follows."""
    is_end = torch.ones_like(values, dtype=torch.bool)
    is_end[:, :-1] = values[:, 1:] != values[:, :-1]
    return is_end


def sequence_least(values: Tensor, segments: Tensor | None) -> Tensor:
    """The least of a sequence's values, [B, 1], or [B, L] where sequences share rows; False is less than True."""
    if segments is None:
        return values.amin(dim=1, keepdim=True)
    flat = values.flatten().float()
    least = flat.new_full((len(flat) + 1,), torch.inf).scatter_reduce(0, segments.flatten(), flat, "amin")
    return least[segments].to(values.dtype)
