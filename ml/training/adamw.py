"""torch's AdamW on a CPU, the same to the last bit, by pieces that stay in the cache."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

PIECE = 2**16
"""Numbers of one piece: its weights, gradients and moments, 1 MiB together, fit into a core's cache."""


class PiecewiseAdamW:
    """``torch.optim.AdamW``, applied to pieces of the parameters one after another.

    Each step of torch's own loop goes over all memory of a parameter some ten times; over a piece it stays in the
    cache. Every number meets the same operations in the same order, so the weights are bit for bit those of
    ``AdamW(parameters, lr=learning_rate)``. The fused AdamW is faster still, but rounds otherwise, and a training that
    amplifies roundings ends elsewhere.

    Parameters
    ----------
    parameters : contiguous, on a CPU; every one must get a gradient before each step
    """

    def __init__(self, parameters: Iterable[nn.Parameter], learning_rate: float) -> None:
        self.parameters = list(parameters)
        self._pieces = [piece for parameter in self.parameters for piece in _split(parameter.detach())]
        self._adamw = torch.optim.AdamW(self._pieces, lr=learning_rate, foreach=False)

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for parameter in self.parameters:
            parameter.grad = None

    def step(self) -> None:
        """Update every parameter by its gradient."""
        gradients = [piece for parameter in self.parameters for piece in _split(_gradient(parameter))]
        for piece, gradient in zip(self._pieces, gradients, strict=True):
            piece.grad = gradient
        self._adamw.step()
        for piece in self._pieces:  # else the gradients would live through the next backward pass, beside its own
            piece.grad = None


def _split(values: Tensor) -> tuple[Tensor, ...]:
    return values.view(-1).split(PIECE)


def _gradient(parameter: nn.Parameter) -> Tensor:
    assert parameter.grad is not None, "every parameter has a gradient"
    return parameter.grad
