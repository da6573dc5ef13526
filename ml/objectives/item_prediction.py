"""What objectives share that have items predicted: the choice of a loss, its candidates and its targets."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from conf.encoders import EncoderSettings
from ml.data.sequence_batch import SequenceBatch
from ml.data.vocabulary import VocabularyDescription
from ml.objectives.losses import gbce_loss, sampled_softmax_loss
from ml.objectives.protocol import Objective, Score, TrainingBatch
from schemas.tokens import FIRST_ITEM, MASK, UNK

FIRST_OUTPUT = UNK
"""The full softmax is over UNK and the items: PAD and MASK can never be the answer."""


class ItemPrediction(Objective):
    """An objective that has the token of some positions predicted."""

    def __init__(self, settings: EncoderSettings, vocabulary: VocabularyDescription) -> None:
        self.settings, self.vocabulary = settings, vocabulary
        self.loss_name: str = settings.loss.name
        if self.loss_name == "auto":
            self.loss_name = "sampled" if vocabulary.n_items > settings.loss.full_softmax_max_items else "full"
        self.is_sampled = self.loss_name != "full"

    def draw_candidates(self, generator: torch.Generator) -> Tensor | None:
        """Uniform items, drawn with replacement, for the losses that need negatives."""
        if not self.is_sampled:
            return None
        shape = (self.settings.loss.n_negatives,)
        return torch.randint(FIRST_ITEM, self.vocabulary.n_tokens, shape, generator=generator, device=generator.device)

    def loss(self, hidden: Tensor, targets: Mapping[str, Tensor], candidates: Tensor | None, score: Score) -> Tensor:
        """The loss that the settings name."""
        if candidates is None:
            outputs = torch.arange(FIRST_OUTPUT, self.vocabulary.n_tokens, device=hidden.device)
            return F.cross_entropy(score(outputs), targets["labels"] - FIRST_OUTPUT, reduction="sum")
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
