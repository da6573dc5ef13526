import weakref

import torch
from torch import nn

from ml.training.adamw import PIECE, PiecewiseAdamW


def test_the_weights_are_those_of_torchs_adamw_to_the_last_bit():
    generator = torch.Generator().manual_seed(0)
    start = [torch.randn(shape, generator=generator) for shape in [(3, PIECE - 5), (7, 11), (PIECE,)]]
    ours, expected = ([nn.Parameter(values.clone()) for values in start] for _ in range(2))
    optimizers = [PiecewiseAdamW(ours, learning_rate=0.01), torch.optim.AdamW(expected, lr=0.01)]
    for _ in range(4):
        gradients = [torch.randn(values.shape, generator=generator) for values in start]
        for parameters, optimizer in zip((ours, expected), optimizers, strict=True):
            optimizer.zero_grad()
            assert all(parameter.grad is None for parameter in parameters)
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.grad = gradient.clone()
            optimizer.step()
    assert all(torch.equal(one, other) for one, other in zip(ours, expected, strict=True))
    assert not any(torch.equal(one, before) for one, before in zip(ours, start, strict=True))


def test_the_gradients_of_a_step_are_gone_before_the_next_backward_pass():
    parameter = nn.Parameter(torch.zeros(3, PIECE))
    optimizer = PiecewiseAdamW([parameter], learning_rate=0.01)
    parameter.grad = torch.ones(3, PIECE)
    gradient = weakref.ref(parameter.grad)
    optimizer.step()
    assert gradient() is parameter.grad
    optimizer.zero_grad()
    assert gradient() is None
