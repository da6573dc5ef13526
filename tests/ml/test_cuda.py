"""On a GPU: what a CPU computes, and no waiting for the device in a step's loss."""

import copy
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_encoders import transformer, without_dropout

from conf.encoders import EncoderSettings, InferenceSettings, LossSettings
from conf.evaluation import ProbeSettings
from conf.training import TrainingSettings
from ml.data.array_feed import ArrayFeed
from ml.data.packing import PackedFeed
from ml.data.sequence_batch import SequenceBatch, Sequences, Tokens
from ml.data.vocabulary import VocabularyDescription
from ml.evaluation.probe import score_task
from ml.inference.embed import embed_sequences
from ml.objectives.cloze import Cloze
from ml.objectives.ranking import rank_last_items
from ml.training.checkpoint import ModelCard, load_model
from ml.training.distributed import Ranks
from ml.training.loop import TrainingJob, train_model
from ml.training.step import Learner
from schemas.tokens import FIRST_ITEM, PAD

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")

N_TOKENS, WIDTH = FIRST_ITEM + 500, 16
VOCABULARY = VocabularyDescription(N_TOKENS)
TRAINING = TrainingSettings(n_ranks=1, learning_rate=1e-3, precision="float32")
SETTINGS = without_dropout(hidden_size=64, max_length=WIDTH, n_layers=2, training=TRAINING)
OBJECTIVES = {"bidirectional": "cloze", "causal": "next_item"}


def on(device: str, settings: EncoderSettings) -> EncoderSettings:
    return replace(settings, training=replace(settings.training, device=device))  # type: ignore[arg-type]


def rows(n_rows: int = 40, seed: int = 0) -> Tokens:
    """Left-padded rows of 2 to ``WIDTH`` tokens."""
    generator = np.random.default_rng(seed)
    tokens = generator.integers(FIRST_ITEM, N_TOKENS, (n_rows, WIDTH))
    lengths = generator.integers(2, WIDTH + 1, n_rows)
    return np.where(np.arange(WIDTH) < WIDTH - lengths[:, None], PAD, tokens).astype(np.int32)


def losses(settings: EncoderSettings, n_steps: int = 6) -> list[float]:
    """Of each step, over its number of targets."""
    learner = Learner(settings, VOCABULARY)
    sums = [learner.step([SequenceBatch(rows(seed=step))]) for step in range(n_steps)]
    return [float(of_step.loss) / of_step.n_targets for of_step in sums]


@pytest.mark.parametrize("attention", ["bidirectional", "causal"])
@pytest.mark.parametrize("table", ["full", "hashed", "product"])
@pytest.mark.parametrize("name", ["full", "sampled", "gbce"])
def test_steps_lose_what_they_lose_on_a_cpu(name: Any, table: Any, attention: Any) -> None:
    shape = {"table": table, "attention": attention, "objective": OBJECTIVES[attention], "table_rows": 200}
    settings = replace(SETTINGS, **shape, loss=LossSettings(name=name, n_negatives=50))
    assert losses(on("cuda", settings)) == pytest.approx(losses(on("cpu", settings)), rel=1e-3)


@pytest.mark.parametrize("name", ["full", "sampled"])
def test_half_precision_and_compiling_change_the_loss_little(name: Any) -> None:
    settings = on("cuda", replace(SETTINGS, loss=LossSettings(name=name, n_negatives=50)))
    exact = losses(settings)
    halved, compiled = (
        replace(settings, training=replace(settings.training, **change))
        for change in ({"precision": "bfloat16"}, {"compile": True, "packing": False})
    )
    assert losses(halved) == pytest.approx(exact, rel=0.02)
    assert losses(compiled) == pytest.approx(exact, rel=1e-3)


def test_with_dropout_two_runs_of_one_seed_lose_the_same() -> None:
    settings = on("cuda", replace(SETTINGS, embedding_dropout=0.2, encoder_dropout=0.2))
    assert losses(settings) == pytest.approx(losses(settings), rel=1e-5)
    assert losses(settings) != pytest.approx(losses(on("cuda", SETTINGS)), rel=1e-5)


@pytest.fixture
def no_waiting() -> Iterator[None]:
    """Whatever makes the CPU wait for the GPU raises RuntimeError."""
    torch.cuda.set_sync_debug_mode("error")
    yield
    torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("attention", ["bidirectional", "causal"])
