"""What objectives share that have items predicted: the choice of a loss, its candidates and its targets."""

from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch
from torch import Tensor

from conf.encoders import EncoderSettings
from ml.data.sequence_batch import SequenceBatch
from ml.data.vocabulary import VocabularyDescription
from ml.objectives.losses import chosen_loss, draw_negatives, full_softmax_loss, gbce_loss, sampled_softmax_loss
from ml.objectives.protocol import Score, TrainingBatch
from schemas.tokens import MASK, UNK

FIRST_OUTPUT = UNK
"""The full softmax is over UNK and the items: PAD and MASK can never be the answer."""


class ItemPrediction(ABC):
    """An objective (``ml.objectives.protocol``) that has the token of some positions predicted."""

    needs_causal: bool | None = None

    def __init__(self, settings: EncoderSettings, vocabulary: VocabularyDescription) -> None:
        self.settings, self.vocabulary = settings, vocabulary
        self.loss_name = chosen_loss(settings.loss, vocabulary.n_items)
        self.is_sampled = self.loss_name != "full"

    @abstractmethod
    def prepare(self, batch: SequenceBatch[Tensor], generator: torch.Generator) -> TrainingBatch:
        """Inputs and targets."""

    @abstractmethod
    def without_last(self, batch: SequenceBatch[Tensor]) -> SequenceBatch[Tensor]:
        """Inputs that ask for the last item."""

    def draw_candidates(self, generator: torch.Generator) -> Tensor | None:
        """Negatives, for the losses that need some."""
        if not self.is_sampled:
            return None
        return draw_negatives(self.vocabulary.n_tokens, self.settings.loss.n_negatives, generator)

    def loss(self, hidden: Tensor, targets: Mapping[str, Tensor], candidates: Tensor | None, score: Score) -> Tensor:
        """The loss that the settings name."""
        if candidates is None:
            outputs = torch.arange(FIRST_OUTPUT, self.vocabulary.n_tokens, device=hidden.device)
            return full_softmax_loss(score(outputs), targets["labels"] - FIRST_OUTPUT)
        positives, columns = targets["positives"], targets["columns"]
        logits = score(torch.cat([positives, candidates]))  # [M, U + K]
        if self.loss_name == "sampled":
            return sampled_softmax_loss(logits, columns, positives, candidates, self.vocabulary.n_items)
        return gbce_loss(logits, columns, positives, candidates, self.vocabulary.n_items, self.settings.loss.gbce_t)


def predict_tokens(inputs: SequenceBatch[Tensor], token_ids: Tensor, is_target: Tensor) -> TrainingBatch:
    """Have tokens (int64 [B, L]) predicted where ``is_target`` (bool [B, L]).

    The targets are ``labels`` int64 [M], the tokens; ``positives`` int64 [U], the distinct labels, rising; ``columns``
    int64 [M], which of these each label is.
    """
    positions = is_target.flatten().nonzero().squeeze(1)
    labels = token_ids.flatten()[positions]
    positives, columns = labels.unique(return_inverse=True)
    targets = {"labels": labels, "positives": positives, "columns": columns}
    return TrainingBatch(inputs, positions, targets, n_targets=len(positions))


def require_last_token(token_ids: Tensor) -> None:
    """Raise ValueError where a row ends in PAD or MASK: there is nothing to predict at its end."""
    n_without = int((token_ids[:, -1] <= MASK).sum())
    if n_without:
        raise ValueError(f"{n_without} of {len(token_ids)} rows end in PAD or MASK; expected left-padded tokens")
