"""What objectives share that have items predicted: the choice of a loss, its candidates and its targets."""

from collections.abc import Mapping
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from conf.encoders import EncoderSettings
from ml.data.sequence_batch import SequenceBatch, required_column
from ml.data.vocabulary import VocabularyDescription
from ml.objectives.losses import NO_LABEL, bce_loss, bpr_max_loss, gbce_loss, sampled_softmax_loss
from ml.objectives.protocol import Objective, Score, TrainingBatch
from schemas.tokens import FIRST_ITEM, MASK, PAD, UNK

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
            # NO_LABEL is no token: its position is scored with the negative twice, and does not count
            own = torch.stack([torch.where(is_target, labels, negatives), negatives], dim=1)  # [M, 2]
            return bce_loss(score(own), is_target)
        if candidates is None:
            outputs = torch.arange(FIRST_OUTPUT, self.vocabulary.n_tokens, device=hidden.device)
            labels = targets["labels"]
            # outputs begin at FIRST_OUTPUT, and NO_LABEL must stay what cross_entropy leaves out
            labels = torch.where(labels == NO_LABEL, NO_LABEL, labels - FIRST_OUTPUT)
            return F.cross_entropy(score(outputs), labels, ignore_index=NO_LABEL, reduction="sum")
        positives, columns = targets["positives"], targets["columns"]
        logits = score(torch.cat([positives, candidates]))  # [M, U + K]
        if self.loss_name == "sampled":
            return sampled_softmax_loss(logits, columns, positives, candidates, self.vocabulary.n_items)
        if self.loss_name == "bpr_max":
            return bpr_max_loss(logits, columns, positives, candidates, self.settings.loss.bpr_regularisation)
        return gbce_loss(logits, columns, positives, candidates, self.vocabulary.n_items, self.settings.loss.gbce_t)

    def with_negatives(
        self, batch: TrainingBatch, sequences: SequenceBatch[Tensor], generator: torch.Generator
    ) -> TrainingBatch:
        """The batch, with one negative (int64 [M]) of each target's own where the loss compares it with one (SASRec).

        It is uniform over the items that the target's client does not have there (but for clients of nearly all items).

        Parameters
        ----------
        sequences : all that the rows hold, [B, L]; ``batch.inputs`` may hide a part
        """
        if self.loss_name != "bce":
            return batch
        token_ids, is_packed = sequences.token_ids, sequences.segments is not None
        # of packed rows for all positions: what is drawn must not depend on how many targets they are padded to
        shape = (token_ids.numel() if is_packed else len(batch.positions), OWN_DRAWS)
        drawn = torch.randint(FIRST_ITEM, self.vocabulary.n_tokens, shape, generator=generator, device=generator.device)
        drawn = drawn[batch.positions] if is_packed else drawn
        row = batch.positions // token_ids.shape[1]
        held = token_ids[row]  # [M, L]
        if is_packed:  # the other clients of a row hold what they like
            segments = required_column(sequences, "segments")
            held = held.masked_fill(segments[row] != segments.flatten()[batch.positions].unsqueeze(1), PAD)
        is_held = (drawn.unsqueeze(2) == held.unsqueeze(1)).any(dim=2)  # [M, OWN_DRAWS]
        # argmin gives the first that is not held, or the first of all where all are
        negatives = drawn.gather(1, is_held.int().argmin(dim=1, keepdim=True)).squeeze(1)
        positives = torch.cat([batch.targets["positives"], negatives])  # all rows of the table that the loss reads
        return replace(batch, targets={**batch.targets, "negatives": negatives, "positives": positives})


def predict_tokens(
    inputs: SequenceBatch[Tensor], token_ids: Tensor, is_target: Tensor, most_targets: int = 0
) -> TrainingBatch:
    """Have tokens (int64 [B, L]) predicted where ``is_target`` (bool [B, L]).

    The targets are ``labels`` int64 [M], the tokens; ``positives`` int64 [U], the labels, rising; ``columns``
    int64 [M], which of these each label is. Of packed rows, M is ``most_targets``, labels and columns past the last
    target are ``NO_LABEL``, and ``positives`` has as many entries as ``labels``, with repeats and PAD among them.
    """
    if inputs.segments is None:
        positions = is_target.flatten().nonzero().squeeze(1)
        labels = token_ids.flatten()[positions]
        positives, columns = labels.unique(return_inverse=True)
        targets = {"labels": labels, "positives": positives, "columns": columns}
        return TrainingBatch(inputs, positions, targets, n_targets=len(positions))
    # as above, but with sizes that are known beforehand: unique and nonzero would wait for the device
    is_target = is_target.flatten()
    number = is_target.cumsum(0)  # of a target, from 1; those past the bound go where nobody reads
    slot = torch.where(is_target & (number <= most_targets), number - 1, most_targets)
    every_position = torch.arange(len(slot), device=slot.device)
    # one more than the bound: the last slot takes all that is no target
    positions = slot.new_zeros(most_targets + 1).scatter_(0, slot, every_position)[:most_targets]
    n_targets = number[-1].clamp(max=most_targets)
    slots = torch.arange(most_targets, device=slot.device)
    is_real = slots < n_targets
    # any would do, but different ones: a GPU adds up the gradients of one position one after the other
    positions = torch.where(is_real, positions, slots)
    labels = torch.where(is_real, token_ids.flatten()[positions], PAD)
    positives = labels.sort().values
    columns = torch.searchsorted(positives, labels)
    none = torch.full_like(labels, NO_LABEL)
    targets = {
        "labels": torch.where(is_real, labels, none),
        "positives": positives,
        "columns": torch.where(is_real, columns, none),
    }
    return TrainingBatch(inputs, positions, targets, n_targets)


def require_last_token(token_ids: Tensor) -> None:
    """Raise ValueError where a row ends in PAD or MASK: there is nothing to predict at its end."""
    n_without = int((token_ids[:, -1] <= MASK).sum())
    if n_without:
        raise ValueError(f"{n_without} of {len(token_ids)} rows end in PAD or MASK; expected left-padded tokens")
