"""Training in one process: what is learned, what is kept, what repeats."""

import contextlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_encoders import without_dropout
from thread_ranks import two_ranks

from conf.encoders import InferenceSettings, LossSettings, MaskingSettings
from conf.training import TrainingSettings
from ml.data.array_feed import ArrayFeed
from ml.data.sequence_batch import Batches, Feed, Sequences
from ml.data.vocabulary import VocabularyDescription
from ml.metrics.ranking import RankingMetrics
from ml.training import loop
from ml.training.checkpoint import ModelCard, load_model
from ml.training.distributed import Ranks
from ml.training.loop import Trainer, TrainingJob, TrainingResult, train_model
from ml.training.step import Learner, open_feed
from schemas.errors import ConfigError, TrainingError
from schemas.tokens import FIRST_ITEM

N_ITEMS = 12
TRAINING = TrainingSettings(n_ranks=1, epochs=40, tokens_per_batch=64, learning_rate=3e-3, log_every_steps=5)
SETTINGS = without_dropout(hidden_size=32, max_length=8, training=TRAINING)
DROPPED = {"embedding_dropout": 0.1, "encoder_dropout": 0.3}
Lines = list[Mapping[str, Any]]


def circular(n_rows: int, length: int, seed: int) -> list[list[int]]:
    """Sequences in which each item is followed by the next one."""
    starts = np.random.default_rng(seed).integers(0, N_ITEMS, n_rows)
    return [[FIRST_ITEM + (start + step) % N_ITEMS for step in range(length)] for start in starts.tolist()]


def feed(n_held_out: int = 40) -> ArrayFeed:
    rows = Sequences.from_rows(circular(120, 4, 4) + circular(120, 8, 8))
    validation = Sequences.from_rows(circular(n_held_out, 6, 0))
    return ArrayFeed(rows, validation, widths=(4, 8), tokens_per_batch=64, seed=1)


@pytest.fixture
def job(tmp_path: Path) -> TrainingJob:
    return TrainingJob(
        card=ModelCard("page_visit", SETTINGS, VocabularyDescription(FIRST_ITEM + N_ITEMS), "a-fingerprint", 0),
        folder=tmp_path / "models" / "page_visit",
        checkpoints=tmp_path / "checkpoints" / "page_visit",
        seed=1,
    )


def changed(job: TrainingJob, **settings: Any) -> TrainingJob:
    """The job with other settings of its encoder."""
    return replace(job, card=replace(job.card, settings=replace(job.settings, **settings)))


def trained(job: TrainingJob, **training: Any) -> TrainingJob:
    """The job with other settings of its training."""
    return changed(job, training=replace(job.settings.training, **training))


def train(job: TrainingJob, lines: Lines | None = None, from_feed: Any = None) -> TrainingResult:
    return train_model(job, from_feed or feed(), Ranks(), [].append if lines is None else lines.append)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_model(folder)[0].state_dict()


@pytest.mark.parametrize(
    ("loss", "attention", "objective"),
    [("full", "bidirectional", "cloze"), ("sampled", "bidirectional", "cloze"), ("sampled", "causal", "next_item")],
)
def test_the_loss_falls_from_a_uniform_guess_and_the_next_item_is_learned(
    job: TrainingJob, loss: Any, attention: Any, objective: str
) -> None:
    lines: Lines = []
    loss = LossSettings(name=loss, n_negatives=64)
    result = train(changed(job, attention=attention, objective=objective, loss=loss), lines)
    losses = [line["train/loss"] for line in lines if "train/loss" in line]
    assert abs(losses[0] - np.log(N_ITEMS)) < 0.6
    assert losses[-1] < 0.5 * losses[0]
    assert result.metrics is not None
    assert result.metrics.n_users == 40
    assert result.metrics.ndcg_at_10 > 0.6


def test_an_encoder_and_an_objective_that_do_not_go_together_are_refused_by_name(job: TrainingJob) -> None:
    with pytest.raises(ConfigError, match=r"encoders\.page_visit\.objective=cloze: expected a bidirectional encoder"):
        train(changed(job, attention="causal"))


@pytest.mark.parametrize(
    ("changes", "is_same"),
    [({"inference": InferenceSettings(pooling="last")}, True), ({"masking": MaskingSettings(mask_prob=0.2)}, False)],
)
def test_only_what_the_weights_depend_on_makes_another_job(
    job: TrainingJob, changes: dict[str, Any], is_same: bool
) -> None:
    assert (changed(job, **changes).fingerprint(1) == job.fingerprint(1)) is is_same
    assert trained(job, log_every_steps=6).fingerprint(1) == job.fingerprint(1)


