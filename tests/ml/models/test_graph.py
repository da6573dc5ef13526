"""The loss of edges, by hand; each of the three traps that a plain cosine in a batch falls into."""

from dataclasses import replace
from math import exp, log

import pytest
import torch
from torch import Tensor

from conf.graph import GraphSettings
from ml.models.graph import EdgeModel, edge_loss

SETTINGS = GraphSettings(dimensions=4)


def softplus(value: float) -> float:
    return log(1 + exp(value))


def eye(n: int) -> Tensor:
    return torch.eye(n, dtype=torch.bool)


def test_the_loss_is_a_cross_entropy_in_which_negatives_weigh_as_much_as_positives() -> None:
    logits = torch.tensor([[1.0, -2.0, 0.3], [0.5, 3.0, -1.0], [0.0, 2.0, -0.5]])
    positives = softplus(-1.0) + softplus(-3.0) + softplus(0.5)
    negatives = [softplus(value) for value in (-2.0, 0.3, 0.5, -1.0, 0.0, 2.0)]
    assert edge_loss(logits, eye(3)).item() == pytest.approx(positives + sum(negatives) * 3 / 6)
    is_edge = eye(3)
    is_edge[0, 2] = is_edge[2, 1] = True
    kept = [softplus(value) for value in (-2.0, 0.5, -1.0, 0.0)]
    assert edge_loss(logits, is_edge).item() == pytest.approx(positives + sum(kept) * 3 / 4)


def test_a_target_stands_for_an_item_moved_by_its_relation() -> None:
    model = EdgeModel(2, 2, replace(SETTINGS, scale=2.0, bias=0.5))
    items = torch.tensor([[1.0, 0, 0, 0], [0, 1, 0, 0]])
    relations = torch.tensor([[0.0, 0, 0, 0], [0, 0, 1, 0]])
    with torch.no_grad():
        model.items.weight.copy_(items)
        model.relations.copy_(relations)
    clients = torch.tensor([[3.0, 0, 4, 0], [0, 2, 0, 0]])  # .6, 0, .8, 0 and 0, 1, 0, 0
    # item 0 by relation 1 is (1, 0, 1, 0) / sqrt 2; item 1 by relation 0 is (0, 1, 0, 0)
    logits = [2 * (0.6 + 0.8) / 2**0.5 + 0.5, 0.5, 0.5, 2.5]
    expected = softplus(-logits[0]) + softplus(logits[1]) + softplus(logits[2]) + softplus(-logits[3])
    loss = model.loss(clients, torch.tensor([1, 2]), eye(2))
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    loss.backward()
    assert model.items.weight.grad is not None
    assert model.items.weight.grad.is_sparse
    assert all(float(part.grad.abs().sum()) > 0 for part in (model.relations, model.scale, model.bias))  # type: ignore[union-attr]


def test_given_vectors_of_items_are_projected_and_stay_as_they_are() -> None:
    given = torch.tensor([[3.0, 4.0], [0.0, 2.0], [0.0, 0.0]])
    model = EdgeModel(3, 1, replace(SETTINGS, scale=1.0, bias=0.0), given)
    with torch.no_grad():
        model.relations.zero_()
        model.items.projection.weight.copy_(torch.tensor([[1.0, 0], [0, 1], [0, 0], [0, 0]]))  # type: ignore[union-attr]
    clients = torch.tensor([[1.0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]])
    # items of length 1: (.6, .8) and (0, 1); the third is none
    cosines = torch.tensor([[0.6, 0, 0], [0.8, 1, 0], [0, 0, 0]])
    loss = model.loss(clients, torch.arange(3), eye(3))
    assert loss.item() == pytest.approx(edge_loss(cosines, eye(3)).item(), rel=1e-5)
    loss.backward()
    assert {name for name, _ in model.named_parameters()} == {"relations", "scale", "bias", "items.projection.weight"}
    assert model.items.projection.weight.grad.abs().sum() > 0  # type: ignore[union-attr]
    assert "items.vectors" not in model.state_dict(), "ranks would exchange what all of them have"


def best_loss(settings: GraphSettings) -> float:
    """Per edge, of clients that are as like their items, and as unlike the others, as unit vectors can be."""
    model = EdgeModel(2, 1, settings)
    apart = torch.tensor([[1.0, 0, 0, 0], [-1, 0, 0, 0]])
    with torch.no_grad():
        model.items.weight.copy_(apart)
        model.relations.zero_()
    return model.loss(apart, torch.tensor([0, 1]), eye(2)).item() / 2


def test_the_scale_lets_perfect_vectors_have_almost_no_loss() -> None:
    assert best_loss(replace(SETTINGS, scale=1.0, bias=0.0)) == pytest.approx(2 * softplus(-1.0))
    assert best_loss(SETTINGS) < 0.01


def test_many_negatives_do_not_pull_a_balanced_logit_down() -> None:
    logits = torch.zeros(50, 50, requires_grad=True)
    edge_loss(logits, eye(50)).backward()
    assert logits.grad is not None
    assert logits.grad.diagonal().sum().item() == pytest.approx(-25)
    # 2,450 negatives pull as hard as 50 positives; unweighted, 49 times as hard
    assert logits.grad.sum().item() == pytest.approx(0, abs=1e-4)


def test_true_edges_are_no_negatives_and_a_batch_may_have_no_negative() -> None:
    logits = torch.zeros(2, 2, requires_grad=True)
    loss = edge_loss(logits, torch.ones(2, 2, dtype=torch.bool))
    loss.backward()
    assert loss.item() == pytest.approx(2 * log(2))
    assert logits.grad is not None
    assert logits.grad.tolist() == [[-0.5, 0], [0, -0.5]]
