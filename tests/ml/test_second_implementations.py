"""An encoder and an objective that nothing outside this file knows: trained, saved, loaded, embedded and ranked."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from small_encoders import settings_of
from torch import Tensor, nn

from conf.encoders import EncoderSettings, InferenceSettings
from conf.training import TrainingSettings
from ml.data.array_feed import ArrayFeed
from ml.data.sequence_batch import SequenceBatch, Sequences
from ml.data.vocabulary import VocabularyDescription
from ml.inference.embed import embed_sequences
from ml.inference.top_k import nearest_items
from ml.models.protocol import SequenceEncoder
from ml.models.registry import ENCODERS
from ml.objectives.protocol import Objective, Score, TrainingBatch
from ml.objectives.ranking import rank_last_items
from ml.objectives.registry import OBJECTIVES, require_encoder
from ml.training.checkpoint import ModelCard, load_model
from ml.training.distributed import Ranks
from ml.training.loop import TrainingJob, train_model
from schemas.tokens import FIRST_ITEM, PAD

N_ITEMS, WIDTH = 12, 6


class MeanOfItems(SequenceEncoder):
    """A hidden state is the mean of the vectors of a row's items up to it."""

    def __init__(self, settings: EncoderSettings, vocabulary: VocabularyDescription, sparse_tables: bool = False):
        super().__init__(settings, vocabulary)
        self.items = nn.Embedding(vocabulary.n_tokens, settings.hidden_size, padding_idx=PAD)

    @classmethod
    def reads_causally(cls, settings: EncoderSettings) -> bool:
        return True

    def encode(self, batch: SequenceBatch[Tensor]) -> Tensor:
        n_before = (batch.token_ids != PAD).cumsum(dim=1).clamp_min(1).unsqueeze(-1)
        return self.items(batch.token_ids).cumsum(dim=1) / n_before

    def item_vectors(self, token_ids: Tensor) -> Tensor:
        return self.items(token_ids)


class Sharpness(nn.Module):
    """What scores are multiplied by."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.ones(()))


class LastItem(Objective):
    """The last item of each row is predicted from those before it, among all items; it learns how sharply."""

    needs_causal: bool | None = None
    is_sampled = False

    def __init__(self, settings: EncoderSettings, vocabulary: VocabularyDescription) -> None:
        self.items = torch.arange(FIRST_ITEM, vocabulary.n_tokens)

    def build_heads(self, hidden_size: int) -> nn.Module:
        self.sharpness = Sharpness()
        return self.sharpness

    def prepare(self, batch: SequenceBatch[Tensor], generator: torch.Generator) -> TrainingBatch:
        n_rows, width = batch.shape
        positions, labels = torch.arange(1, n_rows + 1) * width - 1, batch.token_ids[:, -1] - FIRST_ITEM
        return TrainingBatch(self.without_last(batch), positions, {"labels": labels}, n_targets=n_rows)

    def loss(self, hidden: Tensor, targets: Mapping[str, Tensor], candidates: Tensor | None, score: Score) -> Tensor:
        return F.cross_entropy(self.sharpness.factor * score(self.items), targets["labels"], reduction="sum")

    def without_last(self, batch: SequenceBatch[Tensor]) -> SequenceBatch[Tensor]:
        return batch.map(lambda column: F.pad(column[:, :-1], (1, 0)))


class KilledError(Exception):
    pass


@pytest.fixture
def job(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> TrainingJob:
    monkeypatch.setitem(ENCODERS, "mean", MeanOfItems)
    monkeypatch.setitem(OBJECTIVES, "last_item", LastItem)
    training = TrainingSettings(n_ranks=1, epochs=30, tokens_per_batch=64, learning_rate=0.05, checkpoint_every_steps=4)
    settings = settings_of(
        architecture="mean", objective="last_item", hidden_size=8, n_heads=2, max_length=WIDTH, training=training
    )
    card = ModelCard("mine", settings, VocabularyDescription(FIRST_ITEM + N_ITEMS), "a-fingerprint", 0)
    return TrainingJob(card, tmp_path / "models" / "mine", tmp_path / "checkpoints" / "mine", seed=1)


def rows_of_pairs(n_rows: int) -> Sequences:
    """Rows of one item, again and again, that end in the next one."""
    items = np.random.default_rng(n_rows).integers(FIRST_ITEM, FIRST_ITEM + N_ITEMS - 1, n_rows).tolist()
    return Sequences.from_rows([[item] * (1 + row % (WIDTH - 1)) + [item + 1] for row, item in enumerate(items)])


def feed() -> ArrayFeed:
    return ArrayFeed(rows_of_pairs(100), rows_of_pairs(30), (2, WIDTH), tokens_per_batch=64, seed=1)


def test_they_are_trained_saved_loaded_embedded_and_ranked(job: TrainingJob) -> None:
    require_encoder("mine", job.settings)
    lines: list[Mapping[str, Any]] = []
    result = train_model(job, feed(), Ranks(), lines.append)
    assert result.metrics is not None
    assert result.metrics.mrr > 0.9
    losses = [line["train/loss"] for line in lines if "train/loss" in line]
    assert losses[-1] < 0.5 * losses[0]

    encoder, card = load_model(job.folder, expected_fingerprint="a-fingerprint")
    assert isinstance(encoder, MeanOfItems)
    assert encoder.state_dict().keys() == {"items.weight"}  # what the objective learnt stays behind
    assert card == job.card
    rows = rows_of_pairs(20)
    vectors = embed_sequences(encoder, rows, InferenceSettings(pooling="last"))
    items = encoder.items.weight.detach().numpy()
    expected = [items[row].mean(axis=0) for row in np.split(rows.tokens, rows.offsets[1:-1])]
    np.testing.assert_allclose(vectors, expected, atol=1e-5)
    asked = SequenceBatch(rows.padded(np.arange(20), WIDTH)).tensors()
    ranks = rank_last_items(encoder, LastItem(job.settings, card.vocabulary), asked)
    assert (ranks == 1).float().mean() > 0.8
    assert nearest_items(encoder, torch.tensor([4]), k=3)[0].shape == (1, 3)


def test_a_training_that_was_killed_ends_with_the_same_weights(
    job: TrainingJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_model(job, feed(), Ranks(), lambda figures: None)
    again = replace(job, folder=tmp_path / "again", checkpoints=tmp_path / "agains")
    loss, n_left = LastItem.loss, iter(range(37))

    def dying_loss(*arguments: Any) -> Tensor:
        if next(n_left, None) is None:
            raise KilledError
        return loss(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(LastItem, "loss", dying_loss)
        with pytest.raises(KilledError):
            train_model(again, feed(), Ranks(), lambda figures: None)
    train_model(again, feed(), Ranks(), lambda figures: None)
    weights = [load_model(each.folder)[0].state_dict()["items.weight"] for each in (job, again)]
    assert torch.equal(*weights)
