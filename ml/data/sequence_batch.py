"""What a training loop reads: a feed of batches; and sequences in memory, as one flat array. Needs numpy only."""

from collections.abc import Generator, Iterable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from schemas.tokens import FIRST_ITEM, PAD

Tokens = NDArray[np.int32]
"""Token ids, flat or as a batch [B, width], left-padded with PAD."""


class Feed(Protocol):
    """The batches of one rank; those of training are drawn from (seed, epoch) alone.

    Both kinds leave out rows with nothing to predict (``Sequences.is_learnable``). A batch is an array of the
    caller's own, who may write to it. Closing a generator ends the threads behind it; errors are raised by ``next``.
    """

    @property
    def n_batches(self) -> int:
        """Batches of one epoch, the same number on every rank and in every epoch."""

    def training(self, epoch: int, skip: int = 0) -> Generator[Tokens, None, None]:
        """The batches of an epoch, int32 [B, width], but for the first ``skip``.

        Each row comes to one of the ranks; where ranks have unequal shares, the smaller repeat some of theirs.
        """

    def validation(self) -> Generator[Tokens, None, None]:
        """Each row of the held-out clients once over all ranks, int32 [B, width]; ranks may have unequal numbers."""


@dataclass(frozen=True)
class Sequences:
    """Ragged rows: row i is ``tokens[offsets[i]:offsets[i + 1]]``, oldest token first.

    Attributes
    ----------
    tokens : int32 [T]
    offsets : integers [N + 1], rising

    Examples
    --------
    >>> rows = Sequences.from_rows([[5], [3, 4, 6]])
    >>> rows.padded(np.array([1, 0]), width=2)
    array([[4, 6],
           [0, 5]], dtype=int32)
    """

    tokens: Tokens
    offsets: NDArray[np.integer]

    @classmethod
    def from_rows(cls, rows: Iterable[ArrayLike]) -> "Sequences":
        """The sequences as given one by one."""
        arrays = [np.asarray(row, dtype=np.int32) for row in rows]
        offsets = np.cumsum([0, *map(len, arrays)], dtype=np.int64)
        return cls(np.concatenate([np.empty(0, np.int32), *arrays]), offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> NDArray[np.integer]:
        """Tokens of each row, [N]."""
        return np.diff(self.offsets)

    @property
    def is_learnable(self) -> NDArray[np.bool_]:
        """Whether a row has an item to predict and another token to predict it from, [N]."""
        n_items = np.cumsum(self.tokens >= FIRST_ITEM)
        items_until = np.concatenate([[0], n_items])[self.offsets]
        return (self.lengths > 1) & (np.diff(items_until) > 0)

    def padded(self, rows: NDArray[np.integer], width: int) -> Tokens:
        """Some rows (integers [B]; none empty) as int32 [B, width], each ending in the last column.

        Of a longer row the last ``width`` tokens.
        """
        places = self.offsets[rows + 1][:, None] + np.arange(-width, 0)
        is_before_row = places < self.offsets[rows][:, None]
        places[is_before_row] = self.offsets[0]
        padded = self.tokens[places]
        padded[is_before_row] = PAD
        return padded
