"""Dropout (Srivastava et al. 2014) whose random numbers are cheap on a CPU.

There torch draws a 64-bit uniform number per element, one after the other: in a transformer of 256 columns that was a
quarter of a step. Here a random byte decides per element, and eight are drawn at once. On other devices, and
where torch.compile fuses the draws, torch's own dropout is used.

Upstream: https://github.com/pytorch/pytorch/issues/138199. Ends with: no version of torch yet.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable


def draws_bytes(x: Tensor) -> bool:
    """Whether dropout of ``x`` is decided by random bytes."""
    return x.device.type == "cpu" and not torch.compiler.is_compiling()


def draw_kept(shape: tuple[int, ...], prob: float) -> tuple[Tensor, float]:
    """Which elements stay, and the factor by which they grow so that the mean does not change.

    Parameters
    ----------
    prob : of an element to go; rounded to a 256th, which the factor takes into account

    Returns
    -------
    bool ``shape``, drawn from torch's global generator, and a factor (0 where nothing stays)
    """
    n_elements = math.prod(shape)
    n_dropped = round(256 * prob)
    if n_dropped == 256:
        return torch.zeros(shape, dtype=torch.bool), 0.0
    # random_ over the whole range of int64 gives eight random bytes at the price of one number
    draws = torch.empty((n_elements + 7) // 8, dtype=torch.int64).random_(-(2**63), None)
    kept = draws.view(torch.uint8)[:n_elements].view(shape) >= n_dropped
    return kept, 256 / (256 - n_dropped)


class Dropout(nn.Module):
    """Sets elements to zero by chance while training."""

    def __init__(self, prob: float) -> None:
        super().__init__()
        self.prob = prob

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """``x`` with elements dropped, added to ``residual`` (both float [...]) where there is one."""
        if self.training and self.prob and draws_bytes(x):
            return _DropAndAdd.apply(x, residual, self.prob)
        dropped = F.dropout(x, self.prob, self.training)
        return dropped if residual is None else residual + dropped


class _DropAndAdd(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, residual: Tensor | None, prob: float) -> Tensor:
        kept, ctx.factor = draw_kept(tuple(x.shape), prob)
        ctx.dtype = x.dtype
        ctx.save_for_backward(kept)
        if residual is None:
            return (x * kept).mul_(ctx.factor)
        # scaling, dropout and sum in one pass over memory
        return torch.addcmul(residual, x, kept, value=ctx.factor)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor | None, None]:
        (kept,) = ctx.saved_tensors
        # under autocast the residual, and so the gradient, may be float32 where ``x`` was bfloat16
        return (gradient * kept).mul_(ctx.factor).to(ctx.dtype), gradient if ctx.needs_input_grad[1] else None, None
