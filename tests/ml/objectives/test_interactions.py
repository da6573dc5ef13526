"""The losses of the network of interactions against values computed by hand."""

from math import exp, log

import pytest
import torch

from ml.objectives.interactions import label_loss, view_loss


def test_each_head_is_a_mean_over_its_labels_and_the_clients_that_it_is_asked_of() -> None:
    zero, label = log(2), torch.tensor([[1.0, 0, 1], [0, 1, 1]])
    logits = torch.tensor([[0.0, 0, 0], [9.0, 0, -log(3)]])
    # the second client is not asked of the first head; its last label has 1 / (1 + 3)
    found = label_loss(logits, label, torch.tensor([[True, True], [False, True]]), (1, 2))
    assert found.item() == pytest.approx(zero + (zero + (zero + log(4)) / 2) / 2)
    assert label_loss(logits, label, torch.zeros(2, 2, dtype=torch.bool), (1, 2)).item() == 0


def test_a_view_is_told_from_those_of_others() -> None:
    one, other = torch.tensor([[2.0, 0], [0, 3]]), torch.tensor([[1.0, 0], [1, 1]])
    # cosines: 1 and .7071 of the first, 0 and .7071 of the second; the temperature is .5
    half = 2**0.5
    by_hand = [log(1 + exp(half - 2)), log(1 + exp(-half))]
    assert view_loss(one, other, 0.5).item() == pytest.approx(sum(by_hand) / 2)
