import json
import math

import pytest
import torch
from torchmetrics.classification import MultilabelAUROC
from torchmetrics.functional.classification import multilabel_auroc

from ml.evaluation.packed_labels import PackedLabels
from ml.metrics import challenge
from ml.metrics.challenge import auroc, borda, diversity, novelty, propensity_score

CASES = range(4)


@pytest.mark.parametrize("number", CASES)
def test_metrics_are_the_golden_ones(golden, number):
    case = json.loads((golden / "metrics.json").read_text())[number]
    logits, labels = torch.tensor(case["predictions"]), torch.tensor(case["targets"])
    found = {
        "auroc": auroc(logits, labels.T),
        "novelty": novelty(logits, torch.tensor(case["popularity"])),
        "diversity": diversity(logits),
    }
    found["score"] = propensity_score(**found)
    assert found == pytest.approx(case["propensity"], abs=1e-5)
    assert auroc(logits[:, :1], labels[:, :1].T) == pytest.approx(case["binary_first_column_auroc"], abs=1e-5)


def test_auroc_is_the_share_of_pairs_in_the_right_order():
    logits = torch.tensor([[3.0], [1.0], [2.0], [0.0]])
    assert auroc(logits, torch.tensor([[1, 1, 0, 0]])) == pytest.approx(3 / 4)


def test_a_batch_between_0_and_1_is_taken_for_probabilities_as_the_organisers_loader_gives_it_to_torchmetrics():
    generator = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(130, 2, generator=generator), torch.randint(2, (130, 2), generator=generator)
    logits[-2:] = torch.tensor([[0.2, 0.4], [0.7, 0.1]])
    metric = MultilabelAUROC(num_labels=2, average="macro")
    for batch, target in zip(logits.split(128), labels.split(128), strict=True):
        metric.update(batch, target)
    assert auroc(logits, labels.T, batch_size=128) == float(metric.compute()) != auroc(logits, labels.T)


def test_a_label_without_positives_counts_zero_in_the_mean_as_in_torchmetrics():
    logits = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
    assert auroc(logits, torch.tensor([[1, 0], [0, 0]])) == pytest.approx(0.5)


def test_novelty_falls_with_the_popularity_of_what_is_predicted():
    popularity = torch.tensor([0.75, 0.25])
    logits = torch.logit(torch.tensor([[0.01, 0.001]]))
    assert novelty(logits, popularity) == pytest.approx((1 - (0.01 * 0.75 + 0.001 * 0.25)) ** 100, abs=1e-5)


def test_only_the_ten_likeliest_labels_count_for_novelty():
    popularity = torch.ones(11)
    logits = torch.logit(torch.tensor([[0.01] * 10 + [0.009]]))
    assert novelty(logits, popularity) == pytest.approx((1 - 0.01) ** 100, abs=1e-5)


def test_predictions_are_wholly_novel_where_nothing_is_popular():
    assert novelty(torch.zeros(2, 3), torch.zeros(3)) == 1.0


def test_diversity_is_one_for_equal_outputs_and_that_of_fewer_labels_for_some():
    assert diversity(torch.zeros(3, 8)) == pytest.approx(1.0, abs=1e-5)
    half = torch.tensor([[0.0, 0.0, -1e9, -1e9]])
    assert diversity(half) == pytest.approx(math.log2(2) / math.log2(4), abs=1e-5)
    assert diversity(torch.zeros(3, 1)) == 0.0


def test_place_k_of_n_gives_n_minus_k_points_and_equal_scores_share_the_best_place():
    scores = {
        "a": {"churn": 0.9, "conversion": 0.5},
        "b": {"churn": 0.8, "conversion": 0.5},
        "c": {"churn": 0.7, "conversion": 0.6},
    }
    assert borda(scores) == {"a": 2 + 1, "b": 1 + 1, "c": 0 + 2}


def test_an_entry_without_a_task_gets_no_points_for_it():
    assert borda({"a": {"churn": 0.9}, "b": {}}) == {"a": 1, "b": 0}


@pytest.mark.parametrize("scale", [3.0, 0.2])
def test_a_part_at_a_time_gives_the_same_numbers_to_the_last_bit(monkeypatch, scale):
    generator = torch.Generator().manual_seed(0)
    logits = scale * torch.rand(10_007, 13, generator=generator) - scale / 3
    logits = logits if scale > 1 else logits.clamp(0, 1)  # which torchmetrics takes for probabilities
    labels = (torch.rand(10_007, 13, generator=generator) < torch.sigmoid(logits) / 3).long()
    labels[:, 5] = 0
    popularity = torch.rand(13, generator=generator)
    whole = float(multilabel_auroc(logits, labels, num_labels=13, average="macro"))
    at_once = novelty(logits, popularity), diversity(logits)
    monkeypatch.setattr(challenge, "ROWS_AT_ONCE", 1000)
    packed = PackedLabels.pack(labels.numpy())
    assert auroc(logits, packed.columns()) == auroc(logits, labels.T) == whole
    assert (novelty(logits, popularity), diversity(logits)) == at_once
    assert torch.equal(packed.unpack(slice(5, 900)), labels[5:900].to(torch.uint8))