def test_two_runs_of_one_seed_give_the_same_weights(job: TrainingJob, tmp_path: Path) -> None:
    job = trained(changed(job, **DROPPED), epochs=2)
    other = replace(job, folder=tmp_path / "again", checkpoints=tmp_path / "others")
    for each in (job, other):
        train(each)
    for name, weight in weights(job.folder).items():
        assert torch.equal(weight, weights(other.folder)[name]), name


def test_the_epoch_with_the_best_score_over_all_held_out_users_is_kept(
    job: TrainingJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = {1: 0.1, 2: 0.4, 3: 0.2}
    kept: dict[int, torch.Tensor] = {}

    def validate(trainer: Trainer) -> RankingMetrics:
        epoch = trainer.position.epoch
        kept[epoch] = trainer.learner.encoder.item_table.weight.detach().clone()
        return RankingMetrics(40, 0.0, scores[epoch], 0.0)

    monkeypatch.setattr(Trainer, "validate", validate)
    job = trained(job, epochs=3)
    assert train(job).best_epoch == 2
    assert torch.equal(weights(job.folder)["item_table.weight"], kept[2])


@pytest.mark.parametrize(("patience", "epochs_run"), [(2, 4), (3, 6), (None, 6)])
def test_training_stops_when_no_epoch_is_better_for_so_long(
    job: TrainingJob, monkeypatch: pytest.MonkeyPatch, patience: int | None, epochs_run: int
) -> None:
    scores = [0.1, 0.4, 0.2, 0.3, 0.5, 0.1]
    ran: list[int] = []

    def validate(trainer: Trainer) -> RankingMetrics:
        ran.append(trainer.position.epoch)
        return RankingMetrics(40, 0.0, scores[trainer.position.epoch - 1], 0.0)

    monkeypatch.setattr(Trainer, "validate", validate)
    train(trained(job, epochs=6, patience=patience))
    assert ran == list(range(1, epochs_run + 1))


def test_without_a_held_out_client_the_last_epoch_is_kept(job: TrainingJob) -> None:
    result = train(trained(job, epochs=2), from_feed=feed(n_held_out=0))
    assert (result.best_epoch, result.metrics) == (2, None)
    assert (job.folder / "weights.safetensors").exists()


@pytest.mark.parametrize("log_every_steps", [5, 1000])
def test_a_loss_or_weight_that_is_not_a_number_stops_training_and_keeps_the_former_model(
    job: TrainingJob, log_every_steps: int
) -> None:
    train(trained(job, epochs=1))
    before = weights(job.folder)
    too_fast = trained(job, learning_rate=1e30, epochs=2, log_every_steps=log_every_steps)
    with pytest.raises(TrainingError, match=r"page_visit: .* at step .*; lower training.learning_rate"):
        train(too_fast)
    assert all(torch.equal(weight, before[name]) for name, weight in weights(job.folder).items())


def test_the_message_of_a_divergence_names_the_checkpoint_before_it_which_stays_whole(
    job: TrainingJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = trained(job, epochs=2, checkpoint_every_steps=4)
    step = Learner.step

    def diverging_step(learner: Learner, batches: Any) -> Any:
        sums = step(learner, batches)
        if learner.n_steps == 6:
            learner.encoder.head[0].weight.data.fill_(torch.nan)
        return sums

    with monkeypatch.context() as patch:
        patch.setattr(Learner, "step", diverging_step)
        with pytest.raises(
            TrainingError, match=r"at step \d+, epoch 1; lower .*; the checkpoint before it is kept in "
        ):
            train(job)
    lines: Lines = []
    result = train(trained(job, log_every_steps=1), lines)
    assert lines[0]["begins_at"] == 4
    assert lines[1]["step"] == 5, "it went on from the fourth"
    assert result.is_finished


def test_metrics_carry_units_and_rank_0s_view_of_all_ranks(job: TrainingJob) -> None:
    lines: Lines = []
    train(trained(job, epochs=1), lines)
    interval = next(line for line in lines if "train/loss" in line)
    assert {"behaviour", "epoch", "step", "steps", "train/loss", "train/seconds", "train/sequences_per_second",
            "train/tokens_per_second", "feed/wait_pct", "memory/peak_gib"} == set(interval)  # fmt: skip
    assert 0 <= interval["feed/wait_pct"] <= 100
    assert 0.01 < interval["memory/peak_gib"] < 100


def test_gradients_of_several_batches_make_one_step(job: TrainingJob) -> None:
    lines: Lines = []
    train(trained(job, epochs=1, batches_per_step=4), lines)
    n_batches = feed().n_batches
    assert lines[-1]["step"] == -(-n_batches // 4)


class KilledError(Exception):
    pass


class DyingFeed:
    """A feed whose process dies when it has given so many batches."""

    def __init__(self, n_left: int, of: Feed | None = None) -> None:
        self.feed, self.n_left = of or feed(), n_left
        self.n_batches, self.length_counts = self.feed.n_batches, self.feed.length_counts

    def training(self, epoch: int, skip: int = 0) -> Batches:
        for batch in self.feed.training(epoch, skip):
            if self.n_left == 0:
                raise KilledError
            self.n_left -= 1
            yield batch

    def validation(self) -> Batches:
        return self.feed.validation()


@pytest.mark.parametrize(
    ("loss", "batches_per_step"), [("full", 1), ("sampled", 1), ("gbce", 3)], ids=["full", "sampled", "accumulated"]
)
def test_a_run_that_is_killed_again_and_again_ends_with_the_same_weights(
    job: TrainingJob, tmp_path: Path, loss: Any, batches_per_step: int
) -> None:
    job = trained(
        changed(job, **DROPPED, loss=LossSettings(name=loss, n_negatives=8)),
        epochs=3, checkpoint_every_steps=4, batches_per_step=batches_per_step, warmup_steps=5, decay="cosine",
        decay_factor=0.5,
    )  # fmt: skip
    undisturbed = train(replace(job, folder=tmp_path / "whole", checkpoints=tmp_path / "wholes"))
    n_deaths = 0
    for n_batches in (3, 17, 1, 29, 40):
        with contextlib.suppress(KilledError):
            train(job, from_feed=DyingFeed(n_batches))
            break
        n_deaths += 1
    assert n_deaths >= 3
    assert train(job) == undisturbed
    for name, weight in weights(tmp_path / "whole").items():
        assert torch.equal(weight, weights(job.folder)[name]), name


def test_on_packed_rows_a_run_learns_and_when_killed_ends_with_the_same_weights(
    job: TrainingJob, tmp_path: Path
) -> None:
    job = trained(
        changed(job, encoder_dropout=0.1, loss=LossSettings(name="sampled", n_negatives=8)),
        epochs=25, checkpoint_every_steps=4, tokens_per_batch=256, packing=True,
    )  # fmt: skip

    def packed() -> Feed:
        rows = Sequences.from_rows(circular(120, 4, 4) + circular(120, 8, 8))
        validation = Sequences.from_rows(circular(40, 6, 0))
        return open_feed(job.settings, Ranks(), lambda tokens: ArrayFeed(rows, validation, (4, 8), tokens, seed=1))

    undisturbed = train(replace(job, folder=tmp_path / "whole", checkpoints=tmp_path / "wholes"), from_feed=packed())
    assert undisturbed.metrics is not None
    assert undisturbed.metrics.ndcg_at_10 > 0.5  # by chance .38
    for n_batches in (3, 17, 1):
        with pytest.raises(KilledError):
            train(job, from_feed=DyingFeed(n_batches, packed()))
    assert train(job, from_feed=packed()) == undisturbed
    for name, weight in weights(tmp_path / "whole").items():
        assert torch.equal(weight, weights(job.folder)[name]), name


class ListedFeed:
    """Batches of one rank that are there already; keeps which of them it has given."""

    n_batches, length_counts = 6, np.zeros(1)

    def __init__(self, n_given: int, seed: int) -> None:
        self.rows = Sequences.from_rows(circular(2 * n_given, 8, seed))
        self.n_given, self.given = n_given, list[int]()

    def training(self, epoch: int, skip: int = 0) -> Batches:
        for number in range(skip, self.n_given):
            self.given.append(number)
            yield self.rows.batch(np.arange(2 * number, 2 * number + 2), 8)

    def validation(self) -> Batches:
        yield from ()


@pytest.mark.parametrize("batches_per_step", [1, 2])
def test_ranks_with_unequal_numbers_of_batches_go_on_with_the_next_ones(
    job: TrainingJob, batches_per_step: int
) -> None:
    job = trained(job, epochs=1, checkpoint_every_steps=4 // batches_per_step, batches_per_step=batches_per_step)

    feeds = [ListedFeed(3, 0), ListedFeed(6, 1)]

    def train_both(is_time_up: bool) -> bool:
        with ThreadPoolExecutor(2) as pool:
            arguments = zip(feeds, two_ranks(), strict=True)
            each = [pool.submit(train_model, job, *both, [].append, lambda: is_time_up) for both in arguments]
        return all([future.result().is_finished for future in each])

    assert [train_both(is_time_up) for is_time_up in (True, False)] == [False, True]
    assert [feed.given for feed in feeds] == [[0, 1, 2], [0, 1, 2, 3, 4, 5]]


def test_no_more_than_one_interval_is_lost(job: TrainingJob) -> None:
    job = trained(job, epochs=1, checkpoint_every_steps=4, log_every_steps=1)
    with pytest.raises(KilledError):
        train(job, from_feed=DyingFeed(19))
    lines: Lines = []
    train(job, lines)
    assert lines[0] == {"behaviour": "page_visit", "epoch": 1, "step": 16, "begins_at": 16}
    assert lines[1]["step"] == 17


def test_time_that_is_up_stops_at_a_checkpoint_and_the_next_call_goes_on(job: TrainingJob) -> None:
    job = trained(job, epochs=2, checkpoint_every_steps=4)
    first = train_model(job, feed(), Ranks(), [].append, is_time_up=lambda: True)
    assert (first.n_steps, first.is_finished) == (4, False)
    assert not job.folder.exists()
    second = train(job)
    assert (second.n_steps, second.is_finished) == (2 * feed().n_batches, True)


def test_a_finished_job_is_not_trained_again_but_another_one_is(job: TrainingJob) -> None:
    job = trained(job, epochs=1)
    lines: Lines = []
    first = train(job)
    assert train(job, lines) == first
    assert lines == []
    train(replace(job, seed=2), lines)
    assert lines


@pytest.mark.parametrize("step", ["replace_folder", "replace_text"])
def test_a_run_killed_at_its_very_end_is_finished_by_the_next_call(
    job: TrainingJob, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def die(*_: object) -> None:
        raise KilledError

    job = trained(job, epochs=1)
    with monkeypatch.context() as patch:
        patch.setattr(loop, step, die)
        with pytest.raises(KilledError):
            train(job)
    lines: Lines = []
    assert train(job, lines).is_finished
    assert ["begins_at" in line for line in lines] == [True], "nothing was left to train"
    assert weights(job.folder)


def test_a_result_of_other_settings_does_not_stand_for_weights_that_a_killed_call_left(
    job: TrainingJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: object) -> None:
        raise KilledError

    one, other = trained(job, epochs=1), trained(job, epochs=2)
    train(one)
    with monkeypatch.context() as killed:
        killed.setattr(loop, "replace_text", die)
        with pytest.raises(KilledError):
            train(other)
    assert load_model(job.folder)[1].settings.training.epochs == 2
    train(one)
    assert load_model(job.folder)[1].settings.training.epochs == 1


@pytest.mark.parametrize("text", ["", '{"job": "', "[]", '{"job": JOB, "result": {}}'])
def test_a_damaged_result_of_a_finished_job_is_an_error(job: TrainingJob, text: str) -> None:
    job = trained(job, epochs=1)
    job.checkpoints.mkdir(parents=True)
    (job.checkpoints / "result.json").write_text(text.replace("JOB", f'"{job.fingerprint(1)}"'))
    with pytest.raises(TrainingError, match=r"result\.json is damaged .*; remove it to train this model again"):
        train(job)


def test_each_models_training_counts_the_gpus_peak_anew(job: TrainingJob, monkeypatch: pytest.MonkeyPatch) -> None:
    forgotten: list[torch.device] = []
    monkeypatch.setattr(loop, "forget_gpu_peak", forgotten.append)
    train(trained(job, epochs=1))
    assert forgotten == [torch.device("cpu")]


def test_another_configuration_does_not_go_on_from_this_ones_checkpoint(job: TrainingJob) -> None:
    with pytest.raises(KilledError):
        train(job, from_feed=DyingFeed(40))
    lines: Lines = []
    train(trained(job, learning_rate=1e-3, epochs=1), lines)
    assert lines[0]["begins_at"] == 0
    assert lines[1]["step"] == 5


def test_a_damaged_checkpoint_is_an_error_and_left_alone(job: TrainingJob) -> None:
    with pytest.raises(KilledError):
        train(job, from_feed=DyingFeed(40))
    (run_file,) = job.checkpoints.glob("*.safetensors")
    run_file.write_bytes(run_file.read_bytes()[:-100])
    with pytest.raises(TrainingError, match=r"run.safetensors is damaged .*; remove it to train from the start"):
        train(job)
    assert run_file.exists()


@pytest.mark.parametrize("name", ["epochs", "tokens_per_batch", "batches_per_step", "learning_rate", "warmup_steps",
                                  "decay_factor", "weight_decay", "clip_norm", "patience"])  # fmt: skip
def test_a_job_of_other_training_is_another_one(job: TrainingJob, name: str) -> None:
    value = getattr(job.settings.training, name) or 0
    assert trained(job, **{name: value + 1}).fingerprint(1) != job.fingerprint(1)
