from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from conf.evaluation import ProbeSettings
from ml.evaluation import probe
from ml.evaluation.packed_labels import PackedLabels
from ml.evaluation.probe import ProbeNetwork, build_probe, over_repeats, score_logits, score_task
from schemas.errors import TrainingError
from schemas.tasks import TaskScore

TINY = ProbeSettings(hidden_size=8, n_blocks=2, batch_size=5, epochs=3)


def examples():
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 2, size=(23, 1)).astype(np.uint8)
    rows = generator.normal(size=(23, 4)).astype(np.float16)
    rows[:, 0] += 3 * labels[:, 0]
    return rows, labels


def test_the_official_network_has_the_challenges_shapes():
    with torch.device("meta"):
        network = ProbeNetwork(300, 100, ProbeSettings())
    shapes = {name: tuple(value.shape) for name, value in network.named_parameters() if value.ndim == 2}
    blocks = {f"blocks.{i}.{j}.weight": s for i in range(3) for j, s in ((0, (4096, 2048)), (2, (2048, 4096)))}
    assert shapes == {"input_projection.weight": (2048, 300), **blocks, "output.weight": (100, 2048)}


def test_weights_are_those_of_the_seed_in_the_organisers_order_of_modules():
    network = build_probe(4, 3, TINY)
    torch.manual_seed(1278)
    linears = [nn.Linear(4, 8)]
    for _ in range(2):
        linears += [nn.Linear(8, 16), nn.Linear(16, 8)]
    linears.append(nn.Linear(8, 3))
    found = [module for module in network.modules() if isinstance(module, nn.Linear)]
    for ours, expected in zip(found, linears, strict=True):
        torch.testing.assert_close(ours.weight, expected.weight, rtol=0, atol=0)
        torch.testing.assert_close(ours.bias, expected.bias, rtol=0, atol=0)


ORGANISERS_SCORES = {
    "churn": (0.6520, 0.6520),
    "conversion": (0.6636, 0.6636),
    "propensity_category": (0.1967, 0.1218),
    "propensity_sku": (0.1391, 0.0496),
    "propensity_price": (0.1912, 0.1150),
    "propensity_new_sku": (0.0990, 0.0),
}
"""Score and AUROC that Synerise/recsys2025 e91c1a6 gave to the golden baseline features on one CPU thread, with its
hidden sizes set to 64 and 128 and its batch to 16."""


@pytest.mark.parametrize("task", ORGANISERS_SCORES)
def test_the_golden_features_score_as_in_the_organisers_pipeline(golden, task):
    entry, targets = np.load(golden / "baseline.npz"), np.load(golden / "targets.npz")
    target = golden / "challenge" / "target"
    is_asked = np.isin(entry["client_ids"], np.load(target / "active_clients.npy")) | (task != "churn")
    rows = np.flatnonzero(is_asked)
    train, validation = (
        targets[f"{'churn' if task == 'conversion' else task}/{window}"][rows] for window in ("train", "validation")
    )
    popularity = np.load(target / f"popularity_{task}.npy") if task.startswith("propensity") else None
    settings = ProbeSettings(hidden_size=64, batch_size=16)
    found = score_task(entry["features"], train, validation, task, popularity, settings, rows=rows)
    assert (found.score, found.auroc) == pytest.approx(ORGANISERS_SCORES[task], abs=1e-3)


def test_a_repeat_is_the_run_of_another_seed_on_permuted_rows():
    rows, labels = examples()
    order = np.random.default_rng(TINY.seed + 2).permutation(len(rows))
    other_seed = replace(TINY, seed=TINY.seed + 2)
    found = score_task(rows, labels, labels, "churn", None, TINY, repeat=2)
    assert found == score_task(rows[order], labels[order], labels[order], "churn", None, other_seed)
    assert found != score_task(rows, labels, labels, "churn", None, TINY)
    chosen = np.arange(3, len(rows))
    part = score_task(rows, labels[chosen], labels[chosen], "churn", None, TINY, rows=chosen, repeat=1)
    assert part == score_task(rows[chosen], labels[chosen], labels[chosen], "churn", None, TINY, repeat=1)


def test_repeats_keep_the_first_score_and_add_mean_and_deviation():
    results = [TaskScore(0.7, 0.6, 0.2, 0.3), TaskScore(0.5, 0.5, 0.1, 0.1), TaskScore(0.6, 0.6, 0.0, 0.0)]
    expected = TaskScore(0.7, 0.6, 0.2, 0.3, mean=0.6, std=0.1, n_repeats=3, repeats=[0.7, 0.5, 0.6])
    assert over_repeats(results) == expected
    assert over_repeats(results[:1]) == results[0]


