"""BERT4Rec: a bidirectional transformer over a client's items (Sun et al. 2019, arXiv:1904.06690).

Legend of shapes: B batch, L sequence, D hidden, H heads, V vocabulary (special tokens included),
M hidden positions of a batch, K candidate items.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from conf.settings import ModelSettings
from schemas.tokens import PAD

INIT_STD = 0.02
"""Spread of initial tables and weights (Devlin et al. 2019, ``initializer_range`` of google-research/bert).

A tied table of spread 1 starts with logits of spread sqrt(D) and a loss several times that of a uniform guess.
"""


class SequenceEmbedding(nn.Module):
    """Item vector plus position vector, normalised and projected; position 0 is the most recent token."""

    def __init__(self, settings: ModelSettings, max_length: int) -> None:
        super().__init__()
        self.position_table = nn.Embedding(max_length, settings.hidden_size)
        self.norm = nn.LayerNorm(settings.hidden_size)
        self.dropout = nn.Dropout(settings.embedding_dropout)
        self.projection = nn.Linear(settings.hidden_size, settings.hidden_size)

    def forward(self, items: Tensor) -> Tensor:
        """Float [B, L, D] from the item vectors float [B, L, D]."""
        positions = self.position_table.weight[: items.shape[1]].flip(0)  # [L, D]
        return self.projection(self.dropout(self.norm(items + positions)))


class SelfAttention(nn.Module):
    """Multi-head attention of every position to every visible one (Vaswani et al. 2017, section 3.2)."""

    def __init__(self, settings: ModelSettings) -> None:
        super().__init__()
        self.n_heads = settings.n_heads
        self.dropout_prob = settings.encoder_dropout
        self.query_key_value = nn.Linear(settings.hidden_size, 3 * settings.hidden_size)
        self.output = nn.Linear(settings.hidden_size, settings.hidden_size)

    def forward(self, x: Tensor, is_visible: Tensor) -> Tensor:
        """Float [B, L, D]; no position attends to one where ``is_visible`` (bool [B, 1, 1, L]) is false."""
        mixed = self.query_key_value(x).unflatten(-1, (3, self.n_heads, -1))  # [B, L, 3, H, D/H]
        query, key, value = mixed.permute(2, 0, 3, 1, 4)  # each [B, H, L, D/H]
        dropout_prob = self.dropout_prob if self.training else 0.0
        heads = F.scaled_dot_product_attention(query, key, value, attn_mask=is_visible, dropout_p=dropout_prob)
        return self.output(heads.transpose(1, 2).flatten(-2))  # [B, L, D]


class Block(nn.Module):
    """Attention, then a GELU feed-forward; each is added to its input and normalised (post-norm)."""

    def __init__(self, settings: ModelSettings) -> None:
        super().__init__()
        self.attention = SelfAttention(settings)
        self.attention_norm = nn.LayerNorm(settings.hidden_size)
        self.feed_forward = nn.Sequential(
            nn.Linear(settings.hidden_size, settings.feed_forward_size),
            nn.GELU(),
            nn.Linear(settings.feed_forward_size, settings.hidden_size),
        )
        self.feed_forward_norm = nn.LayerNorm(settings.hidden_size)
        self.dropout = nn.Dropout(settings.encoder_dropout)

    def forward(self, x: Tensor, is_visible: Tensor) -> Tensor:
        """Float [B, L, D], as ``x``; ``is_visible`` is bool [B, 1, 1, L]."""
        x = self.attention_norm(x + self.dropout(self.attention(x, is_visible)))
        return self.feed_forward_norm(x + self.dropout(self.feed_forward(x)))


class Bert4Rec(nn.Module):
    """The model of one behaviour; one table serves its input and its output (Sun et al. 2019, section 3.5).

    Parameters
    ----------
    settings : the shape
    n_tokens : V, FIRST_ITEM plus the number of items
    max_length : the longest sequence it can read
    sparse_table : give the item table and the output bias sparse gradients, of the rows used only
    """

    def __init__(self, settings: ModelSettings, n_tokens: int, max_length: int, sparse_table: bool = False) -> None:
        super().__init__()
        hidden_size = settings.hidden_size
        self.n_tokens = n_tokens
        self.max_length = max_length
        self.item_table = nn.Embedding(n_tokens, hidden_size, padding_idx=PAD, sparse=sparse_table)
        self.embedding = SequenceEmbedding(settings, max_length)
        self.blocks = nn.ModuleList(Block(settings) for _ in range(settings.n_layers))
        self.head = nn.Sequential(nn.Linear(hidden_size, hidden_size), nn.GELU(), nn.LayerNorm(hidden_size))
        self.output_bias = nn.Embedding(n_tokens, 1, sparse=sparse_table)
        self._initialise()

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=INIT_STD)
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)
        nn.init.zeros_(self.output_bias.weight)
        with torch.no_grad():
            self.item_table.weight[PAD].zero_()

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
        if token_ids.shape[1] > self.max_length:
            raise ValueError(f"a batch of width {token_ids.shape[1]} exceeds the model's max_length {self.max_length}")
        is_token = token_ids != PAD  # [B, L]
        # Not every attention kernel defines a softmax over nothing: a row without tokens sees its padding instead.
        is_visible = is_token | ~is_token.any(dim=1, keepdim=True)
        x = self.embedding(self.item_table(token_ids))  # [B, L, D]
        for block in self.blocks:
            x = block(x, is_visible[:, None, None, :])
        return x

    def output_vectors(self, hidden: Tensor) -> Tensor:
        """Float [M, D] to compare with the item table, from token vectors [M, D] (the prediction head)."""
        return self.head(hidden)

    def logits(self, vectors: Tensor, candidates: Tensor) -> Tensor:
        """Float [M, K], the scores of token ids ``candidates`` (int64 [K]) for output vectors [M, D]."""
        return vectors @ self.item_table(candidates).T + self.output_bias(candidates).T

    def table_parameters(self) -> Iterator[Tensor]:
        """The parameters with a row per token; their gradients are sparse with ``sparse_table``."""
        yield self.item_table.weight
        yield self.output_bias.weight

    def dense_parameters(self) -> Iterator[Tensor]:
        """All parameters but the tables'."""
        tables = {id(parameter) for parameter in self.table_parameters()}
        return (parameter for parameter in self.parameters() if id(parameter) not in tables)

    def decaying_parameters(self) -> Iterator[Tensor]:
        """The dense parameters that weight decay is for: matrices, not tables, norms or biases."""
        return (module.weight for module in self.modules() if isinstance(module, nn.Linear))


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
