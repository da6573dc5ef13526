"""One step: what it draws, what it sums, what it changes."""

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch._dynamo.utils import counters

from conf.encoders import LossSettings, MaskingSettings, ModelSettings
from conf.training import TrainingSettings
from ml.objectives.cloze import MaskedBatch, hidden_batch, mask_tokens
from ml.training.distributed import OneProcess
from ml.training.step import Learner, Recipe, mix_seed
from schemas.tokens import FIRST_ITEM

N_TOKENS = FIRST_ITEM + 40
MODEL = ModelSettings(
    hidden_size=16, n_layers=1, n_heads=2, feed_forward_size=16, embedding_dropout=0.0, encoder_dropout=0.0
)
RECIPE = Recipe(MODEL, N_TOKENS, 8, TrainingSettings(n_ranks=1), MaskingSettings(), LossSettings(name="full"))
SAMPLED = replace(RECIPE, loss=LossSettings(name="sampled", n_negatives=1))


def tokens(n_rows: int, width: int = 8, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(FIRST_ITEM, N_TOKENS, (n_rows, width))


def masked(batch: np.ndarray, seed: int = 0) -> MaskedBatch:
    return mask_tokens(torch.from_numpy(batch), N_TOKENS, RECIPE.masking, torch.Generator().manual_seed(seed))


def same_weights(one: Learner, other: Learner) -> bool:
    return all(torch.equal(*pair) for pair in zip(one.model.parameters(), other.model.parameters(), strict=True))


class SecondRank(OneProcess):
    rank = 1


def test_masks_follow_the_seed_the_step_and_the_rank() -> None:
    batch = [tokens(20)]
    learners = [Learner(RECIPE), Learner(RECIPE), Learner(RECIPE, SecondRank()), Learner(replace(RECIPE, seed=1))]
    losses = [float(learner.step(batch).loss) for learner in learners]
    assert losses[0] == losses[1]
    assert len(set(losses)) == 3
    assert same_weights(*learners[:2])
    assert not same_weights(learners[0], learners[2])


@pytest.mark.parametrize("recipe", [RECIPE, SAMPLED], ids=["full", "sampled"])
def test_several_batches_of_one_step_count_as_one_batch(recipe: Recipe) -> None:
    # every item is a candidate in both, so that the sampled losses are comparable
    negatives = torch.arange(FIRST_ITEM, N_TOKENS) if recipe.is_sampled else None
    whole = masked(tokens(10))
    parts = [MaskedBatch(whole.inputs[rows], whole.labels[rows]) for rows in (slice(7), slice(7, None))]
    one, several = Learner(recipe), Learner(recipe)
    sums = one.update([whole], negatives), several.update(parts, negatives)
    assert sums[0].n_positions == sums[1].n_positions
    torch.testing.assert_close(sums[0].loss, sums[1].loss)
    for pair in zip(one.model.parameters(), several.model.parameters(), strict=True):
        torch.testing.assert_close(*pair, rtol=1e-3, atol=1e-6)


def test_with_a_sparse_table_a_step_changes_only_the_rows_it_uses() -> None:
    learner = Learner(SAMPLED)
    before = learner.model.item_table.weight.detach().clone()
    learner.step([np.array([[3, 4, 5]])])
    changed = (learner.model.item_table.weight != before).any(dim=1)
    assert 1 <= int(changed.sum()) <= 6
    assert not changed[0]


def test_the_gradient_of_a_table_holds_each_row_once_before_it_is_sent() -> None:
    learner = Learner(SAMPLED)
    learner.step([np.array([[3, 3, 3, 4], [4, 4, 3, 3]])])
    for table in learner.model.table_parameters():
        assert table.grad is not None
        rows = table.grad._indices()[0]
        assert len(rows.unique()) == len(rows)


@pytest.mark.parametrize("name", ["full", "sampled", "gbce"])
def test_half_precision_gives_nearly_the_same_loss_in_whole_numbers_and_leaves_weights_whole(name: Any) -> None:
    recipe = replace(RECIPE, loss=LossSettings(name=name, n_negatives=20))
    halved = replace(recipe, training=replace(recipe.training, precision="bfloat16"))
    learner, batch = Learner(halved), tokens(30)
    whole = Learner(recipe)
    negatives = torch.arange(FIRST_ITEM, FIRST_ITEM + 20) if recipe.is_sampled else None
    of_batch = learner._loss(hidden_batch(masked(batch)), negatives)
    assert of_batch.dtype == torch.float32
    loss, exact = float(learner.step([batch]).loss), float(whole.step([batch]).loss)
    assert loss != exact
    assert loss == pytest.approx(exact, rel=0.02)
    assert {parameter.dtype for parameter in learner.model.parameters()} == {torch.float32}


@pytest.mark.parametrize("recipe", [RECIPE, SAMPLED], ids=["full", "sampled"])
def test_a_compiled_encoder_is_compiled_whole_and_learns_the_same(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch._dynamo.reset()
    counters.clear()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    compiled = Learner(replace(recipe, training=replace(recipe.training, compile=True)))
    losses = [float(learner.step([tokens(20)]).loss) for learner in (Learner(recipe), compiled)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert counters["aot_autograd"]["ok"] > 0
    assert counters["aot_autograd"]["not_ok"] == 0


def test_gradients_are_clipped_to_their_common_norm(monkeypatch: pytest.MonkeyPatch) -> None:
    norms = []
    clip = torch.nn.utils.clip_grad_norm_

    def note(parameters: list[torch.nn.Parameter], largest: float) -> torch.Tensor:
        before = clip(parameters, largest)
        norms.append(float(torch.stack([p.grad.norm() for p in parameters if p.grad is not None]).norm()))
        return before

    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", note)
    Learner(replace(RECIPE, training=replace(RECIPE.training, clip_norm=0.01))).step([tokens(20)])
    assert norms == [pytest.approx(0.01, rel=1e-3)]


def test_seeds_of_different_parts_differ() -> None:
    seeds = {mix_seed(1, step, rank, use) for step in range(5) for rank in range(5) for use in range(2)}
    assert len(seeds) == 50
