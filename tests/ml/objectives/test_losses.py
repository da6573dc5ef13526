import math

import pytest
import torch
import torch.nn.functional as F

from ml.objectives.losses import (
    bce_loss,
    bpr_max_loss,
    corrected_log_q_loss,
    gbce_loss,
    in_batch_softmax_loss,
    sampled_softmax_loss,
)
from schemas.tokens import FIRST_ITEM

SCORES = torch.tensor([0.0, 0.0, 0.0, 1.0, 2.0, 3.0])
"""Of the token ids 0 to 5, of which 3, 4 and 5 are items."""


def candidates_of(labels, negatives, scores):
    """Logits, columns, positives and negatives of a sampled loss; ``scores`` [M, tokens] are those of all tokens."""
    positives, columns = torch.tensor(labels).unique(return_inverse=True)
    negatives = torch.tensor(negatives)
    return scores[:, torch.cat([positives, negatives])], columns, positives, negatives


def test_sampled_softmax_lowers_negatives_by_their_expected_count_and_removes_hits():
    # label 4; negatives 3 and an accidental hit, 4; two draws among three items find each 2/3 times on average
    loss = sampled_softmax_loss(*candidates_of([4], [3, 4], SCORES.unsqueeze(0)), n_items=3)

    negative = math.exp(1) / (2 / 3)
    assert loss.item() == pytest.approx(-math.log(math.exp(2) / (math.exp(2) + negative)))


def test_another_rows_label_is_a_candidate_once_and_with_certainty():
    scores = torch.stack([SCORES, torch.zeros(6)])
    loss = sampled_softmax_loss(*candidates_of([4, 5], [5, 5, 3], scores), n_items=3)

    first = -math.log(math.exp(2) / (math.exp(2) + math.exp(3) + math.exp(1)))
    assert loss.item() == pytest.approx(first + math.log(3))


def test_sampled_softmax_with_every_item_as_negative_is_the_full_one_over_items():
    torch.manual_seed(7)
    scores, labels = torch.randn(9, 30), torch.randint(FIRST_ITEM, 30, (9,))
    sampled = sampled_softmax_loss(*candidates_of(labels.tolist(), range(FIRST_ITEM, 30), scores), n_items=27)

    expected = F.cross_entropy(scores[:, FIRST_ITEM:], labels - FIRST_ITEM, reduction="sum")
    torch.testing.assert_close(sampled, expected)


def test_the_sampled_denominator_is_the_full_one_on_average():
    generator = torch.Generator().manual_seed(7)
    scores = torch.randn(1, 53, generator=generator)
    negatives = torch.randint(FIRST_ITEM, 53, (2000, 20), generator=generator).tolist()
    losses = torch.stack([sampled_softmax_loss(*candidates_of([10], drawn, scores), n_items=50) for drawn in negatives])

    # exp(loss) is the denominator over the label's own exp(logit)
    expected = scores[0, FIRST_ITEM:].exp().sum() / scores[0, 10].exp()
    assert losses.exp().mean().item() == pytest.approx(expected.item(), rel=0.02)


def test_gbce_is_the_papers_formula_with_accidental_hits_removed():
    # three items, two negatives: alpha = 2 / (3 - 1) = 1, so beta = 1 whatever t; label 4 scores 2
    one = gbce_loss(*candidates_of([4], [3, 4], SCORES.unsqueeze(0)), n_items=3, t=0.75)
    assert one.item() == pytest.approx((-log_sigmoid(2) - log_sigmoid(-1)) / 3)

    # one negative: alpha = 1/2, beta = 1/2 (t (1 - 2) + 2) = 1 - t/2
    calibrated = gbce_loss(*candidates_of([4], [5], SCORES.unsqueeze(0)), n_items=3, t=0.5)
    assert calibrated.item() == pytest.approx((-0.75 * log_sigmoid(2) - log_sigmoid(-3)) / 2)


def test_gbce_removes_a_hit_from_its_own_row_alone():
    loss = gbce_loss(*candidates_of([5, 3], [3, 5], SCORES.expand(2, -1)), n_items=3, t=0.0)

    first = -log_sigmoid(3) - log_sigmoid(-1)
    second = -log_sigmoid(1) - log_sigmoid(-3)
    assert loss.item() == pytest.approx((first + second) / 3)


