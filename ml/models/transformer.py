"""A transformer over a client's items: BERT4Rec's encoder (Sun et al. 2019, arXiv:1904.06690).

With ``ModelSettings.attention`` causal it is SASRec's (Kang and McAuley 2018, arXiv:1808.09781).

Legend of shapes: B batch, L positions of a row, D hidden, H heads, V vocabulary (special tokens included),
N rows that the encoder computes (the tokens of a batch, see ``ml.models.padding``), M chosen positions, K candidates.
"""

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from conf.encoders import EncoderSettings, ModelSettings
from ml.compat.dropout import Dropout
from ml.data.baskets import baskets_from_newest
from ml.data.segments import positions_from_newest
from ml.data.sequence_batch import SequenceBatch
from ml.data.vocabulary import VocabularyDescription
from ml.models.attention import attend
from ml.models.item_encoder import ItemEncoder, build_head
from ml.models.padding import Grid, grid_of_tokens, narrow_grid, visible_positions
from schemas.tokens import PAD


class Context(NamedTuple):
    """What a block may look at, and which rows it must give.

    Attributes
    ----------
    grid : of the rows
    is_visible : bool [B, 1, 1, L] or, where each row sees others, [B, 1, L or the width of ``queries``, L]: which
        positions may be attended to; None where all may
    queries : the grid of the rows that attend to others: all, or on a CPU those wanted alone
    wanted : the grid of the rows wanted
    rows : int64 [M], the rows wanted; None for all
    """

    grid: Grid
    is_visible: Tensor | None
    queries: Grid
    wanted: Grid
    rows: Tensor | None = None


class SequenceEmbedding(nn.Module):
    """Item vector plus position vector, in the way that ``embedding`` says; position 0 is the most recent token."""

    def __init__(self, settings: EncoderSettings) -> None:
        super().__init__()
        is_normed = settings.embedding == "normed"
        self.counts_baskets = settings.positions == "basket"
        self.scale = settings.hidden_size**0.5 if settings.embedding == "scaled" else 1.0
        self.position_table = nn.Embedding(settings.max_length, settings.hidden_size)
        self.norm = nn.LayerNorm(settings.hidden_size) if is_normed else nn.Identity()
        self.dropout = Dropout(settings.embedding_dropout)
        self.projection = nn.Linear(settings.hidden_size, settings.hidden_size) if is_normed else nn.Identity()

    def forward(self, items: Tensor, grid: Grid, batch: SequenceBatch[Tensor]) -> Tensor:
        """Float [N, D] from the vectors of a batch's items, float [N, D]."""
        items = items if self.scale == 1.0 else items * self.scale
        # positions count from the end: a recent token has the same vector however wide its batch is padded
        if self.counts_baskets:
            baskets = baskets_from_newest(batch).flatten()
            embedded = items + self.position_table(baskets if grid.positions is None else baskets[grid.positions])
        elif batch.segments is not None:
            embedded = items + self.position_table(positions_from_newest(batch.segments).flatten())
        elif grid.positions is None:
            positions = self.position_table.weight[: grid.width].flip(0)  # [L, D]
            embedded = (items.unflatten(0, (grid.height, grid.width)) + positions).flatten(0, 1)
        else:
            positions = self.position_table.weight[: grid.width].flip(0)  # [L, D]
            embedded = items + F.embedding(grid.positions % grid.width, positions)
        vectors: Tensor = self.projection(self.dropout(self.norm(embedded)))
        return vectors


class SelfAttention(nn.Module):
    """Multi-head attention of every position to every visible one (Vaswani et al. 2017, section 3.2)."""

    def __init__(self, settings: ModelSettings) -> None:
        super().__init__()
        self.n_heads = settings.n_heads
        chosen = settings.attention_dropout
        self.dropout_prob = settings.encoder_dropout if chosen is None else chosen
        # queries apart from keys and values: the last block has fewer of them (encode_at)
        self.query = nn.Linear(settings.hidden_size, settings.hidden_size)
        self.key_value = nn.Linear(settings.hidden_size, 2 * settings.hidden_size)
        self.output = nn.Linear(settings.hidden_size, settings.hidden_size)

    def forward(self, x: Tensor, context: Context, queries: Tensor | None = None) -> Tensor:
        """Float [N, D] from float [N, D]; [M, D] where only some rows are wanted.

        Parameters
        ----------
        queries : float [N, D], what queries are made of, where these are not the rows ``x``
        """
        attending = x if queries is None else queries
        if context.rows is not None and context.queries is not context.grid:
            attending = attending.index_select(0, context.rows)
        (query,) = context.queries.heads(self.query(attending), 1, self.n_heads)  # [B, H, Q, D/H]
        key_value = context.grid.heads(self.key_value(x), 2, self.n_heads)  # [2, B, H, L, D/H]
        heads = attend(query, key_value, context.is_visible, self.dropout_prob if self.training else 0.0)
        return self.output(context.wanted.merge(heads))


