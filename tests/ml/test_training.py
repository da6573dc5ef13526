"""Training in one process: what is learned, what is kept, what repeats."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from conf.settings import FeedSettings, LossSettings, MaskingSettings, ModelSettings, TrainingSettings
from ml.bert4rec import Bert4Rec
from ml.checkpoint import ModelCard, load_model
from ml.distributed import OneProcess
from ml.ranking import RankingMetrics
from ml.sharding import FeedFile
from ml.training import Trainer, TrainingJob, build_optimizers, mix_seed, train_model
from schemas.errors import TrainingError
from schemas.tokens import FIRST_ITEM

N_ITEMS = 12
MODEL = ModelSettings(
    hidden_size=32, n_layers=1, n_heads=2, feed_forward_size=32, embedding_dropout=0.0, encoder_dropout=0.0
)
Lines = list[Mapping[str, Any]]


def circular(n_rows: int, length: int, seed: int) -> list[list[int]]:
    """Sequences in which each item is followed by the next one."""
    starts = np.random.default_rng(seed).integers(0, N_ITEMS, n_rows)
    return [[FIRST_ITEM + (start + step) % N_ITEMS for step in range(length)] for start in starts.tolist()]


def write_file(path: Path, sequences: list[list[int]], width: int) -> FeedFile:
    pq.write_table(pa.table({"token_ids": pa.array(sequences, pa.list_(pa.int32()))}), path)
    return FeedFile(f"file://{path}", len(sequences), width)


@pytest.fixture
def job(tmp_path: Path) -> TrainingJob:
    training = tuple(write_file(tmp_path / f"t{length}", circular(120, length, length), length) for length in (4, 8))
    return TrainingJob(
        card=ModelCard("page_visit", MODEL, FIRST_ITEM + N_ITEMS, 8, "a-fingerprint", 0),
        training_files=training,
        validation_files=(write_file(tmp_path / "v", circular(40, 6, 0), 8),),
        folder=tmp_path / "models" / "page_visit",
        seed=1,
        training=TrainingSettings(n_ranks=1, epochs=40, tokens_per_batch=64, learning_rate=3e-3, log_every_steps=5),
        masking=MaskingSettings(),
        loss=LossSettings(name="full"),
        feed=FeedSettings(),
    )


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_model(folder)[0].state_dict()


@pytest.mark.parametrize("loss", ["full", "sampled"])
def test_the_loss_falls_from_a_uniform_guess_and_the_next_item_is_learned(job: TrainingJob, loss: str) -> None:
    lines: Lines = []
    result = train_model(replace(job, loss=LossSettings(name=loss, n_negatives=64)), OneProcess(), lines.append)
    losses = [line["train/loss"] for line in lines if "train/loss" in line]
    assert abs(losses[0] - np.log(N_ITEMS)) < 0.6
    assert losses[-1] < 0.5 * losses[0]
    assert result.metrics is not None
    assert result.metrics.n_users == 40
    assert result.metrics.ndcg_at_10 > 0.6


def test_two_runs_of_one_seed_give_the_same_weights(job: TrainingJob, tmp_path: Path) -> None:
    dropped = replace(job.card, model=replace(MODEL, encoder_dropout=0.3))
    job = replace(job, card=dropped, training=replace(job.training, epochs=2))
    other = replace(job, folder=tmp_path / "again")
    for each in (job, other):
        train_model(each, OneProcess(), lambda _: None)
    for name, weight in weights(job.folder).items():
        assert torch.equal(weight, weights(other.folder)[name]), name


def test_the_epoch_with_the_best_score_over_all_held_out_users_is_kept(
    job: TrainingJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = {1: 0.1, 2: 0.4, 3: 0.2}
    kept: dict[int, torch.Tensor] = {}

    def validate(trainer: Trainer, epoch: int) -> RankingMetrics:
        kept[epoch] = trainer.model.item_table.weight.detach().clone()
        return RankingMetrics(40, 0.0, scores[epoch], 0.0)

    monkeypatch.setattr(Trainer, "validate", validate)
    job = replace(job, training=replace(job.training, epochs=3))
    assert train_model(job, OneProcess(), lambda _: None).best_epoch == 2
    assert torch.equal(weights(job.folder)["item_table.weight"], kept[2])


def test_without_a_held_out_client_the_last_epoch_is_kept(job: TrainingJob) -> None:
    job = replace(job, validation_files=(), training=replace(job.training, epochs=2))
    result = train_model(job, OneProcess(), lambda _: None)
    assert (result.best_epoch, result.metrics) == (2, None)
    assert (job.folder / "weights.safetensors").exists()


def test_a_loss_that_is_not_a_number_stops_training_and_keeps_the_former_model(job: TrainingJob) -> None:
    train_model(replace(job, training=replace(job.training, epochs=1)), OneProcess(), lambda _: None)
    before = weights(job.folder)
    with pytest.raises(TrainingError, match=r"page_visit: the loss is .* lower training.learning_rate"):
        train_model(
            replace(job, training=replace(job.training, learning_rate=1e30, epochs=2)), OneProcess(), lambda _: None
        )
    assert all(torch.equal(weight, before[name]) for name, weight in weights(job.folder).items())


def test_weights_decay_on_matrices_only(job: TrainingJob) -> None:
    model = Bert4Rec(MODEL, FIRST_ITEM + N_ITEMS, 8)
    (optimizer,) = build_optimizers(model, TrainingSettings(weight_decay=0.1), OneProcess())
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    decaying = {names[id(p)] for group in optimizer.param_groups if group["weight_decay"] for p in group["params"]}
    assert decaying
    assert all(name.endswith("weight") for name in decaying)
    assert not any(word in name for name in decaying for word in ("table", "norm", "bias"))
    assert len(names) == sum(len(group["params"]) for group in optimizer.param_groups)


def test_with_a_sparse_table_a_step_changes_only_the_rows_it_uses(job: TrainingJob) -> None:
    trainer = Trainer(replace(job, loss=LossSettings(name="sampled", n_negatives=1)), OneProcess(), lambda _: None)
    before = trainer.model.item_table.weight.detach().clone()
    trainer.train_step(torch.tensor([[3, 4, 5]]), torch.Generator().manual_seed(0))
    changed = (trainer.model.item_table.weight != before).any(dim=1)
    assert 1 <= int(changed.sum()) <= 6
    assert not changed[0]


def test_metrics_carry_units_and_rank_0s_view_of_all_ranks(job: TrainingJob) -> None:
    lines: Lines = []
    train_model(replace(job, training=replace(job.training, epochs=1)), OneProcess(), lines.append)
    interval = next(line for line in lines if "train/loss" in line)
    assert {"behaviour", "epoch", "step", "steps", "train/loss", "train/sequences_per_second",
            "train/tokens_per_second", "feed/wait_pct"} == set(interval)  # fmt: skip
    assert 0 <= interval["feed/wait_pct"] <= 100


def test_seeds_of_different_parts_differ() -> None:
    seeds = {mix_seed(1, epoch, rank, use) for epoch in range(5) for rank in range(5) for use in range(2)}
    assert len(seeds) == 50
