"""Next event: from each event of a merged stream, what comes next, when, and what it is about.

The four heads of the challenge's fourth place: the type of the next event, the time to it, its url where it is a visit,
its sku where it has one.

Legend of shapes: B batch, L positions of a row, M positions with a next event (of packed rows, a bound), D hidden,
T event types, V tokens, H positions that a head asks, N labels drawn of them, K uniform negatives.
"""

from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from conf.encoders import EncoderSettings
from ml.data.sequence_batch import SECONDS_PER_HOUR, SequenceBatch, required_column
from ml.data.vocabulary import VocabularyDescription
from ml.objectives.item_prediction import predict_tokens, require_last_token
from ml.objectives.losses import NO_LABEL, corrected_log_q_loss, in_batch_softmax_loss
from ml.objectives.next_item import moved_right
from ml.objectives.protocol import Objective, Score, TrainingBatch
from schemas.columns import SKU, URL
from schemas.errors import ConfigError
from schemas.tokens import PAD

NOBODY = -1
"""In place of the sequence of a label that was drawn where a head has too few."""


class NextEventHeads(nn.Module):
    """What of the heads is learnt beside the encoder, and what they must know of all items.

    Attributes
    ----------
    sku_shares : float32 [V], each sku's share of all events that have one
    item_kinds : uint8 [V]
    skus : int64 [skus], their tokens
    """

    sku_shares: Tensor
    item_kinds: Tensor
    skus: Tensor

    def __init__(self, hidden_size: int, n_types: int, sku_shares: Tensor, item_kinds: Tensor, skus: Tensor) -> None:
        super().__init__()
        self.to_type = nn.Linear(hidden_size, n_types)
        self.to_wait = nn.Linear(hidden_size, 1)
        for name, of_items in (("sku_shares", sku_shares), ("item_kinds", item_kinds), ("skus", skus)):
            # not persistent: they follow from the attributes, and a checkpoint need not hold them
            self.register_buffer(name, of_items, persistent=False)


