"""Item tables: what a token's vector is, and how an output vector is compared with tokens.

One table serves the model's input and its output. ``FullTable`` has a row per token; the compact ones, for vocabularies
whose table would not fit, make a token's vector of a few rows that it shares with others.

Legend of shapes: V tokens, D hidden, M output vectors, K candidates, R rows of a hashed table, S splits.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from schemas.tokens import FIRST_ITEM, PAD

INIT_STD = 0.02
"""Spread of initial tables and weights (Devlin et al. 2019, ``initializer_range`` of google-research/bert).

A tied table of spread 1 starts with logits of spread sqrt(D) and a loss several times that of a uniform guess.
"""
N_CODES = 256
"""Vectors that a product table's items choose from in each split (Petrov and Macdonald 2023): a code is one byte."""
HASH_FACTORS = (-7046029254386353131, -4417276706812531889)
"""Odd numbers whose products with a token id spread over 64 bits (2^64 / golden ratio, and xxHash's second prime)."""
CODES_SEED = 2312_06165
"""Of the codes of every product table; any number would do, this is RecJPQ's on arXiv."""


class Window(NamedTuple):
    """What stands for a table while a step computes (``ml.training.row_window``).

    Attributes
    ----------
    ids : int64 [N], the rows of ``weight`` that the step uses, rising, row 0 first
    weight, bias : their values, [N, ...]
    """

    ids: Tensor
    weight: nn.Parameter
    bias: nn.Parameter | None


class ItemTable(nn.Module, ABC):
    """A vector for each token of a vocabulary; PAD's is zero and stays so.

    Attributes
    ----------
    is_sparse : whether ``row_parameters`` get sparse gradients, or the step's ``window`` those of the rows it uses
    """

    weight: nn.Parameter
    is_sparse = False
    window: Window | None = None

    @abstractmethod
    def vectors(self, token_ids: Tensor) -> Tensor:
        """Float [..., D], the vectors of ``token_ids`` (int64 [...])."""

    @abstractmethod
    def scores(self, vectors: Tensor, candidates: Tensor) -> Tensor:
        """Float [M, K], how well each token of ``candidates`` fits each of ``vectors`` (float [M, D]).

        Parameters
        ----------
        candidates : int64 [K]; or [M, K], where each vector has candidates of its own
        """

    def outputs(self, token_ids: Tensor) -> Tensor:
        """Float [..., D], what output vectors are compared with; ``vectors``, unless a table says otherwise."""
        return self.vectors(token_ids)

    def scores_between(self, vectors: Tensor, first: int, end: int) -> Tensor:
        """Float [M, end - first], the same of the tokens ``first`` to ``end - 1``."""
        return self.scores(vectors, torch.arange(first, end, device=vectors.device))

    def initialise(self) -> None:
        """Draw new values from torch's global generator."""
        nn.init.normal_(self.weight, std=INIT_STD)

    def row_parameters(self) -> Iterator[nn.Parameter]:
        """The parameters of which a step uses few rows; none but of tables that can be sparse."""
        return iter(())

    def rows(self, token_ids: Tensor) -> Tensor:
        """Int64, the rows of ``row_parameters`` that tokens (int64 [...]) are made of."""
        return token_ids

    def look_up(self, rows: Tensor, name: Literal["weight", "bias"] = "weight") -> Tensor:
        """Float [..., C], rows (int64 [...]) of one of ``row_parameters``; row 0 has no gradient."""
        if self.window is not None:
            return F.embedding(torch.searchsorted(self.window.ids, rows), getattr(self.window, name), padding_idx=0)
        return F.embedding(rows, getattr(self, name), padding_idx=0, sparse=self.is_sparse)


class FullTable(ItemTable):
    """A row per token, and an output bias per token (Sun et al. 2019, section 3.5).

    Parameters
    ----------
    is_sparse : give both sparse gradients, of the rows used only
    has_bias : False for a table without biases
    """

    def __init__(self, n_tokens: int, hidden_size: int, is_sparse: bool, has_bias: bool) -> None:
        super().__init__()
        self.is_sparse = is_sparse
        self.weight = nn.Parameter(torch.empty(n_tokens, hidden_size))
        # a column: it is looked up by rows as the vectors are, with sparse gradients too
        self.bias = nn.Parameter(torch.empty(n_tokens, 1)) if has_bias else None

    def initialise(self) -> None:
        """Draw new vectors; biases begin at zero."""
        super().initialise()
        if self.bias is not None:
            nn.init.zeros_(self.bias)
        with torch.no_grad():
            self.weight[PAD].zero_()

    def vectors(self, token_ids: Tensor) -> Tensor:
        """Float [..., D]."""
        return self.look_up(token_ids)

    def scores(self, vectors: Tensor, candidates: Tensor) -> Tensor:
        """Float [M, K]."""
        bias = None if self.bias is None else self.look_up(candidates, "bias").squeeze(-1)
        return products(vectors, self.vectors(candidates), bias)

    def scores_between(self, vectors: Tensor, first: int, end: int) -> Tensor:
        """Float [M, end - first]; no row is copied."""
        return F.linear(vectors, self.weight[first:end], None if self.bias is None else self.bias[first:end].squeeze(1))

    def row_parameters(self) -> Iterator[nn.Parameter]:
        """Vectors and biases: a row is a token."""
        yield self.weight
        if self.bias is not None:
            yield self.bias


