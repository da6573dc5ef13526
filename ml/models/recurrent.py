"""Recurrent encoders: GRU4Rec, and an LSTM mixed with the mean of the items so far.

Legend of shapes: B batch, L positions of a row, D hidden.
"""

from typing import ClassVar

import torch
from torch import Tensor, nn

from conf.encoders import EncoderSettings
from ml.compat.dropout import Dropout
from ml.data.sequence_batch import SequenceBatch
from ml.data.vocabulary import VocabularyDescription
from ml.models.item_encoder import ItemEncoder, build_head
from schemas.errors import ConfigError
from schemas.tokens import PAD


class Gru(ItemEncoder):
    """Items through gated recurrent layers; a hidden state is the last layer's, and knows nothing that comes after it.

    GRU4Rec (Hidasi et al. 2016, arXiv:1511.06939) with one table for input and output (Hidasi and Karatzoglou 2018,
    arXiv:1706.03847): ``head: none``, dropout of the inputs and of the states.
    """

    can_compile = False
    layers_kind: ClassVar[type[nn.GRU] | type[nn.LSTM]] = nn.GRU

    def __init__(
        self, settings: EncoderSettings, vocabulary: VocabularyDescription, sparse_tables: bool = False
    ) -> None:
        super().__init__(settings, vocabulary, sparse_tables)
        size, n_layers = settings.hidden_size, settings.n_layers
        # torch warns of a dropout between the layers of one
        between = settings.encoder_dropout if n_layers > 1 else 0.0
        self.input_dropout = Dropout(settings.embedding_dropout)
        self.layers = self.layers_kind(size, size, n_layers, batch_first=True, dropout=between)
        self.output_dropout = Dropout(settings.encoder_dropout)
        self.head = build_head(settings)
        self.initialise()

    @classmethod
    def reads_causally(cls, settings: EncoderSettings) -> bool:
        """Always, whatever ``attention`` says."""
        return True

    @classmethod
    def require_settings(cls, name: str, settings: EncoderSettings) -> None:
        """Refuse to be compiled: torch's compiler leaves recurrent layers as they are."""
        if settings.training.compile is True:
            raise ConfigError(
                f"encoders.{name}.training.compile: expected false for architecture={settings.architecture}, found "
                "true: torch.compile knows no recurrent layers; set it to false"
            )

    def encode(self, batch: SequenceBatch[Tensor]) -> Tensor:
        """The last layer's states, float [B, L, D]; of a batch's columns it reads ``token_ids``."""
        token_ids = batch.token_ids
        self.require_shape(batch)
        n_rows, width = token_ids.shape
        items: Tensor = self.input_dropout(self.event_vectors(batch)).unflatten(0, token_ids.shape)  # [B, L, D]
        # each row is turned so that its tokens come first: no layer runs over padding before it meets a token
        n_padding = (token_ids == PAD).sum(dim=1, keepdim=True)  # [B, 1]
        index = torch.arange(width, device=token_ids.device).expand(n_rows, -1)
        states = self._states(_turned(items, (index + n_padding) % width))
        states = self.output_dropout(_turned(states, (index - n_padding) % width))
        return self._hidden(items, states, (index - n_padding + 1).clamp(min=1))

    def _states(self, items: Tensor) -> Tensor:
        """Float [B, L, D] from item vectors, float [B, L, D], tokens first."""
        states: Tensor = self.layers(items)[0]
        return states

    def _hidden(self, items: Tensor, states: Tensor, n_tokens: Tensor) -> Tensor:
        """Float [B, L, D] from item vectors, states (float [B, L, D]) and how many tokens there are so far ([B, L])."""
        return states


class Lstm(Gru):
    """A learned mix of an LSTM's state and the mean of the item vectors so far, ``share * state + (1 - share) * mean``.

    The share begins at a half. Both ends of the mix see the items of the sequence alone.
    """

    layers_kind = nn.LSTM

    def __init__(
        self, settings: EncoderSettings, vocabulary: VocabularyDescription, sparse_tables: bool = False
    ) -> None:
        super().__init__(settings, vocabulary, sparse_tables)
        self.share_logit = nn.Parameter(torch.zeros(()))

    def _states(self, items: Tensor) -> Tensor:
        uses_onednn = not items.is_cuda and torch.backends.mkldnn.is_available()
        if not uses_onednn or torch.ops.mkldnn._is_mkldnn_bf16_supported():
            return super()._states(items)
        # oneDNN's LSTM refuses bfloat16 on a processor without AVX-512
        with torch.autocast(items.device.type, enabled=False):
            return super()._states(items.float())

    def _hidden(self, items: Tensor, states: Tensor, n_tokens: Tensor) -> Tensor:
        mean = items.cumsum(dim=1) / n_tokens.unsqueeze(-1)  # PAD's vector is zero
        return torch.lerp(mean, states.to(mean.dtype), self.share_logit.sigmoid())


def _turned(rows: Tensor, index: Tensor) -> Tensor:
    """Float [B, L, D], at each position the row's vector at ``index`` (int64 [B, L])."""
    return rows.gather(1, index.unsqueeze(-1).expand_as(rows))