@pytest.mark.parametrize("name", ["full", "sampled", "gbce"])
def test_the_loss_of_a_batch_does_not_wait_for_the_device(name: Any, attention: Any, request: Any) -> None:
    loss, objective = LossSettings(name=name, n_negatives=50), OBJECTIVES[attention]
    learner = Learner(on("cuda", replace(SETTINGS, attention=attention, objective=objective, loss=loss)), VOCABULARY)
    generator = torch.Generator().manual_seed(1)
    batch = learner.objective.prepare(SequenceBatch(rows()).tensors(), generator).to(learner.device)
    candidates = learner.objective.draw_candidates(generator)
    candidates = None if candidates is None else candidates.to(learner.device)
    learner.loss(batch, candidates)  # what is made once may wait
    request.getfixturevalue("no_waiting")
    learner.loss(batch, candidates)


PACKED: dict[str, Any] = {"packing": True, "compile": False}


def packed_batches(n: int) -> list[SequenceBatch[Tokens]]:
    """Batches of 8 rows of 128 positions."""
    sequences = Sequences.from_rows([row[row != PAD] for row in rows(150 * n)])
    nobody = Sequences.from_rows([])
    feed = PackedFeed(ArrayFeed(sequences, nobody, (4, 8, WIDTH), 64, seed=1), 128, 1024, is_pinned=True)
    return [batch for batch, _ in zip(feed.training(1), range(n), strict=False)]


def test_pinned_batches_are_copied_whole_though_they_are_forgotten_at_once() -> None:
    (batch,) = packed_batches(1)
    assert torch.as_tensor(batch.token_ids).is_pinned()
    assert torch.as_tensor(batch.token_ids).pin_memory().data_ptr() == batch.token_ids.ctypes.data, "not pinned again"
    expected, busy = [each.token_ids.copy() for each in packed_batches(30)], torch.rand(4096, 4096, device="cuda")
    for _ in range(50):  # so that copies are still waiting when their memory could be used again
        busy = busy @ busy
    batches, copied = packed_batches(30), []
    while batches:
        copied.append(batches.pop(0).tensors("cuda").token_ids)
        torch.full((1024,), -1, dtype=torch.int32).pin_memory()  # takes memory that is free
    for one, other in zip(copied, expected, strict=True):
        np.testing.assert_array_equal(one.cpu(), other)


def packed_losses(settings: EncoderSettings, device: str, **training: Any) -> list[float]:
    settings = replace(settings, training=replace(settings.training, device=device, **training))  # type: ignore[arg-type]
    learner = Learner(settings, VOCABULARY)
    sums = [learner.step([batch]) for batch in packed_batches(6)]
    return [float(of_step.loss) / float(of_step.n_targets) for of_step in sums]


@pytest.mark.parametrize("name", ["full", "sampled", "gbce"])
def test_packed_steps_lose_what_they_lose_on_a_cpu_also_recorded(name: Any) -> None:
    # next items, not masked ones: masks are drawn on the device, and devices draw differently
    loss = LossSettings(name=name, n_negatives=498 if name == "full" else 4000)
    settings = replace(SETTINGS, attention="causal", objective="next_item", loss=loss)
    expected = packed_losses(settings, "cpu", packing=True, compile=False)
    rel = 1e-3 if name == "full" else 0.03  # negatives differ, too
    assert packed_losses(settings, "cuda", **PACKED) == pytest.approx(expected, rel=rel)
    eager, recorded = (packed_losses(settings, "cuda", packing=True, compile=compiles) for compiles in (False, True))
    assert recorded == pytest.approx(eager, rel=1e-3)


@pytest.mark.parametrize("objective", ["cloze", "next_item"])
@pytest.mark.parametrize("compiles", [False, True])
def test_a_packed_step_never_waits_for_the_device(objective: str, compiles: bool, request: Any) -> None:
    attention: Any = "bidirectional" if objective == "cloze" else "causal"
    training = replace(SETTINGS.training, device="cuda", packing=True, compile=compiles)
    loss = LossSettings(name="sampled", n_negatives=50)
    settings = replace(SETTINGS, attention=attention, objective=objective, loss=loss, training=training)
    learner, batches = Learner(settings, VOCABULARY), packed_batches(8)
    for batch in batches[:6]:
        learner.step([batch])  # what is made once may wait
    request.getfixturevalue("no_waiting")
    for batch in batches[6:]:
        learner.step([batch])


