"""Row-wise Adam, what decays, and the learning rate's course."""

import numpy as np
import pytest
import torch
from small_encoders import settings_of, transformer

from conf.training import TrainingSettings
from ml.data.vocabulary import VocabularyDescription
from ml.models.registry import build_encoder
from ml.training.optimizers import RowAdam, build_optimizers, learning_rate

SETTINGS = settings_of(hidden_size=8, n_layers=1, n_heads=2, feed_forward_size=8, max_length=8)


def sparse_gradient(rows: list[int], values: torch.Tensor, n_rows: int) -> torch.Tensor:
    return torch.sparse_coo_tensor(torch.tensor([rows]), values, (n_rows, values.shape[1]))


def test_the_first_step_of_a_row_is_its_gradient_over_its_root_mean_square() -> None:
    table = torch.nn.Parameter(torch.zeros(3, 2))
    optimizer = RowAdam([table], lr=0.1)
    table.grad = sparse_gradient([1], torch.tensor([[3.0, 1.0]]), 3)
    optimizer.step()
    # mean and square are those of the one gradient once their start at zero is corrected: rms = sqrt((9 + 1) / 2)
    expected = -0.1 * torch.tensor([3.0, 1.0]) / 5**0.5
    torch.testing.assert_close(table.detach(), torch.stack([torch.zeros(2), expected, torch.zeros(2)]))


def test_a_row_that_comes_twice_in_a_gradient_counts_its_sum_once() -> None:
    tables = [torch.nn.Parameter(torch.ones(3, 2)) for _ in range(2)]
    tables[0].grad = sparse_gradient([2, 2], torch.tensor([[1.0, 2.0], [3.0, 4.0]]), 3)
    tables[1].grad = sparse_gradient([2], torch.tensor([[4.0, 6.0]]), 3)
    for table in tables:
        RowAdam([table], lr=0.1).step()
    assert torch.equal(*tables)


def test_with_one_column_and_every_row_it_is_adam() -> None:
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(5, 1, generator=generator)
    rowwise, dense = torch.nn.Parameter(start.clone()), torch.nn.Parameter(start.clone())
    ours, adam = RowAdam([rowwise], lr=0.01), torch.optim.Adam([dense], lr=0.01)
    for _ in range(20):
        dense.grad = torch.randn(5, 1, generator=generator)
        rowwise.grad = dense.grad.to_sparse(1)
        ours.step()
        adam.step()
    torch.testing.assert_close(rowwise, dense)


def test_a_row_met_late_starts_as_one_met_first() -> None:
    """With one count for all rows its first step would be (1 - beta1) / sqrt(1 - beta2) = 3.2 times as long."""
    table = torch.nn.Parameter(torch.zeros(2, 2))
    optimizer = RowAdam([table], lr=0.1)
    gradient = torch.tensor([[1.0, -2.0]])
    for row in [0] * 50 + [1]:
        if row == 1:
            after_many = table.detach()[0].clone()
        table.grad = sparse_gradient([row], gradient, 2)
        optimizer.step()
    torch.testing.assert_close(table.detach()[1], -0.1 * gradient[0] / 2.5**0.5)
    assert torch.equal(table.detach()[0], after_many), "a row without a gradient does not move"


def test_the_matrices_of_recurrent_layers_decay_too() -> None:
    model = build_encoder(settings_of(architecture="gru", n_layers=1), VocabularyDescription(15))
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    decaying = {names[id(parameter)] for parameter in model.decaying_parameters()}
    assert {"layers.weight_ih_l0", "layers.weight_hh_l0"} <= decaying
    assert not any("bias" in name or "table" in name for name in decaying)


@pytest.mark.parametrize("sparse", [False, True])
def test_weights_decay_on_matrices_only_and_every_weight_has_one_optimizer(sparse: bool) -> None:
    model = transformer(SETTINGS, 15, sparse_tables=sparse)
    optimizers = build_optimizers(model, TrainingSettings(weight_decay=0.1))
    assert len(optimizers) == 1 + sparse
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = [group for optimizer in optimizers for group in optimizer.param_groups]
    decaying = {names[id(p)] for group in groups if group.get("weight_decay") for p in group["params"]}
    assert decaying
    assert all(name.endswith("weight") for name in decaying)
    assert not any(word in name for name in decaying for word in ("table", "norm", "bias"))
    assert sorted(names) == sorted(id(p) for group in groups for p in group["params"])


def test_the_rate_rises_in_a_line_then_falls_by_epoch() -> None:
    settings = TrainingSettings(learning_rate=1.0, warmup_steps=3, decay_factor=0.5)
    rates = [learning_rate(settings, step, steps_per_epoch=5) for step in range(11)]
    np.testing.assert_allclose(rates, [0.25, 0.5, 0.75, 1, 1, 0.5, 0.5, 0.5, 0.5, 0.5, 0.25])


def test_the_cosine_is_half_way_in_the_middle_and_ends_at_nothing() -> None:
    settings = TrainingSettings(learning_rate=2.0, warmup_steps=2, decay="cosine", epochs=2)
    rates = [learning_rate(settings, step, steps_per_epoch=5) for step in (2, 6, 10, 99)]
    np.testing.assert_allclose(rates, [2.0, 1.0, 0.0, 0.0], atol=1e-12)
