"""What objectives share that have items predicted: the choice of a loss, its candidates and its targets."""

from collections.abc import Mapping
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from conf.encoders import EncoderSettings
from ml.data.sequence_batch import SequenceBatch
from ml.data.vocabulary import VocabularyDescription
from ml.objectives.losses import bce_loss, bpr_max_loss, gbce_loss, sampled_softmax_loss
from ml.objectives.protocol import Objective, Score, TrainingBatch
from schemas.tokens import FIRST_ITEM, MASK, UNK

FIRST_OUTPUT = UNK
"""The full softmax is over UNK and the items: PAD and MASK can never be the answer."""
OWN_DRAWS = 4
"""Items drawn for each negative of a position's own, of which one that the row does not hold is taken."""


class ItemPrediction(Objective):
    """An objective that has the token of some positions predicted."""

    def __init__(self, settings: EncoderSettings, vocabulary: VocabularyDescription) -> None:
        self.settings, self.vocabulary = settings, vocabulary
        self.loss_name: str = settings.loss.name
        if self.loss_name == "auto":
            self.loss_name = "sampled" if vocabulary.n_items > settings.loss.full_softmax_max_items else "full"
        self.is_sampled = self.loss_name != "full"

    def draw_candidates(self, generator: torch.Generator) -> Tensor | None:
        """Uniform items, drawn with replacement, for the losses whose negatives a step shares."""
        if self.loss_name in ("full", "bce"):
            return None
        shape = (self.settings.loss.n_negatives,)
        return torch.randint(FIRST_ITEM, self.vocabulary.n_tokens, shape, generator=generator, device=generator.device)

    def loss(self, hidden: Tensor, targets: Mapping[str, Tensor], candidates: Tensor | None, score: Score) -> Tensor:
        """The loss that the settings name."""
        if self.loss_name == "bce":
            labels, negatives = targets["labels"], targets["negatives"]
            is_target = labels >= 0
            own = torch.stack([torch.where(is_target, labels, negatives), negatives], dim=1)  # [M, 2]
            return bce_loss(score(own), is_target)
        if candidates is None:
            outputs = torch.arange(FIRST_OUTPUT, self.vocabulary.n_tokens, device=hidden.device)
            return F.cross_entropy(score(outputs), targets["labels"] - FIRST_OUTPUT, reduction="sum")
        positives, columns = targets["positives"], targets["columns"]
        logits = score(torch.cat([positives, candidates]))  # [M, U + K]
        if self.loss_name == "sampled":
            return sampled_softmax_loss(logits, columns, positives, candidates, self.vocabulary.n_items)
        if self.loss_name == "bpr_max":
            return bpr_max_loss(logits, columns, positives, candidates, self.settings.loss.bpr_regularisation)
        return gbce_loss(logits, columns, positives, candidates, self.vocabulary.n_items, self.settings.loss.gbce_t)

    def with_negatives(self, batch: TrainingBatch, token_ids: Tensor, generator: torch.Generator) -> TrainingBatch:
        """The batch, with one negative (int64 [M]) of each target's own where the loss compares it with one (SASRec).

        It is uniform over the items that the target's row does not hold (but for rows of nearly all items).

        Parameters
        ----------
        token_ids : int64 [B, L], all that the rows hold
        """
        if self.loss_name != "bce":
            return batch
        shape = (len(batch.positions), OWN_DRAWS)
        drawn = torch.randint(FIRST_ITEM, self.vocabulary.n_tokens, shape, generator=generator, device=generator.device)
        held = token_ids[batch.positions // token_ids.shape[1]]  # [M, L]
        is_held = (drawn.unsqueeze(2) == held.unsqueeze(1)).any(dim=2)  # [M, OWN_DRAWS]
        negatives = drawn.gather(1, is_held.int().argmin(dim=1, keepdim=True)).squeeze(1)
        positives = torch.cat([batch.targets["positives"], negatives])  # all rows of the table that the loss reads
        return replace(batch, targets={**batch.targets, "negatives": negatives, "positives": positives})


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
