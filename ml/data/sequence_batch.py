"""Sequences in batches and in memory, and the feeds that a training loop reads; needs numpy only."""

from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from schemas.tokens import FIRST_ITEM, PAD

if TYPE_CHECKING:
    import torch

SECONDS_PER_HOUR, SECONDS_PER_DAY = 3_600, 86_400
"""Of ``SequenceBatch.timestamps``."""
Tokens = NDArray[np.int32]
"""Token ids, flat or [B, L] and left-padded with PAD."""
Column = TypeVar("Column")
Other = TypeVar("Other")


# eq=False: arrays are compared element by element, which gives no single answer
@dataclass(frozen=True, eq=False)
class SequenceBatch(Generic[Column]):
    """Sequences of clients as aligned columns, integers [B, L] each.

    Each row is one client and ends in the last position, or, where there are ``segments``, several clients share it,
    one after the other. Columns are numpy arrays where a feed makes them and int64 tensors from there on. All but
    ``token_ids`` are None where nobody asked for them.

    Attributes
    ----------
    token_ids : PAD where there is none
    event_types : which behaviour each event is of, 0 at PAD
    timestamps : seconds, 0 at PAD
    segments : the number of the sequence that a position belongs to, rising from 1 over the rows of the batch or
        without an order, each number once, 0 at PAD; None where each row is one client
    """

    token_ids: Column
    event_types: Column | None = None
    timestamps: Column | None = None
    segments: Column | None = None

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Any) -> "SequenceBatch[Column]":
        return self.map(lambda column: column[rows])  # type: ignore[index]

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and positions, (B, L)."""
        return self.token_ids.shape  # type: ignore[attr-defined]

    @property
    def n_tokens(self) -> int:
        """Positions that are not PAD."""
        return int((self.token_ids != PAD).sum())  # type: ignore[attr-defined]

    @property
    def lengths(self) -> NDArray[np.integer]:
        """Tokens of each sequence, [N]; of a batch of numpy arrays."""
        if self.segments is None:
            return (self.token_ids != PAD).sum(axis=1)  # type: ignore[attr-defined]
        # number 0 is PAD's
        return np.bincount(np.ravel(self.segments))[1:]  # type: ignore[call-overload]

    def map(self, function: Callable[[Column], Other]) -> "SequenceBatch[Other]":
        """The batch with a function applied to each column that is there."""
        columns = [getattr(self, field.name) for field in fields(self)]
        return SequenceBatch(*(None if column is None else function(column) for column in columns))  # type: ignore[arg-type]

    def pinned(self) -> "SequenceBatch[NDArray[Any]]":
        """A batch of arrays in memory that a GPU copies from by itself, for a thread ahead of ``tensors``' caller."""
        import torch  # here, because feeds do without

        # torch knows by its address which memory is pinned, and until when a copy from it may last
        return self.map(lambda column: torch.as_tensor(column).pin_memory().numpy())

    def tensors(self, device: "torch.device | str" = "cpu") -> "SequenceBatch[torch.Tensor]":
        """The batch as int64 tensors; to a GPU from pinned memory, so that nobody waits for the copy."""
        import torch

        target = torch.device(device)
        # converted there: int64 would be twice the bytes to copy, or more
        return self.map(lambda column: moved_to(torch.as_tensor(column), target).to(torch.int64))


def moved_to(tensor: "torch.Tensor", device: "torch.device") -> "torch.Tensor":
    """The same on ``device``; from the CPU to a GPU by pinned memory, so that nobody waits for the copy."""
    if device.type != "cuda" or tensor.is_cuda:
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)  # what is pinned stays as it is


def concatenate(
    batches: "Sequence[SequenceBatch[Column]]", join: Callable[[list[Any]], Any] = np.concatenate
) -> "SequenceBatch[Column]":
    """The rows of batches of one width and the same columns, one batch after the other.

    Parameters
    ----------
    join : of columns; ``torch.cat`` where they are tensors
    """
    columns = [[getattr(batch, field.name) for batch in batches] for field in fields(SequenceBatch)]
    return SequenceBatch(*(None if parts[0] is None else join(parts) for parts in columns))