class HashedTable(ItemTable):
    """The sum of two rows that two hashes of the token choose (Zhang et al. 2020, arXiv:2007.14523).

    Items share the rows from FIRST_ITEM on; each special token has a row of its own. Nothing is kept per token,
    so that an id beyond the vocabulary goes unnoticed here.

    Parameters
    ----------
    n_rows : R, more than FIRST_ITEM
    """

    def __init__(self, hidden_size: int, n_rows: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(n_rows, hidden_size))

    def initialise(self) -> None:
        """Draw new values, such that the sum of two rows is spread as one of a full table."""
        nn.init.normal_(self.weight, std=INIT_STD / len(HASH_FACTORS) ** 0.5)
        with torch.no_grad():
            self.weight[PAD].zero_()

    def vectors(self, token_ids: Tensor) -> Tensor:
        """Float [..., D]."""
        first, second = (F.embedding(rows, self.weight, padding_idx=PAD) for rows in self._rows(token_ids))
        return first + second

    def scores(self, vectors: Tensor, candidates: Tensor) -> Tensor:
        """Float [M, K]."""
        return products(vectors, self.vectors(candidates))

    def _rows(self, token_ids: Tensor) -> Iterator[Tensor]:
        n_shared = len(self.weight) - FIRST_ITEM
        for rows in hashed_rows(token_ids, n_shared):
            yield torch.where(token_ids < FIRST_ITEM, token_ids, FIRST_ITEM + rows)


class ProductTable(ItemTable):
    """Product-quantised vectors: each of S parts is one of 256 that all items share (RecJPQ, Petrov and Macdonald
    2023, arXiv:2312.06165, with random codes).

    A vector's score of an item is the sum of its S parts' scores, of which there are no more than S x 256: to rank V
    items costs V x S additions. Each special token has parts of its own.

    Parameters
    ----------
    n_splits : S, a divisor of ``hidden_size``

    Attributes
    ----------
    codes : uint8 [V, S], which part an item has in each split; drawn from a fixed seed and saved with the model
    """

    codes: Tensor

    def __init__(self, n_tokens: int, hidden_size: int, n_splits: int) -> None:
        super().__init__()
        self.n_splits = n_splits
        self.n_parts = FIRST_ITEM + N_CODES
        self.weight = nn.Parameter(torch.empty(n_splits * self.n_parts, hidden_size // n_splits))
        # numpy's generator, not torch's global one: the codes are the same whatever was drawn before
        codes = np.random.default_rng(CODES_SEED).integers(0, N_CODES, (n_tokens, n_splits), dtype=np.uint8)
        self.register_buffer("codes", torch.from_numpy(codes))

    def vectors(self, token_ids: Tensor) -> Tensor:
        """Float [..., D]."""
        vectors = F.embedding(self._parts(token_ids), self.weight).flatten(-2)  # [..., S, D/S] -> [..., D]
        return vectors.masked_fill((token_ids == PAD).unsqueeze(-1), 0.0)

    def scores(self, vectors: Tensor, candidates: Tensor) -> Tensor:
        """Float [M, K]."""
        if candidates.ndim == 2:
            return products(vectors, self.vectors(candidates))
        parts = self.weight.unflatten(0, (self.n_splits, self.n_parts))  # [S, 259, D/S]
        # each part is scored once, then an item's parts are added up: no tensor [M, K, S] is made
        part_scores = parts @ vectors.unflatten(1, (self.n_splits, -1)).permute(1, 2, 0)  # [S, 259, M]
        return F.embedding_bag(self._parts(candidates), part_scores.flatten(0, 1), mode="sum").T  # [K, M] -> [M, K]

    def _parts(self, token_ids: Tensor) -> Tensor:
        """Int64 [..., S], the rows of ``weight`` that make up a token's vector."""
        tokens = token_ids.unsqueeze(-1)
        codes = torch.where(tokens < FIRST_ITEM, tokens, FIRST_ITEM + F.embedding(token_ids, self.codes).long())
        return codes + torch.arange(self.n_splits, device=codes.device) * self.n_parts


def hashed_rows(ids: Tensor, n_rows: int) -> Iterator[Tensor]:
    """Two rows, 0 to ``n_rows`` - 1, for each id (int64 [...]), one by each of ``HASH_FACTORS``."""
    for factor in HASH_FACTORS:
        # the product overflows on purpose; its high bits depend on all bits of the id, and the mask drops their sign
        yield ((ids * factor >> 32) & 0x7FFFFFFF) % n_rows


def products(vectors: Tensor, items: Tensor, bias: Tensor | None = None) -> Tensor:
    """Float [M, K] of vectors float [M, D] with items float [K, D], or each with its own, [M, K, D]; biases added."""
    if items.ndim == 2:
        return F.linear(vectors, items, bias)
    products = (items @ vectors.unsqueeze(-1)).squeeze(-1)
    return products if bias is None else products + bias
