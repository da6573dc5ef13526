import numpy as np
import pytest
import torch
from torch import nn

from conf.settings import ProbeSettings
from ml.probe import ProbeNetwork, build_probe, score_logits, score_task
from schemas.errors import TrainingError

TINY = ProbeSettings(hidden_size=8, n_blocks=2, batch_size=5, epochs=3)


def examples(n=23, width=4):
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 2, size=(n, 1)).astype(np.uint8)
    rows = generator.normal(size=(n, width)).astype(np.float16)
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
        scores.append(score_logits(network(x).detach(), y, "churn", None).score)
    assert len(set(scores)) > 1
    assert score_task(rows, labels, labels, "churn", None, TINY).score == round(max(scores), 4)


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