class NextEvent(Objective):
    """A step's loss is the sum of the heads' means, each over its own targets.

    A learner divides by one number of targets, the positions with a next event. Where only some of a batch's positions
    are targets of a head, its sum is multiplied by how many times as many positions there are.

    What ranks items is what scores them here: ``score``, of the encoder's output vectors. ``similarity: cosine`` and
    ``temperature: 0.05`` are our reconstruction of the published model.
    """

    needs_causal: bool | None = True
    takes_packed = True
    is_sampled = True

    def __init__(self, settings: EncoderSettings, vocabulary: VocabularyDescription) -> None:
        self.settings, self.vocabulary = settings.next_event, vocabulary
        self.n_types = len(settings.behaviours)
        self.heads: NextEventHeads | None = None
        self.kinds, self.skus = torch.zeros(0, dtype=torch.uint8), torch.zeros(0, dtype=torch.int64)
        if vocabulary.attributes is not None:  # else the encoder comes from its folder, to be validated
            self.kinds = torch.from_numpy(vocabulary.attributes.item_kind)  # uint8 [V]
            self.skus = (self.kinds == self.vocabulary.kind_of(SKU)).nonzero().squeeze(1)

    @classmethod
    def require_settings(cls, name: str, settings: EncoderSettings) -> None:
        """Refuse one behaviour alone: only a merged stream has what the heads predict."""
        if len(settings.behaviours) == 1 or not settings.reads_events:
            found = f"behaviours={list(settings.behaviours)}, event_columns={settings.event_columns}"
            raise ConfigError(
                f"encoders.{name}.objective=next_event: expected several behaviours, with what each event is and when "
                f"it was, found {found}; name more behaviours without event_columns=false, or set objective=next_item"
            )

    @property
    def item_kinds(self) -> Tensor | None:
        """No head compares items of one kind with those of another."""
        return None if self.heads is None else self.heads.item_kinds

    def build_heads(self, hidden_size: int) -> NextEventHeads:
        """A linear layer each for type and time; items are scored by the encoder.

        Raises
        ------
        ValueError
            If the attributes of the vocabulary's items are not at hand.
        """
        attributes = self.vocabulary.attributes_for("next_event")
        n_events = torch.zeros(len(attributes), dtype=torch.float64)
        # in float64: float32 counts no further than 2**24 events
        n_events[self.skus] = torch.from_numpy(attributes.n_events)[self.skus].double()
        sku_shares = (n_events / n_events.sum().clamp(min=1)).float()
        self.heads = NextEventHeads(hidden_size, self.n_types, sku_shares, self.kinds, self.skus)
        return self.heads

    def prepare(self, batch: SequenceBatch[Tensor], generator: torch.Generator, most_targets: int = 0) -> TrainingBatch:
        """Every row moves one position to the right: where an event was, the one before it is seen."""
        inputs = moved_right(batch)
        prepared = predict_tokens(inputs, batch.token_ids, inputs.token_ids != PAD, most_targets)
        positions, labels = prepared.positions, prepared.targets["labels"]
        types = required_column(batch, "event_types").flatten()[positions] - 1
        waits = required_column(batch, "timestamps") - required_column(inputs, "timestamps")  # [B, L], seconds
        targets = {
            "labels": labels,
            "types": torch.where(labels == NO_LABEL, NO_LABEL, types),
            # by the logarithm: times to the next event go from seconds to months
            "waits": torch.log1p(waits.flatten()[positions].float() / SECONDS_PER_HOUR),
            "positives": prepared.targets["positives"],  # what of a table of items a step uses
        }
        is_packed = batch.segments is not None
        sequences = (
            required_column(batch, "segments").flatten()[positions] if is_packed else positions // batch.shape[1]
        )
        kinds, _ = self._on(labels.device)
        for head, column in (("url", URL), ("item", SKU)):
            if getattr(self.settings, head):
                is_asked = (kinds[labels.clamp(min=0)] == self.vocabulary.kind_of(column)) & (labels != NO_LABEL)
                # of packed rows for all positions: what is drawn must not depend on how many they are padded to
                n_draws = batch.token_ids.numel() if is_packed else len(labels)
                chances = torch.rand(n_draws, generator=generator, device=generator.device)
                chances = chances[positions] if is_packed else chances
                drawn = self._draw_labels(labels, sequences, is_asked, chances)
                # of packed rows nobody may wait to know which positions a head asks: all are scored, and few count
                asked = torch.arange(len(labels), device=labels.device) if is_packed else is_asked.nonzero().squeeze(1)
                of_head = {"positions": asked, "is_asked": is_asked[asked], "sequences": sequences[asked], **drawn}
                targets |= {f"{head}/{name}": target for name, target in of_head.items()}
        return TrainingBatch(inputs, positions, targets, prepared.n_targets)

    def most_targets(self, lengths: NDArray[np.integer], n_positions: int) -> int:
        """All events but the first of each sequence."""
        return int(lengths.sum()) - len(lengths)

    def draw_candidates(self, generator: torch.Generator) -> Tensor | None:
        """Uniform skus, drawn with replacement, for the item head."""
        if not self.settings.item:
            return None
        _, skus = self._on(generator.device)
        shape = (self.settings.uniform_negatives,)
        return skus[torch.randint(len(skus), shape, generator=generator, device=generator.device)]

    def loss(self, hidden: Tensor, targets: Mapping[str, Tensor], candidates: Tensor | None, score: Score) -> Tensor:
        """The sum over the heads that the settings switch on."""
        assert self.heads is not None
        settings, is_target = self.settings, targets["labels"] != NO_LABEL
        total = hidden.new_zeros((), dtype=torch.float32)
        if settings.type:
            of_types = self.heads.to_type(hidden)
            total = total + F.cross_entropy(of_types, targets["types"], ignore_index=NO_LABEL, reduction="sum")
        if settings.time:
            errors = self.heads.to_wait(hidden).squeeze(1).float() - targets["waits"]
            total = total + torch.where(is_target, errors, 0.0).square().sum()
        for head in ("url", "item"):
            if getattr(settings, head):
                by_head = self._head_loss(head, targets, candidates if head == "item" else None, score)
                total = total + by_head * is_target.sum() / targets[f"{head}/is_asked"].sum().clamp(min=1)
        return total

    def without_last(self, batch: SequenceBatch[Tensor]) -> SequenceBatch[Tensor]:
        """The rows without their last events."""
        require_last_token(batch.token_ids)
        return moved_right(batch)

    def _head_loss(self, head: str, targets: Mapping[str, Tensor], uniform: Tensor | None, score: Score) -> Tensor:
        """Summed over the positions that the head asks.

        Parameters
        ----------
        uniform : int64 [K], skus drawn beside the labels of the batch; the loss is then the corrected one
        """
        assert self.heads is not None
        positions, is_asked, sequences = (targets[f"{head}/{key}"] for key in ("positions", "is_asked", "sequences"))
        candidates, owners = targets[f"{head}/drawn"], targets[f"{head}/drawn_of"]
        own_labels = targets["labels"][positions].clamp(min=0)  # [H]
        is_draw = (owners != sequences.unsqueeze(1)) & (owners != NOBODY) & is_asked.unsqueeze(1)  # [H, N]
        if uniform is not None:
            candidates = torch.cat([candidates, uniform])
            is_draw = torch.cat([is_draw, is_asked.unsqueeze(1).expand(-1, len(uniform))], dim=1)  # [H, N + K]
        counts = (is_draw & (candidates != own_labels.unsqueeze(1))).float()
        own, logits = score(own_labels.unsqueeze(1), positions).squeeze(1), score(candidates, positions)
        # without a negative the loss is 0, but for what rounding leaves of the logit
        own = torch.where(is_asked, own.float(), 0.0)
        if uniform is None:
            return in_batch_softmax_loss(own, logits, counts)
        # a draw is from other rows, where a sku is as frequent as in the data, or from all skus alike
        n_draws = is_draw.sum(dim=1)  # [H]
        n_uniform = len(uniform)
        of_data, of_all = self.heads.sku_shares[candidates], n_uniform / len(self.heads.skus)
        mixed = (n_draws - n_uniform).clamp(min=0).unsqueeze(1) * of_data + of_all
        return corrected_log_q_loss(own, logits, counts, mixed / n_draws.clamp(min=1).unsqueeze(1), n_draws.float())

    def _draw_labels(self, labels: Tensor, sequences: Tensor, is_asked: Tensor, chances: Tensor) -> dict[str, Tensor]:
        """Labels of a head, without replacement, of all positions' labels and sequences (int64 [M]).

        Parameters
        ----------
        chances : float [M], uniform from 0 to 1: the least are drawn

        Returns
        -------
        ``drawn`` int64 [N], PAD where the head has too few; ``drawn_of`` int64 [N], the sequence of each
        """
        # 2: above every chance
        order = chances.masked_fill(~is_asked, 2.0).argsort()[: self.settings.in_batch_negatives]
        return {
            "drawn": torch.where(is_asked[order], labels[order], PAD),
            "drawn_of": torch.where(is_asked[order], sequences[order], NOBODY),
        }

    def _on(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """The kinds of all items and the tokens of skus where a batch is prepared: the CPU, or where the heads are."""
        if device.type == "cpu" or self.heads is None:
            return self.kinds, self.skus
        return self.heads.item_kinds, self.heads.skus
