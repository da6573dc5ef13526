"""Multi-head attention with dropout, on a CPU nearly as fast as without."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from ml.compat.dropout import draw_kept, draws_bytes


def attend(query: Tensor, key_value: Tensor, is_visible: Tensor | None, dropout_prob: float) -> Tensor:
    """What each query takes from the values (Vaswani et al. 2017, section 3.2.1).

    Parameters
    ----------
    query : float [B, H, Q, D/H]
    key_value : float [2, B, H, L, D/H]
    is_visible : bool [B, 1, 1 or Q, L], at least one true in each line; None where all are
    dropout_prob : of an attention weight to be left out; 0 when not training

    Returns
    -------
    float [B, H, Q, D/H]
    """
    if dropout_prob and draws_bytes(query):
        return _DroppingAttention.apply(query, key_value, is_visible, dropout_prob)
    key, value = key_value.unbind(0)
    return F.scaled_dot_product_attention(query, key, value, attn_mask=is_visible, dropout_p=dropout_prob)


class _DroppingAttention(Function):
    """Torch's kernel for CPUs has no dropout, and its fallback goes through memory many times more.

    The backward uses that a row's weights times their gradients sum to its output times the output's gradient
    (Dao et al. 2022, arXiv:2205.14135, appendix B.2).
    """

    @staticmethod
    def forward(ctx: Any, query: Tensor, key_value: Tensor, is_visible: Tensor | None, dropout_prob: float) -> Tensor:
        ctx.scale = 1.0 / math.sqrt(query.shape[-1])
        query = query * ctx.scale
        key, value = key_value
        scores = query @ key.mT  # [B, H, Q, L]
        if is_visible is not None:
            scores += torch.where(is_visible, 0.0, -math.inf)
        weights = scores.softmax(dim=-1).to(value.dtype)  # autocast makes a softmax float32
        kept, ctx.factor = draw_kept(tuple(weights.shape), dropout_prob)
        left = weights * kept
        output = (left @ value).mul_(ctx.factor)
        ctx.save_for_backward(query, key_value, weights, left, output)
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None]:
        query, key_value, weights, left, output = ctx.saved_tensors
        key, value = key_value.flatten(1, 2)  # each [B * H, L, D/H], as bmm with out= takes them
        total = (gradient * output).sum(dim=-1, keepdim=True)  # [B, H, Q, 1]
        gradient = gradient.flatten(0, 1) * ctx.factor
        scores = (gradient @ value.mT).view_as(left).mul_(left).addcmul_(weights, total, value=-1.0).flatten(0, 1)
        # contiguous, whatever key_value is: else flatten would copy, and bmm write to the copy
        # key and value in one tensor: each product writes its half, and nothing is copied together
        key_value_gradient = torch.empty_like(key_value, memory_format=torch.contiguous_format)
        key_gradient, value_gradient = key_value_gradient.flatten(1, 2)
        torch.bmm(scores.mT, query.flatten(0, 1), out=key_gradient)
        torch.bmm(left.flatten(0, 1).mT, gradient, out=value_gradient)
        return (scores @ key).view_as(query).mul_(ctx.scale), key_value_gradient, None, None
