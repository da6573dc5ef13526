"""Vectors of a graph's clients: who becomes alike, what a rank holds, and that the seed decides."""

from collections.abc import Callable, Iterable
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from conf.graph import GraphSettings
from ml.data.edges import EdgeShare
from ml.training import graph
from ml.training.distributed import Ranks
from ml.training.graph import train_clients
from schemas.errors import TrainingError

SETTINGS = GraphSettings(dimensions=8, epochs=12, edges_per_batch=64, learning_rate=0.02)
N_CLIENTS, N_ITEMS = 40, 20
CPU = torch.device("cpu")


def two_tastes() -> EdgeShare:
    """Clients of even and of odd numbers, who buy and add items of like numbers; some are bought by all."""
    rng = np.random.default_rng(1)
    clients = np.repeat(np.arange(N_CLIENTS), 8)
    items = 2 * rng.integers(0, N_ITEMS // 2, len(clients)) + clients % 2
    pairs = np.unique(np.stack([clients, 2 * items + rng.integers(0, 2, len(clients))], axis=1), axis=0)
    return EdgeShare.of(pairs[:, 0], pairs[:, 1].astype(np.int32))


def test_clients_of_one_taste_become_alike_and_the_seed_decides_the_rest() -> None:
    vectors, losses = train_clients(two_tastes(), N_ITEMS, 2, SETTINGS, Ranks(), CPU)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)
    is_same = np.arange(N_CLIENTS)[:, None] % 2 == np.arange(N_CLIENTS) % 2
    alike = vectors @ vectors.T
    assert alike[is_same].mean() > alike[~is_same].mean() + 0.5
    assert losses[-1] < losses[0] / 2
    again, _ = train_clients(two_tastes(), N_ITEMS, 2, SETTINGS, Ranks(), CPU)
    np.testing.assert_array_equal(vectors, again)
    other, _ = train_clients(two_tastes(), N_ITEMS, 2, replace(SETTINGS, seed=1), Ranks(), CPU)
    assert not np.allclose(vectors, other, atol=0.1)


def test_clients_learn_from_given_vectors_of_items_too() -> None:
    given = np.random.default_rng(1).normal(size=(N_ITEMS, 6)).astype(np.float32)
    given[::2, 0] += 4  # items of one taste are alike
    given[1::2, 0] -= 4
    vectors, losses = train_clients(two_tastes(), N_ITEMS, 2, SETTINGS, Ranks(), CPU, given=given)
    is_same = np.arange(N_CLIENTS)[:, None] % 2 == np.arange(N_CLIENTS) % 2
    alike = vectors @ vectors.T
    assert alike[is_same].mean() > alike[~is_same].mean() + 0.5
    assert losses[-1] < losses[0] / 2


class OneOfTwo(Ranks):
    """A rank whose other one has 100 edges; it notes what is exchanged."""

    world_size = 2

    def __init__(self) -> None:
        self.exchanged: list[list[torch.Size]] = []

    def begin_sum(self, values: Iterable[float]) -> Callable[[], NDArray[np.float64]]:
        total = np.array(list(values), np.float64)
        return lambda: total + (np.array([0, 100]) if len(total) == 2 else 1)

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        gradients = [parameter.grad for parameter in parameters]
        assert all(gradient is not None for gradient in gradients), "the ranks would wait for each other for ever"
        self.exchanged.append([gradient.shape for gradient in gradients if gradient is not None])


def test_a_rank_exchanges_items_and_relations_alone_and_one_without_an_edge_keeps_step() -> None:
    ranks, n_steps = OneOfTwo(), []
    nothing = EdgeShare.of(np.array([], np.int64), np.array([], np.int32))
    vectors, _ = train_clients(nothing, 5, 2, replace(SETTINGS, epochs=3), ranks, CPU, lambda: n_steps.append(1))
    assert vectors.shape == (0, 8)
    assert len(n_steps) == 3 * 2, "as many steps as the other rank's 100 edges need"
    assert ranks.exchanged == [[(2, 8), (), (), (5, 8)]] * 6


def test_no_gradient_of_clients_is_dense_and_those_of_no_edge_in_a_step_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    tables = []
    make = graph.vector_table
    monkeypatch.setattr(graph, "vector_table", lambda *values: tables.append(make(*values)) or tables[-1])
    moved: list[set[int]] = []
    before: list[torch.Tensor] = []

    def note() -> None:
        weight = tables[0].weight
        assert weight.grad.is_sparse
        rows = (weight.detach() != before[-1]).any(dim=1).nonzero().flatten() if before else torch.tensor([])
        assert set(rows.tolist()) <= set(weight.grad.coalesce().indices()[0].tolist())
        moved.append(set(rows.tolist()))
        before.append(weight.detach().clone())

    train_clients(two_tastes(), N_ITEMS, 2, replace(SETTINGS, edges_per_batch=4, epochs=1), Ranks(), CPU, note)
    assert 0 < max(map(len, moved)) <= 4


def test_a_loss_that_is_no_number_ends_the_training() -> None:
    with pytest.raises(TrainingError, match=r"the loss of epoch 1 is nan; lower graph\.learning_rate"):
        train_clients(two_tastes(), N_ITEMS, 2, replace(SETTINGS, scale=float("nan")), Ranks(), CPU)


def test_each_epoch_puts_other_edges_together(monkeypatch: pytest.MonkeyPatch) -> None:
    make, drawn = EdgeShare.batches, []

    def note(share: EdgeShare, n_batches: int, generator: np.random.Generator) -> list:
        batches = list(make(share, n_batches, generator))
        drawn.append([batch.targets.tolist() for batch in batches])
        return batches

    monkeypatch.setattr(EdgeShare, "batches", note)
    train_clients(two_tastes(), N_ITEMS, 2, replace(SETTINGS, epochs=2), Ranks(), CPU)
    assert drawn[0] != drawn[1]
