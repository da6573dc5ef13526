"""BERT4Rec: a bidirectional transformer over a client's items (Sun et al. 2019, arXiv:1904.06690).

With ``ModelSettings.attention`` causal it is an encoder as SASRec's (Kang and McAuley 2018, arXiv:1808.09781).

Legend of shapes: B batch, L sequence, D hidden, H heads, V vocabulary (special tokens included),
N rows that the encoder computes (the tokens of a batch, see ``ml.models.padding``), M hidden positions of a batch,
K candidate items.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from conf.encoders import ModelSettings
from ml.compat.dropout import Dropout
from ml.models.attention import attend
from ml.models.item_embeddings import INIT_STD, build_table
from ml.models.padding import Grid, grid_of_tokens, narrow_grid
from schemas.tokens import PAD


class Context(NamedTuple):
    """What a block may look at, and which rows it must give.

    Attributes
    ----------
    grid : of the rows
    is_visible : bool [B, 1, 1, L] or, where each row sees others, [B, 1, L or the width of ``wanted``, L]: the places
        that may be attended to; None where all may
    rows : int64 [M], the rows wanted; None for all
    wanted : the grid of the rows wanted
    """

    grid: Grid
    is_visible: Tensor | None
    rows: Tensor | None
    wanted: Grid


class SequenceEmbedding(nn.Module):
    """Item vector plus position vector, normalised and projected; position 0 is the most recent token."""

    def __init__(self, settings: ModelSettings, max_length: int) -> None:
        super().__init__()
        self.position_table = nn.Embedding(max_length, settings.hidden_size)
        self.norm = nn.LayerNorm(settings.hidden_size)
        self.dropout = Dropout(settings.embedding_dropout)
        self.projection = nn.Linear(settings.hidden_size, settings.hidden_size)

    def forward(self, items: Tensor, grid: Grid) -> Tensor:
        """Float [N, D] from the item vectors float [N, D]."""
        positions = self.position_table.weight[: grid.width].flip(0)  # [L, D]
        if grid.places is None:
            embedded = (items.unflatten(0, (grid.height, grid.width)) + positions).flatten(0, 1)
        else:
            embedded = items + F.embedding(grid.places % grid.width, positions)
        return self.projection(self.dropout(self.norm(embedded)))


class SelfAttention(nn.Module):
    """Multi-head attention of every position to every visible one (Vaswani et al. 2017, section 3.2)."""

    def __init__(self, settings: ModelSettings) -> None:
        super().__init__()
        self.n_heads = settings.n_heads
        chosen = settings.attention_dropout
        self.dropout_prob = settings.encoder_dropout if chosen is None else chosen
        self.query = nn.Linear(settings.hidden_size, settings.hidden_size)
        self.key_value = nn.Linear(settings.hidden_size, 2 * settings.hidden_size)
        self.output = nn.Linear(settings.hidden_size, settings.hidden_size)

    def forward(self, x: Tensor, context: Context) -> Tensor:
        """Float [N, D] from float [N, D]; [M, D] where only some rows are wanted."""
        wanted = x if context.rows is None else x.index_select(0, context.rows)
        (query,) = context.wanted.heads(self.query(wanted), 1, self.n_heads)  # [B, H, Q, D/H]
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


class Bert4Rec(nn.Module):
    """The model of one behaviour; one table serves its input and its output (Sun et al. 2019, section 3.5).

    Parameters
    ----------
    settings : the shape
    n_tokens : V, FIRST_ITEM plus the number of items
    max_length : the longest sequence it can read
    sparse_table : give the parameters with a row per token sparse gradients, of the rows used only
    """

    def __init__(self, settings: ModelSettings, n_tokens: int, max_length: int, sparse_table: bool = False) -> None:
        super().__init__()
        self.hidden_size = settings.hidden_size
        self.n_tokens = n_tokens
        self.max_length = max_length
        self.is_causal = settings.attention == "causal"
        self.item_table = build_table(settings, n_tokens, sparse_table)
        self.embedding = SequenceEmbedding(settings, max_length)
        self.blocks = nn.ModuleList(Block(settings) for _ in range(settings.n_layers))
        self.final_norm = nn.LayerNorm(self.hidden_size) if settings.final_norm else nn.Identity()
        self.head = nn.Sequential(
            nn.Linear(self.hidden_size, self.hidden_size), nn.GELU(), nn.LayerNorm(self.hidden_size)
        )
        self._initialise()

    def _initialise(self) -> None:
        self.item_table.initialise()
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=INIT_STD)
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.embedding.position_table.weight.device

    @property
    def has_sparse_table(self) -> bool:
        """Whether ``table_parameters`` get sparse gradients."""
        return self.item_table.is_sparse

    def encode(self, token_ids: Tensor) -> Tensor:
        """The last layer's token vectors; what stands at PAD is finite but means nothing.

        Parameters
        ----------
        token_ids : int64 [B, L], left-padded with PAD to any width L <= max_length

        Returns
        -------
        float [B, L, D]

        Raises
        ------
        ValueError
            If the batch is wider than ``max_length``.
        """
        x, context = self._embed(token_ids)
        for block in self.blocks:
            x = block(x, context)
        return context.grid.spread(self.final_norm(x))

    def encode_at(self, token_ids: Tensor, positions: Tensor) -> Tensor:
        """The last layer's vectors of some tokens; the last block computes no others.

        Parameters
        ----------
        token_ids : as for ``encode``
        positions : int64 [M], rising: places in the flattened ``token_ids``, none of them PAD

        Returns
        -------
        float [M, D]
        """
        x, context = self._embed(token_ids)
        *first, last = self.blocks
        for block in first:
            x = block(x, context)
        grid, wanted = context.grid, narrow_grid(positions, *token_ids.shape)
        is_visible = context.is_visible
        if self.is_causal and is_visible is not None:
            is_visible = _seen_from(positions, wanted, is_visible)
        return self.final_norm(last(x, Context(grid, is_visible, grid.rows_at(positions), wanted)))

    def _embed(self, token_ids: Tensor) -> tuple[Tensor, Context]:
        if token_ids.shape[1] > self.max_length:
            raise ValueError(f"a batch of width {token_ids.shape[1]} exceeds the model's max_length {self.max_length}")
        is_token = token_ids != PAD  # [B, L]
        grid = grid_of_tokens(is_token)
        is_visible = (_tokens_before if self.is_causal else _tokens_of_row)(is_token)
        tokens = token_ids.flatten() if grid.places is None else token_ids.flatten()[grid.places]  # [N]
        x = self.embedding(self.item_table.vectors(tokens), grid)
        sees_all = grid.is_full and not self.is_causal
        return x, Context(grid, None if sees_all else is_visible, rows=None, wanted=grid)

    def output_vectors(self, hidden: Tensor) -> Tensor:
        """Float [M, D] to compare with the item table, from token vectors [M, D] (the prediction head)."""
        return self.head(hidden)

    def logits(self, vectors: Tensor, candidates: Tensor) -> Tensor:
        """Float [M, K], the scores of token ids ``candidates`` (int64 [K]) for output vectors [M, D]."""
        return self.item_table.scores(vectors, candidates)

    def logits_between(self, vectors: Tensor, first: int, end: int) -> Tensor:
        """Float [M, end - first], the scores of the token ids ``first`` to ``end - 1`` for output vectors [M, D]."""
        return self.item_table.scores_between(vectors, first, end)

    def table_parameters(self) -> Iterator[Tensor]:
        """The parameters with a row per token; their gradients are sparse with ``sparse_table``."""
        return self.item_table.row_parameters()

    def dense_parameters(self) -> Iterator[Tensor]:
        """All parameters but ``table_parameters``."""
        tables = {id(parameter) for parameter in self.table_parameters()}
        return (parameter for parameter in self.parameters() if id(parameter) not in tables)

    def decaying_parameters(self) -> Iterator[Tensor]:
        """The dense parameters that weight decay is for: matrices, not tables, norms or biases."""
        return (module.weight for module in self.modules() if isinstance(module, nn.Linear))


def _tokens_of_row(is_token: Tensor) -> Tensor:
    """Bool [B, 1, 1, L] from bool [B, L]; a row without tokens sees its padding: a softmax of nothing is no number."""
    return (is_token | ~is_token.any(dim=1, keepdim=True))[:, None, None, :]


def _tokens_before(is_token: Tensor) -> Tensor:
    """Bool [B, 1, L, L] from bool [B, L]: each place sees the tokens before it, and itself."""
    itself = torch.eye(is_token.shape[1], dtype=torch.bool, device=is_token.device)
    return (is_token[:, None, :].expand(-1, is_token.shape[1], -1).tril() | itself)[:, None]


def _seen_from(positions: Tensor, wanted: Grid, is_visible: Tensor) -> Tensor:
    """The lines of ``is_visible`` (bool [B, 1, L, L]) of ``positions`` (int64 [M], flat), bool [B, 1, Q, L].

    A place of the grid wanted that is none of theirs sees all; what stands there is lost.
    """
    is_unseen = ~is_visible.flatten(0, 2).index_select(0, positions)  # [M, L]
    return ~wanted.spread(is_unseen)[:, None]


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Run without dropout and gradients; the model is then in the mode it was in before."""
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        model.train(was_training)