def required_column(batch: "SequenceBatch[Column]", name: str) -> Column:
    """A column that an encoder or an objective cannot do without; ValueError where a batch has none."""
    column: Column | None = getattr(batch, name)
    if column is None:
        raise ValueError(f"expected batches with {name}, found none: the feed must read them (event_columns)")
    return column


Batches = Generator[SequenceBatch[Tokens], None, None]


class Feed(Protocol):
    """The batches of one rank; those of training are drawn from (seed, epoch) alone.

    Both kinds leave out rows with nothing to predict (``Sequences.is_learnable``). A batch's arrays are the caller's
    own, who may write to them. Closing a generator ends the threads behind it; errors are raised by ``next``.
    """

    @property
    def n_batches(self) -> int:
        """Batches of one epoch, the same number on every rank and in every epoch."""

    @property
    def length_counts(self) -> NDArray[np.float64]:
        """How many training sequences of each length a rank has in an epoch, [longest + 1]; the same on every rank.

        Of the rank with the most; where a feed does not know all lengths, about.
        """

    def training(self, epoch: int, skip: int = 0) -> Batches:
        """The batches of an epoch, but for the first ``skip``.

        Each row comes to one of the ranks; where ranks have unequal shares, the smaller repeat some of theirs.
        """

    def validation(self) -> Batches:
        """Each row of the held-out clients once over all ranks; ranks may have unequal numbers."""