def test_bfloat16_changes_the_products_and_not_the_last_layer():
    profiles = torch.randn(64, 4, generator=torch.Generator().manual_seed(0))
    exact, rounded = (build_probe(4, 1, replace(TINY, precision=name))(profiles) for name in ("float32", "bfloat16"))
    assert rounded.dtype == torch.float32
    assert 1e-5 < (exact - rounded).abs().max() < 0.1
    assert len(rounded.unique()) == 64


def test_building_the_network_leaves_the_callers_random_state():
    torch.manual_seed(7)
    before = torch.random.get_rng_state()
    build_probe(4, 3, TINY)
    assert torch.equal(before, torch.random.get_rng_state())


def test_the_forward_pass_adds_each_block_to_what_enters_it():
    network = build_probe(4, 1, ProbeSettings(hidden_size=8, n_blocks=1))
    x = torch.randn(2, 4)
    hidden = nn.functional.layer_norm(network.input_projection(x), (8,))
    expand, _, project = network.blocks[0]
    hidden = hidden + project(nn.functional.gelu(expand(nn.functional.layer_norm(hidden, (8,)))))
    torch.testing.assert_close(network(x), network.output(nn.functional.layer_norm(hidden, (8,))))


def test_the_probe_is_trained_on_unshuffled_batches_and_its_best_epoch_counts():
    rows, labels = examples()
    network = build_probe(4, 1, TINY)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
    x, y = torch.from_numpy(rows).float(), torch.from_numpy(labels).float()
    scores = []
    for _ in range(3):
        for start in range(0, 23, 5):
            optimizer.zero_grad()
            loss = nn.BCEWithLogitsLoss()(network(x[start : start + 5]), y[start : start + 5])
            loss.backward()
            optimizer.step()
        scores.append(score_logits(network(x).detach(), PackedLabels.pack(labels), "churn", None).score)
    assert len(set(scores)) > 1
    epochs: list[tuple[int, float]] = []
    found = score_task(rows, labels, labels, "churn", None, TINY, on_epoch=lambda *epoch: epochs.append(epoch))
    assert found.score == round(max(scores), 4)
    assert epochs == pytest.approx(list(enumerate(scores, start=1)))


def test_the_score_is_that_of_the_validation_labels():
    rows, labels = examples()
    quick = ProbeSettings(hidden_size=8, n_blocks=2, batch_size=5, learning_rate=0.03)
    right = score_task(rows, labels, labels, "churn", None, quick)
    wrong = score_task(rows, labels, 1 - labels, "churn", None, quick)
    assert right.auroc > 0.8 > 0.5 > wrong.auroc
    assert (right.novelty, right.diversity) == (None, None)


def test_chosen_rows_of_a_memory_map_score_as_their_copy(tmp_path):
    rows, labels = examples()
    np.save(tmp_path / "rows.npy", rows)
    chosen = np.array([1, 2, 3, 5, 8, 13, 21])
    mapped = np.load(tmp_path / "rows.npy", mmap_mode="r")
    found = score_task(mapped, labels[chosen], labels[chosen], "churn", None, TINY, rows=chosen)
    assert found == score_task(rows[chosen], labels[chosen], labels[chosen], "churn", None, TINY)


def test_a_propensity_task_weighs_auroc_novelty_and_diversity():
    rows, label = examples()
    labels = np.column_stack([label, 1 - label])
    found = score_task(rows, labels, labels, "propensity_sku", np.array([0.7, 0.3]), TINY)
    assert found.score == pytest.approx(0.8 * found.auroc + 0.1 * found.novelty + 0.1 * found.diversity, abs=2e-4)
    assert 0 < found.diversity <= 1


def test_a_logit_that_is_no_number_is_a_training_error():
    rows, labels = examples()
    with pytest.raises(TrainingError, match="probe of churn"):
        score_task(rows * np.float16(np.nan), labels, labels, "churn", None, TINY)


def test_the_epoch_of_the_highest_score_counts_wherever_it_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    of_epochs = iter([TaskScore(0.5, 0.6, 0.1, 0.1), TaskScore(0.7, 0.4, 0.2, 0.2), TaskScore(0.6, 0.9, 0.3, 0.3)])
    monkeypatch.setattr(probe, "score_logits", lambda *_: next(of_epochs))
    rows, labels = examples()
    assert score_task(rows, labels, labels, "churn", None, TINY) == TaskScore(0.7, 0.4, 0.2, 0.2)
