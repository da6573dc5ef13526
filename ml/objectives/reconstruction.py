"""Reconstruction: from the last hidden state alone a small decoder says what all events of a sequence were.

The recurrent autoencoder of the challenge's second place, whose encoder may be any.

Legend of shapes: B batch, L positions of a row, D hidden, T event types, V tokens, C classes of a field.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from conf.encoders import EncoderSettings
from ml.data.sequence_batch import SequenceBatch, required_column
from ml.data.vocabulary import VocabularyDescription
from ml.objectives.protocol import Objective, Score, TrainingBatch
from schemas.columns import SKU, URL
from schemas.errors import ConfigError
from schemas.tokens import PAD

NONE, RARE = 0, 1
"""Classes of what an event does not have, and of skus and urls that are not frequent."""


class Decoder(nn.Module):
    """A recurrent layer that reads the event before and the sequence's vector, and a linear layer for each field.

    Attributes
    ----------
    classes : int64 [V, fields but the type], what a token is in each field
    """

    classes: Tensor

    def __init__(self, hidden_size: int, n_types: int, classes: Tensor) -> None:
        super().__init__()
        # class 0 is NONE in every field: event types count from 1
        sizes = [1 + n_types, *(1 + int(field.max()) for field in classes.T)]
        # not persistent: they follow from the attributes, and a checkpoint need not hold them
        self.register_buffer("classes", classes, persistent=False)
        self.tables = nn.ModuleList(nn.Embedding(size, hidden_size) for size in sizes)
        self.layer = nn.GRU(2 * hidden_size, hidden_size, batch_first=True)
        self.fields = nn.ModuleList(nn.Linear(hidden_size, size) for size in sizes)

    def forward(self, vectors: Tensor, token_ids: Tensor, event_types: Tensor) -> Tensor:
        """The summed cross-entropy of all fields of all events, those that an event does not have left out.

        Parameters
        ----------
        vectors : float [B, D], what is known of each row
        token_ids, event_types : int64 [B, L], whose tokens come first; PAD after them
        """
        fields = torch.cat([event_types.unsqueeze(2), self.classes[token_ids]], dim=2)  # [B, L, fields]
        embedded = sum(table(field) for table, field in zip(self.tables, fields.unbind(2), strict=True))
        before = F.pad(embedded[:, :-1], (0, 0, 1, 0))  # of the first event nothing is known
        states, _ = self.layer(torch.cat([before, vectors.unsqueeze(1).expand_as(before)], dim=2))
        losses = [
            F.cross_entropy(layer(states).flatten(0, 1).float(), field.flatten(), ignore_index=NONE, reduction="sum")
            for layer, field in zip(self.fields, fields.unbind(2), strict=True)
        ]
        return torch.stack(losses).sum()


class Reconstruction(Objective):
    """Every event's type, category, price, sku and url are to be said of the sequence's last hidden state.

    The decoder is taught by the right event before each (teacher forcing). Skus and urls beyond the
    ``frequent_items`` with the most events are one class each.
    """

    needs_causal: bool | None = None
    is_sampled = True
    ranks_items = False

    def __init__(self, settings: EncoderSettings, vocabulary: VocabularyDescription) -> None:
        self.settings, self.vocabulary = settings.reconstruction, vocabulary
        self.n_types = len(settings.behaviours)

    @classmethod
    def require_settings(cls, name: str, settings: EncoderSettings) -> None:
        """Refuse one behaviour alone: only a merged stream has attributes to say."""
        if len(settings.behaviours) == 1 or not settings.reads_events:
            raise ConfigError(
                f"encoders.{name}.objective=reconstruction: expected several behaviours, with what each event is, "
                f"found behaviours={list(settings.behaviours)}, event_columns={settings.event_columns}; name more "
                "behaviours without event_columns=false"
            )

    def build_heads(self, hidden_size: int) -> Decoder:
        """The decoder; ValueError if the attributes of the vocabulary's items are not at hand."""
        attributes = self.vocabulary.attributes_for("reconstruction")
        kinds = torch.from_numpy(attributes.item_kind)
        fields = [torch.from_numpy(attributes.category).long(), torch.from_numpy(attributes.price).long()]
        for column in (SKU, URL):
            is_own = kinds == self.vocabulary.kind_of(column)
            # tokens come by falling number of events: a token's rank among its kind
            rank = is_own.cumsum(0)
            fields.append(torch.where(rank <= self.settings.frequent_items, 1 + rank, RARE) * is_own)
        self.decoder = Decoder(hidden_size, self.n_types, torch.stack(fields, dim=1))
        return self.decoder

    def prepare(self, batch: SequenceBatch[Tensor], generator: torch.Generator, most_targets: int = 0) -> TrainingBatch:
        """The rows as they are; their tokens first, for the decoder."""
        n_rows, width = batch.shape
        is_token = batch.token_ids != PAD
        n_padding = width - is_token.sum(dim=1, keepdim=True)
        index = (torch.arange(width) + n_padding) % width
        targets = {
            "tokens": batch.token_ids.gather(1, index),
            "types": required_column(batch, "event_types").gather(1, index),
        }
        positions = torch.arange(1, n_rows + 1) * width - 1
        return TrainingBatch(batch, positions, targets, n_targets=int(is_token.sum()))

    def loss(self, hidden: Tensor, targets: Mapping[str, Tensor], candidates: Tensor | None, score: Score) -> Tensor:
        """The sum over events and fields."""
        loss: Tensor = self.decoder(hidden, targets["tokens"], targets["types"])
        return loss