@dataclass(frozen=True)
class Sequences:
    """Ragged rows: row i is ``tokens[offsets[i]:offsets[i + 1]]``, oldest token first.

    Attributes
    ----------
    tokens : int32 [T]
    offsets : integers [N + 1], rising
    event_types : int8 [T], which behaviour each event is of, from 1; None where nobody asked for it
    timestamps : int64 [T], seconds since 1970; None likewise

    Examples
    --------
    >>> rows = Sequences.from_rows([[5], [3, 4, 6]])
    >>> rows.padded(np.array([1, 0]), width=2)
    array([[4, 6],
           [0, 5]], dtype=int32)
    """

    tokens: Tokens
    offsets: NDArray[np.integer]
    event_types: NDArray[np.int8] | None = None
    timestamps: NDArray[np.int64] | None = None

    @classmethod
    def from_rows(cls, rows: Iterable[ArrayLike]) -> "Sequences":
        """The sequences as given one by one."""
        arrays = [np.asarray(row, dtype=np.int32) for row in rows]
        offsets = np.cumsum([0, *map(len, arrays)], dtype=np.int64)
        return cls(np.concatenate([np.empty(0, np.int32), *arrays]), offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, rows: slice) -> "Sequences":
        """Some rows that follow each other; their values are not copied."""
        start, stop, step = rows.indices(len(self))
        if step != 1:
            raise ValueError(
                f"expected rows that follow each other, found a step of {step}; take padded rows by number"
            )
        # max: an empty slice may stop before it starts; no rows have one offset all the same
        return replace(self, offsets=self.offsets[start : max(start, stop) + 1])

    @classmethod
    def of_padded(cls, batch: "SequenceBatch[NDArray[Any]]") -> "Sequences":
        """The rows of a left-padded batch."""
        is_token = batch.token_ids != PAD
        flat = batch.map(lambda column: column[is_token])
        offsets = np.append(0, is_token.sum(axis=1).cumsum())
        return cls(flat.token_ids, offsets, flat.event_types, flat.timestamps)

    @classmethod
    def concatenate(cls, parts: "Sequence[Sequences]") -> "Sequences":
        """The rows of parts that have the same columns, one part after the other; offsets from 0."""
        flat = [part.flat() for part in parts]
        columns = [
            None if getattr(flat[0], name) is None else np.concatenate([getattr(part, name) for part in flat])
            for name in ("token_ids", "event_types", "timestamps")
        ]
        lengths = np.concatenate([part.lengths for part in parts])
        return cls(columns[0], np.append(0, lengths.cumsum()), *columns[1:])  # type: ignore[arg-type]

    @property
    def _columns(self) -> "SequenceBatch[NDArray[Any]]":
        return SequenceBatch(self.tokens, self.event_types, self.timestamps)

    @property
    def lengths(self) -> NDArray[np.integer]:
        """Tokens of each row, [N]."""
        return np.diff(self.offsets)

    @property
    def n_tokens(self) -> int:
        """Of all rows."""
        return int(self.offsets[-1] - self.offsets[0])

    @property
    def is_learnable(self) -> NDArray[np.bool_]:
        """Whether a row has an item to predict and another token to predict it from, [N]."""
        # by differences of running counts: reduceat gives a wrong count for empty rows
        n_items = np.cumsum(self.tokens >= FIRST_ITEM)
        items_until = np.concatenate([[0], n_items])[self.offsets]
        return (self.lengths > 1) & (np.diff(items_until) > 0)

    def cut(self, width: int) -> "Sequences":
        """The rows in consecutive pieces of ``width`` tokens, the first of each row as long as what is left."""
        n_pieces = -(-self.lengths // width)
        last = np.cumsum(n_pieces)
        # counted from the end of its row: the last piece is the last ``width`` tokens
        pieces_after = np.repeat(last, n_pieces) - np.arange(1, n_pieces.sum() + 1)
        ends = np.repeat(self.offsets[1:], n_pieces) - pieces_after * width
        return replace(self, offsets=np.append(self.offsets[:1], ends))

    def flat(self) -> "SequenceBatch[NDArray[Any]]":
        """The events of all rows, one row after the other, as columns [T]."""
        return self._columns.map(lambda column: column[self.offsets[0] : self.offsets[-1]])

    def take(self, rows: NDArray[np.integer]) -> "Sequences":
        """Some rows (integers [n]), copied."""
        return self._copied(self.offsets[rows], self.lengths[rows])

    def last(self, width: int) -> "Sequences":
        """The last ``width`` events of each row; copied where any has more."""
        kept = np.minimum(self.lengths, width)
        return self if self.lengths.max(initial=0) <= width else self._copied(self.offsets[1:] - kept, kept)

    def _copied(self, starts: NDArray[np.integer], lengths: NDArray[np.integer]) -> "Sequences":
        events = flat_positions(starts, lengths)
        copied = self._columns.map(lambda column: column[events])
        return Sequences(copied.token_ids, np.append(0, lengths.cumsum()), copied.event_types, copied.timestamps)

    def padded(self, rows: NDArray[np.integer], width: int) -> Tokens:
        """The token ids of ``batch``, int32 [B, width]."""
        return self.batch(rows, width).token_ids

    def batch(self, rows: NDArray[np.integer], width: int) -> "SequenceBatch[NDArray[Any]]":
        """Some rows (integers [B]; none empty), columns [B, width], each row ending in the last column.

        Of a longer row the last ``width`` events.
        """
        positions = self.offsets[rows + 1][:, None] + np.arange(-width, 0)
        is_before_row = positions < self.offsets[rows][:, None]
        positions[is_before_row] = self.offsets[0]  # any that exists: PAD replaces what is read there

        def pad(column: NDArray[Any]) -> NDArray[Any]:
            padded = column[positions]
            padded[is_before_row] = PAD
            return padded

        return self._columns.map(pad)


def flat_positions(starts: NDArray[np.integer], lengths: NDArray[np.integer]) -> NDArray[np.int64]:
    """The numbers from each start on, as many as its length says, one after the other, int64 [sum of ``lengths``]."""
    return np.repeat(starts - (np.cumsum(lengths) - lengths), lengths) + np.arange(int(lengths.sum()))