def test_recorded_steps_with_dropout_repeat_by_the_seed_alone() -> None:
    loss = LossSettings(name="sampled", n_negatives=50)
    settings = replace(SETTINGS, embedding_dropout=0.2, encoder_dropout=0.2, loss=loss)
    first, again = (packed_losses(settings, "cuda", packing=True, compile=True) for _ in range(2))
    assert first == pytest.approx(again, rel=1e-3)


def test_each_recorded_step_drops_others() -> None:
    # of the full softmax nothing is random but dropout; the weights stay as they are
    settings = replace(SETTINGS, attention="causal", objective="next_item", embedding_dropout=0.2, encoder_dropout=0.2)
    changed = replace(settings.training, device="cuda", packing=True, compile=True, learning_rate=1e-12)
    learner, (batch,) = (
        Learner(replace(settings, loss=LossSettings(name="full"), training=changed), VOCABULARY),
        packed_batches(1),
    )
    lost = [float(learner.step([batch]).loss) for _ in range(6)]
    assert len(set(lost[3:])) == 3


@pytest.mark.parametrize("pooling", ["mean", "recency", "last", "mask"])
def test_vectors_and_ranks_are_those_of_a_cpu(pooling: Any) -> None:
    torch.manual_seed(3)
    model = transformer(SETTINGS, N_TOKENS)
    of_gpu = copy.deepcopy(model).to("cuda")
    sequences = Sequences.from_rows([row[row != PAD] for row in rows()])
    settings = InferenceSettings(pooling=pooling, precision="float32")
    np.testing.assert_allclose(
        embed_sequences(of_gpu, sequences, settings), embed_sequences(model, sequences, settings), atol=1e-4
    )
    batch, objective = SequenceBatch(rows()), Cloze(SETTINGS, VOCABULARY)
    ranks = [rank_last_items(each, objective, batch.tensors(each.device)).cpu() for each in (model, of_gpu)]
    assert (ranks[0] - ranks[1]).abs().max() <= 1  # near ties


def test_a_run_that_was_stopped_goes_on_and_ends_with_the_same_weights(tmp_path: Path) -> None:
    def train(folder: Path, is_stopped: bool) -> dict[str, torch.Tensor]:
        training = replace(SETTINGS.training, device="cuda", epochs=2, tokens_per_batch=64, checkpoint_every_steps=3)
        card = ModelCard("page_visit", replace(SETTINGS, training=training), VOCABULARY, "a-fingerprint", 0)
        job = TrainingJob(card, folder / "model", folder / "checkpoints", seed=1)
        sequences = Sequences.from_rows([row[row != PAD] for row in rows(60)])
        feed = ArrayFeed(sequences, sequences, (4, 8, WIDTH), 64, seed=1)
        while not train_model(job, feed, Ranks(), lambda figures: None, lambda: is_stopped).is_finished:
            pass
        return load_model(job.folder)[0].state_dict()

    whole, in_parts = train(tmp_path / "whole", False), train(tmp_path / "parts", True)
    for name, weight in whole.items():
        torch.testing.assert_close(in_parts[name], weight, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 0.005), ("tf32", 0.01), ("bfloat16", 0.02)])
def test_the_probe_scores_as_on_a_cpu(precision: Any, tolerance: float) -> None:
    generator = np.random.default_rng(0)
    profiles = generator.normal(size=(2000, 32)).astype(np.float16)
    odds = profiles.astype(np.float32) @ generator.normal(size=(32, 10)).astype(np.float32)
    train, validation = ((odds + generator.normal(size=odds.shape) > 3).astype(np.uint8) for _ in range(2))
    settings = ProbeSettings(hidden_size=128)
    popularity = train.mean(axis=0)

    def score(device: str, of: ProbeSettings) -> float:
        return score_task(profiles, train, validation, "propensity_sku", popularity, of, device=device).score

    assert score("cuda", replace(settings, precision=precision)) == pytest.approx(score("cpu", settings), abs=tolerance)