class Block(nn.Module):
    """Attention, then a GELU feed-forward; each is added to its input.

    Sums are normalised after (post-norm, Vaswani et al. 2017), or else each one's input before it (pre-norm).
    """

    def __init__(self, settings: ModelSettings) -> None:
        super().__init__()
        self.is_pre_norm = settings.norm == "pre"
        self.attention = SelfAttention(settings)
        self.attention_norm = nn.LayerNorm(settings.hidden_size)
        self.feed_forward = nn.Sequential(
            nn.Linear(settings.hidden_size, settings.feed_forward_size),
            nn.GELU(),
            nn.Linear(settings.feed_forward_size, settings.hidden_size),
        )
        self.feed_forward_norm = nn.LayerNorm(settings.hidden_size)
        self.dropout = Dropout(settings.encoder_dropout)

    def forward(self, x: Tensor, context: Context) -> Tensor:
        """Float [N, D] from float [N, D]; [M, D] where only some rows are wanted."""
        wanted = x if context.rows is None else x.index_select(0, context.rows)
        if self.is_pre_norm:
            wanted = self.dropout(self.attention(self.attention_norm(x), context), wanted)
            return self.dropout(self.feed_forward(self.feed_forward_norm(wanted)), wanted)
        wanted = self.attention_norm(self.dropout(self.attention(x, context), wanted))
        return self.feed_forward_norm(self.dropout(self.feed_forward(wanted), wanted))


class SasRecBlock(nn.Module):
    """SASRec's block as in its authors' code, https://github.com/kang205/SASRec.

    Queries are normed, keys and values are not; sums are with the normed input; the feed-forward has ReLU and dropout.
    Attention ends in a matrix here, which theirs lacks.
    """

    def __init__(self, settings: ModelSettings) -> None:
        super().__init__()
        self.attention = SelfAttention(settings)
        self.attention_norm = nn.LayerNorm(settings.hidden_size)
        self.feed_forward = nn.Sequential(
            nn.Linear(settings.hidden_size, settings.feed_forward_size),
            nn.ReLU(),
            Dropout(settings.encoder_dropout),
            nn.Linear(settings.feed_forward_size, settings.hidden_size),
        )
        self.feed_forward_norm = nn.LayerNorm(settings.hidden_size)
        self.dropout = Dropout(settings.encoder_dropout)

    def forward(self, x: Tensor, context: Context) -> Tensor:
        """Float [N, D] from float [N, D]; [M, D] where only some rows are wanted."""
        queries = self.attention_norm(x)
        wanted = queries if context.rows is None else queries.index_select(0, context.rows)
        wanted = self.feed_forward_norm(wanted + self.attention(x, context, queries))
        added: Tensor = self.dropout(self.feed_forward(wanted), wanted)
        return added


