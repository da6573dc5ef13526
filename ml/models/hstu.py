"""HSTU: attention without a softmax, gated, with learned biases of distance in positions and in time.

Zhai et al. 2024, arXiv:2402.17152, and github.com/meta-recsys/generative-recommenders.

Legend of shapes: B batch, L positions of a row, D hidden, H heads, N rows (the tokens of a batch).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from conf.encoders import EncoderSettings
from ml.compat.dropout import Dropout
from ml.data.sequence_batch import SequenceBatch
from ml.data.vocabulary import VocabularyDescription
from ml.models.item_encoder import ItemEncoder, build_head
from ml.models.padding import Grid, grid_of_tokens, visible_positions
from ml.models.transformer import SequenceEmbedding
from schemas.tokens import PAD

# all as in the authors' code
NORM_EPS = 1e-6
N_TIME_BUCKETS = 128
TIME_BUCKET_WIDTH = 0.301
"""A bucket is so much of the natural logarithm of the seconds between two events: one and a third times as many."""


class HstuLayer(nn.Module):
    """One layer: values, queries, keys and a gate of the normed input; what is attended to is normed and gated."""

    def __init__(self, settings: EncoderSettings) -> None:
        super().__init__()
        size = settings.hidden_size
        self.n_heads, self.max_length = settings.n_heads, settings.max_length
        # what is attended to is divided by max_length: at the start its variance is less than LayerNorm's 1e-5
        self.norm, self.attended_norm = nn.LayerNorm(size, NORM_EPS), nn.LayerNorm(size, NORM_EPS)
        self.projection = nn.Linear(size, 4 * size, bias=False)
        self.output = nn.Linear(size, size)
        self.position_bias = nn.Embedding(settings.max_length, 1)
        self.time_bias = nn.Embedding(N_TIME_BUCKETS, 1)
        self.dropout = Dropout(settings.encoder_dropout)

    def forward(self, x: Tensor, grid: Grid, is_visible: Tensor, time_buckets: Tensor | None) -> Tensor:
        """Float [N, D] from float [N, D].

        Parameters
        ----------
        is_visible : bool [B, 1, L, L], which positions may be attended to
        time_buckets : int64 [B, 1, L, L], of the time between two positions; None where times are not known
        """
        gate, others = F.silu(self.projection(self.norm(x))).tensor_split([x.shape[1]], dim=1)
        value, query, key = grid.heads(others, 3, self.n_heads)  # [B, H, L, D/H]
        # not divided by the root of the head's width, as in the authors' code
        scores = query @ key.mT + self._position_biases(grid.width)
        if time_buckets is not None:
            scores = scores + self.time_bias(time_buckets).squeeze(-1)
        # by max_length, not by the width of the grid: how wide a row is padded must not matter
        weights = (F.silu(scores) / self.max_length).masked_fill(~is_visible, 0.0).to(value.dtype)
        attended = self.attended_norm(grid.merge(weights @ value))
        projected: Tensor = self.output(self.dropout(gate * attended))
        return x + projected

    def _position_biases(self, width: int) -> Tensor:
        """Float [L, L], by how many positions the second comes before the first."""
        index = torch.arange(width, device=self.position_bias.weight.device)
        distance = (index[:, None] - index).clamp(0, self.max_length - 1)
        return self.position_bias(distance).squeeze(-1)


class Hstu(ItemEncoder):
    """Layers of HSTU; always causal. Without ``timestamps`` in its batches it has the biases of positions alone.

    A time is the one between the two events themselves. The authors' code takes the next event's instead, which is
    not known when an item is to be predicted. As published: ``embedding: scaled``, ``head: none``,
    ``similarity: cosine``.
    """

    reads_segments = True

    def __init__(
        self, settings: EncoderSettings, vocabulary: VocabularyDescription, sparse_tables: bool = False
    ) -> None:
        super().__init__(settings, vocabulary, sparse_tables)
        self.embedding = SequenceEmbedding(settings)
        layers = [HstuLayer(settings) for _ in range(settings.n_layers)]
        self.layers = nn.ModuleList(layers)
        self.final_norm = nn.LayerNorm(self.hidden_size) if settings.final_norm else nn.Identity()
        self.head = build_head(settings)
        self.initialise()
        for layer in layers:  # as in the authors' code
            nn.init.xavier_uniform_(layer.output.weight)

    @classmethod
    def reads_causally(cls, settings: EncoderSettings) -> bool:
        """Always, whatever ``attention`` says."""
        return True

    def encode(self, batch: SequenceBatch[Tensor]) -> Tensor:
        """The last layer's vectors, float [B, L, D]; of a batch's columns it reads ``token_ids`` and ``timestamps``."""
        self.require_shape(batch)
        is_token = batch.token_ids != PAD  # [B, L]
        grid = grid_of_tokens(is_token, batch.segments)
        is_visible = visible_positions(is_token, batch.segments, is_causal=True)
        buckets = None if batch.timestamps is None else time_buckets(batch.timestamps)[:, None]
        x = self.embedding(self.event_vectors(batch, grid.positions), grid, batch)
        for layer in self.layers:
            x = layer(x, grid, is_visible, buckets)
        return grid.spread(self.final_norm(x))


def time_buckets(timestamps: Tensor) -> Tensor:
    """Int64 [B, L, L], the bucket of the seconds between each two events of a row (int64 [B, L])."""
    seconds = (timestamps[:, :, None] - timestamps[:, None, :]).abs().clamp(min=1)
    return (seconds.float().log() / TIME_BUCKET_WIDTH).long().clamp(max=N_TIME_BUCKETS - 1)