def test_bce_is_the_mean_over_a_label_and_its_own_negative_where_something_is_asked():
    logits = torch.tensor([[2.0, -1.0], [0.0, 1.0], [9.0, 9.0]])
    loss = bce_loss(logits, torch.tensor([True, True, False]))

    assert loss.item() == pytest.approx(-(log_sigmoid(2) + log_sigmoid(1) + log_sigmoid(0) + log_sigmoid(-1)) / 2)


def test_bpr_max_weighs_negatives_by_their_softmax_and_leaves_out_the_label():
    # label 4 scores 2; the negatives that are not the label: 3 scores 1, 5 scores 3
    loss = bpr_max_loss(*candidates_of([4], [3, 4, 5], SCORES.unsqueeze(0)), regularisation=0.5)

    first, second = math.exp(1) / (math.exp(1) + math.exp(3)), math.exp(3) / (math.exp(1) + math.exp(3))
    ranking = -math.log(first * math.exp(log_sigmoid(1)) + second * math.exp(log_sigmoid(-1)))
    assert loss.item() == pytest.approx(ranking + 0.5 * (first * 1 + second * 9))


def test_bpr_max_takes_the_other_labels_of_a_batch_and_is_finite_without_negatives():
    scores = SCORES.expand(2, -1)
    loss = bpr_max_loss(*candidates_of([4, 5], [4], scores), regularisation=0.0)
    assert loss.item() == pytest.approx(-log_sigmoid(2 - 3) - log_sigmoid(3 - 2), rel=1e-5)
    assert bpr_max_loss(*candidates_of([4], [4], SCORES.unsqueeze(0)), regularisation=0.0).isfinite()


def log_sigmoid(x):
    return -math.log(1 + math.exp(-x))


def test_labels_of_a_batch_are_negatives_as_often_as_they_are_drawn():
    # a label and what is drawn beside it: one candidate never, the other twice
    loss = in_batch_softmax_loss(torch.tensor([2.0]), torch.tensor([[9.0, 1.0]]), torch.tensor([[0.0, 2.0]]))

    assert loss.item() == pytest.approx(-math.log(math.exp(2) / (math.exp(2) + 2 * math.exp(1))))


# of six draws three are the label itself, which is no negative; 5 is drawn twice, 6 once
CORRECTED = {
    "counts": torch.tensor([[0.0, 2.0, 0.0, 1.0]]),
    "probabilities": torch.tensor([[0.2, 0.5, 0.2, 0.1]]),
    "n_draws": torch.tensor([6.0]),
}


def test_the_corrected_log_q_leaves_the_positive_out_of_the_sum_and_weighs_by_how_improbable_it_is():
    loss = corrected_log_q_loss(torch.tensor([2.0]), torch.tensor([[2.0, 1.0, 2.0, 0.5]]), **CORRECTED)

    draws = 2 * math.exp(1) / 0.5 + math.exp(0.5) / 0.1
    probability = math.exp(2) / (math.exp(2) + draws / 6)
    assert loss.item() == pytest.approx(-(1 - probability) * math.log(math.exp(2) / draws))


def test_no_gradient_flows_through_the_weight():
    own = torch.tensor([2.0], requires_grad=True)
    logits = torch.tensor([[2.0, 1.0, 2.0, 0.5]], requires_grad=True)
    corrected_log_q_loss(own, logits, **CORRECTED).backward()

    of_5, of_6 = 2 * math.exp(1) / 0.5, math.exp(0.5) / 0.1
    weight = 1 - math.exp(2) / (math.exp(2) + (of_5 + of_6) / 6)
    torch.testing.assert_close(own.grad, torch.tensor([-weight]))
    expected = [0.0, weight * of_5 / (of_5 + of_6), 0.0, weight * of_6 / (of_5 + of_6)]
    torch.testing.assert_close(logits.grad[0], torch.tensor(expected))


def test_a_position_whose_draws_are_all_hits_costs_nothing():
    own, logits = torch.tensor([2.0], requires_grad=True), torch.tensor([[2.0, 1.0]], requires_grad=True)
    counts = torch.zeros(1, 2)
    loss = corrected_log_q_loss(own, logits, counts, torch.full((1, 2), 0.5), torch.ones(1))
    loss = loss + in_batch_softmax_loss(own, logits, counts)
    loss.backward()

    assert loss.item() == 0
    assert logits.grad.tolist() == [[0, 0]]
    assert own.grad.tolist() == [0]