class LigrBlock(nn.Module):
    """A pre-norm block whose two sums are gated by their input, with a SwiGLU feed-forward.

    LiGR (Borisyuk et al. 2025), as eSASRec has it ("Enhancing Transformer-based Recommendations in a Modular Fashion",
    RecSys 2025, and RecTools). RecTools' feed-forward has dropout within, too, and no biases.
    """

    def __init__(self, settings: ModelSettings) -> None:
        super().__init__()
        size, inside = settings.hidden_size, settings.feed_forward_size
        self.attention = SelfAttention(settings)
        self.attention_norm, self.attention_gate = nn.LayerNorm(size), nn.Linear(size, size)
        self.feed_forward_in, self.feed_forward_out = nn.Linear(size, 2 * inside), nn.Linear(inside, size)
        self.feed_forward_norm, self.feed_forward_gate = nn.LayerNorm(size), nn.Linear(size, size)
        self.dropout = Dropout(settings.encoder_dropout)

    def forward(self, x: Tensor, context: Context) -> Tensor:
        """Float [N, D] from float [N, D]; [M, D] where only some rows are wanted."""
        wanted = x if context.rows is None else x.index_select(0, context.rows)
        attended = self.dropout(self.attention(self.attention_norm(x), context))
        wanted = wanted + self.attention_gate(wanted).sigmoid() * attended
        gate, value = self.feed_forward_in(self.feed_forward_norm(wanted)).chunk(2, dim=-1)  # SwiGLU, Shazeer 2020
        fed = self.dropout(self.feed_forward_out(F.silu(gate) * value))
        return wanted + self.feed_forward_gate(wanted).sigmoid() * fed


BLOCKS = {"bert": Block, "sasrec": SasRecBlock, "ligr": LigrBlock}


class Transformer(ItemEncoder):
    """Blocks of attention; see ``SequenceEncoder``."""

    reads_segments = True

    def __init__(
        self, settings: EncoderSettings, vocabulary: VocabularyDescription, sparse_tables: bool = False
    ) -> None:
        super().__init__(settings, vocabulary, sparse_tables)
        self.embedding = SequenceEmbedding(settings)
        self.blocks = nn.ModuleList(BLOCKS[settings.block](settings) for _ in range(settings.n_layers))
        self.final_norm = nn.LayerNorm(self.hidden_size) if settings.final_norm else nn.Identity()
        self.head = build_head(settings)
        self.initialise()

    @classmethod
    def reads_causally(cls, settings: EncoderSettings) -> bool:
        """As ``attention`` says."""
        return settings.attention == "causal"

    def encode(self, batch: SequenceBatch[Tensor]) -> Tensor:
        """The last layer's vectors, float [B, L, D]; of a batch's columns it reads ``token_ids``."""
        x, context = self._embed(batch)
        for block in self.blocks:
            x = block(x, context)
        return context.grid.spread(self.final_norm(x))

    def encode_at(self, batch: SequenceBatch[Tensor], positions: Tensor) -> Tensor:
        """The last layer's vectors of some tokens, float [M, D]; the last block computes no others."""
        x, context = self._embed(batch)
        # the last block computes queries, heads and feed-forward of the rows wanted only; keys and values are of all
        # the blocks before it compute all rows: the last one's keys and values need them
        *first, last = self.blocks
        for block in first:
            x = block(x, context)
        grid, is_visible = context.grid, context.is_visible
        if grid.positions is None:
            # of packed rows the positions past the last target may be those of targets too
            wanted = Grid(positions, *batch.shape, may_repeat=True)
            return self.final_norm(last(x, Context(grid, is_visible, grid, wanted, positions)))
        wanted = narrow_grid(positions, *batch.shape)
        if is_visible is not None and is_visible.shape[2] > 1:
            # each row sees what its position sees; an empty position of their grid sees all, and what it gets is lost
            is_unseen = ~is_visible.flatten(0, 2).index_select(0, positions)  # [M, L]
            is_visible = ~wanted.spread(is_unseen)[:, None]  # [B, 1, Q, L]
        return self.final_norm(last(x, Context(grid, is_visible, wanted, wanted, grid.rows_at(positions))))

    def _embed(self, batch: SequenceBatch[Tensor]) -> tuple[Tensor, Context]:
        self.require_shape(batch)
        is_token = batch.token_ids != PAD  # [B, L]
        grid = grid_of_tokens(is_token, batch.segments)
        is_visible: Tensor | None = None
        if self.is_causal or batch.segments is not None:
            is_visible = visible_positions(is_token, batch.segments, self.is_causal)
        elif not grid.is_full:
            # a row without tokens sees its padding: a softmax of nothing is no number
            is_visible = (is_token | ~is_token.any(dim=1, keepdim=True))[:, None, None, :]  # [B, 1, 1, L]
        x = self.embedding(self.event_vectors(batch, grid.positions), grid, batch)
        return x, Context(grid, is_visible, queries=grid, wanted=grid)
