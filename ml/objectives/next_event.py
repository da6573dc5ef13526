"""Next event: from each event of a merged stream, what comes next, when, and what it is about.

The four heads of the challenge's fourth place: the type of the next event, the time to it, its url where it is a visit,
its sku where it has one.

Legend of shapes: B batch, L positions of a row, M positions with a next event, D hidden, T event types, V tokens,
H targets of a head, U different ones of these, K uniform negatives, S sequences of a batch.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from conf.encoders import EncoderSettings
from ml.data.sequence_batch import SequenceBatch, required_column
from ml.data.vocabulary import VocabularyDescription
from ml.objectives.item_prediction import require_last_token
from ml.objectives.losses import corrected_log_q_loss, in_batch_softmax_loss
from ml.objectives.next_item import moved_right
from ml.objectives.protocol import Objective, Score, TrainingBatch
from schemas.columns import SKU, URL
from schemas.errors import ConfigError
from schemas.tokens import PAD

SECONDS_PER_HOUR = 3600
HEAD_TARGETS = ("positions", "positives", "columns", "rows", "counts")
"""What a head that predicts items compares hidden states with (``NextEvent._item_targets``)."""


class NextEventHeads(nn.Module):
    """What of the heads is learnt beside the encoder, and what they must know of all items.

    Attributes
    ----------
    sku_shares : float32 [V], each sku's share of all events that have one
    item_kinds : uint8 [V]
    """

    sku_shares: Tensor
    item_kinds: Tensor

    def __init__(self, hidden_size: int, n_types: int, sku_shares: Tensor, item_kinds: Tensor) -> None:
        super().__init__()
        self.to_type = nn.Linear(hidden_size, n_types)
        self.to_wait = nn.Linear(hidden_size, 1)
        self.register_buffer("sku_shares", sku_shares, persistent=False)
        self.register_buffer("item_kinds", item_kinds, persistent=False)


class NextEvent(Objective):
    """A step's loss is the sum of the heads' means, each over its own targets.

    A learner divides by one number of targets, the positions with a next event. Where only some of a batch's positions
    are targets of a head, its sum is multiplied by how many times as many positions there are.

    What ranks items is what scores them here: ``score``, of the encoder's output vectors. Published with
    ``similarity: cosine`` and ``temperature: 0.05``.
    """

    needs_causal: bool | None = True
    is_sampled = True

    def __init__(self, settings: EncoderSettings, vocabulary: VocabularyDescription) -> None:
        self.settings, self.vocabulary = settings.next_event, vocabulary
        self.n_types = len(settings.behaviours)
        self.heads: NextEventHeads | None = None
        self.is_kind: dict[str, Tensor] = {}  # column -> bool [V], its items
        if vocabulary.attributes is not None:  # else the encoder comes from its folder, to be validated
            kinds = torch.from_numpy(vocabulary.attributes.item_kind)
            self.is_kind = {column: kinds == kind for kind, column in enumerate(vocabulary.item_columns, start=1)}
        self.skus = self.is_kind.get(SKU, torch.zeros(0)).nonzero().squeeze(1)

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
        attributes = self.vocabulary.attributes
        if attributes is None:
            raise ValueError("next_event: expected a vocabulary with its items' attributes, to train on")
        n_events = torch.zeros(len(attributes), dtype=torch.float64)
        n_events[self.skus] = torch.from_numpy(attributes.n_events)[self.skus].double()
        sku_shares = (n_events / n_events.sum().clamp(min=1)).float()
        self.heads = NextEventHeads(hidden_size, self.n_types, sku_shares, torch.from_numpy(attributes.item_kind))
        return self.heads

    def prepare(self, batch: SequenceBatch[Tensor], generator: torch.Generator, most_targets: int = 0) -> TrainingBatch:
        """Every row moves one position to the right: where an event was, the one before it is seen."""
        inputs = moved_right(batch)
        positions = (inputs.token_ids != PAD).flatten().nonzero().squeeze(1)  # [M]
        types = required_column(batch, "event_types").flatten()[positions] - 1
        waits = required_column(batch, "timestamps") - required_column(inputs, "timestamps")  # [B, L], seconds
        targets = {"types": types, "waits": torch.log1p(waits.flatten()[positions].float() / SECONDS_PER_HOUR)}
        rows = torch.arange(len(batch)).unsqueeze(1).expand(batch.shape).flatten()[positions]
        labels = batch.token_ids.flatten()[positions]
        for head, column in (("url", URL), ("item", SKU)):
            if getattr(self.settings, head):
                of_head = self._item_targets(labels, self.is_kind[column][labels], rows, generator)
                targets |= {f"{head}/{name}": target for name, target in of_head.items()}
        targets["positives"] = labels.unique()  # what of a table of items a step uses
        return TrainingBatch(inputs, positions, targets, n_targets=len(positions))

    def draw_candidates(self, generator: torch.Generator) -> Tensor | None:
        """Uniform skus, drawn with replacement, for the item head."""
        if not self.settings.item:
            return None
        return self.skus[torch.randint(len(self.skus), (self.settings.uniform_negatives,), generator=generator)]

    def loss(self, hidden: Tensor, targets: Mapping[str, Tensor], candidates: Tensor | None, score: Score) -> Tensor:
        """The sum over the heads that the settings switch on."""
        assert self.heads is not None
        n_positions, settings = len(hidden), self.settings
        total = hidden.new_zeros((), dtype=torch.float32)
        if settings.type:
            total = total + F.cross_entropy(self.heads.to_type(hidden), targets["types"], reduction="sum")
        if settings.time:
            total = total + (self.heads.to_wait(hidden).squeeze(1).float() - targets["waits"]).square().sum()
        for head in ("url", "item"):
            if getattr(settings, head):
                of_head = {key: targets[f"{head}/{key}"] for key in HEAD_TARGETS}
                by_head = (
                    self._url_loss(of_head, score) if head == "url" else self._item_loss(of_head, candidates, score)
                )
                total = total + by_head * n_positions / max(1, len(of_head["columns"]))
        return total

    def without_last(self, batch: SequenceBatch[Tensor]) -> SequenceBatch[Tensor]:
        """The rows without their last events."""
        require_last_token(batch.token_ids)
        return moved_right(batch)

    def _url_loss(self, targets: Mapping[str, Tensor], score: Score) -> Tensor:
        logits = score(targets["positives"], targets["positions"])  # [H, U]
        counts = targets["counts"][targets["rows"]]
        return in_batch_softmax_loss(logits, targets["columns"], targets["positives"], counts)

    def _item_loss(self, targets: Mapping[str, Tensor], uniform: Tensor | None, score: Score) -> Tensor:
        assert self.heads is not None
        assert uniform is not None
        skus = torch.cat([targets["positives"], uniform])  # [U + K]
        counts = F.pad(targets["counts"], (0, len(uniform)), value=1.0)[targets["rows"]]  # [H, U + K]
        # a draw is from other rows, where a sku is as frequent as in the data, or from all skus alike
        n_draws = counts.sum(dim=1, keepdim=True)
        of_data, of_all = self.heads.sku_shares[skus], 1 / len(self.skus)
        probabilities = ((n_draws - len(uniform)) * of_data + len(uniform) * of_all) / n_draws
        logits = score(skus, targets["positions"])
        return corrected_log_q_loss(logits, targets["columns"], skus, counts, probabilities)

    def _item_targets(
        self, labels: Tensor, is_target: Tensor, rows: Tensor, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """What a head that predicts items needs, of the labels and rows of all positions (int64 [M]).

        Returns
        -------
        ``positions`` int64 [H], which of the M are targets; ``positives`` int64 [U], the different labels, rising;
        ``columns`` int64 [H], which of these each label is; ``rows`` int64 [H], the rows that have one, from 0;
        ``counts`` float [S, U], how often each label is drawn as a negative for a row: as often as it is a target in
        others, or in those of them that are drawn
        """
        positions = is_target.nonzero().squeeze(1)
        positives, columns = labels[positions].unique(return_inverse=True)
        own_rows, of_row = rows[positions].unique(return_inverse=True)
        drawn = torch.randperm(len(positions), generator=generator)[: self.settings.in_batch_negatives]
        by_row = torch.zeros(len(own_rows), len(positives))
        by_row.index_put_((of_row[drawn], columns[drawn]), torch.ones(len(drawn)), accumulate=True)
        return {
            "positions": positions,
            "positives": positives,
            "columns": columns,
            "rows": of_row,
            "counts": by_row.sum(dim=0) - by_row,
        }
