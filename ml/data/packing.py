"""Short sequences side by side in rows of one width, so that a batch has a constant shape and hardly any padding.

Legend of shapes: N sequences, T their tokens, R rows of a packed batch, W their width.
"""

from bisect import bisect_left, insort
from collections.abc import Iterator
from contextlib import closing
from dataclasses import fields
from math import ceil

import numpy as np
from numpy.typing import NDArray

from ml.data.batching import read_ahead
from ml.data.sequence_batch import Batches, Feed, SequenceBatch, Tokens
from schemas.tokens import PAD

ROW_WIDTH = 128
"""Positions of a packed row, unless sequences may be longer: what a GPU's attention kernels work on at a time."""
PIECES = 16
"""Batches of the feed below that make about one packed batch, so that lengths of many widths meet in it."""
FILL = 0.995
"""Share of a batch's positions that sequences are taken for; best fit nearly always finds a row for each of them."""


class PackedFeed:
    """A feed (``ml.data.sequence_batch.Feed``) whose training batches are packed, of one constant shape [R, W].

    Sequences come in the order of the feed below; one for which a batch has no room left is in the next. Ranks may
    have unequal numbers of batches: one that has none left takes empty steps (``Learner.step``).

    Parameters
    ----------
    feed : gives batches of about 1 / ``PIECES`` of ``tokens_per_batch`` positions
    width : W, as wide as the longest sequence or wider
    tokens_per_batch : R x W, rounded to whole rows
    batches_ahead : made by a thread while the step computes

    Attributes
    ----------
    n_batches : about; how many there are is known only once all lengths are
    """

    def __init__(self, feed: Feed, width: int, tokens_per_batch: int, batches_ahead: int = 4) -> None:
        self._feed, self._batches_ahead = feed, batches_ahead
        self._width, self._n_rows = width, max(1, round(tokens_per_batch / width))
        # a row of the feed below fills more than half of its width, three quarters on average
        self.n_batches = max(1, ceil(0.75 * feed.n_batches / PIECES))

    def training(self, epoch: int, skip: int = 0) -> Batches:
        """The batches of an epoch, int32 [R, W], but for the first ``skip``, which are packed and dropped."""
        return read_ahead(self._epoch(epoch, skip), self._batches_ahead)

    def validation(self) -> Batches:
        """Those of the feed below: each row is one client."""
        return self._feed.validation()

    def _epoch(self, epoch: int, skip: int) -> Batches:
        with closing(self._feed.training(epoch)) as batches:
            # which sequences a batch holds follows from all before it: none can be passed over unpacked
            packed = pack_batches(batches, self._n_rows, self._width)
            yield from (batch for number, batch in enumerate(packed) if number >= skip)


def pack_batches(batches: Iterator[SequenceBatch[Tokens]], n_rows: int, width: int) -> Iterator[SequenceBatch[Tokens]]:
    """The sequences of left-padded batches in packed ones of ``n_rows`` x ``width``; the last is as full as may be."""
    capacity = int(FILL * n_rows * width)
    waiting: Flat | None = None
    for batch in batches:
        waiting = Flat.of(batch) if waiting is None else waiting.followed_by(Flat.of(batch))
        while waiting.n_tokens >= capacity:
            packed, waiting, _ = waiting.pack(capacity, n_rows, width)
            yield packed
    while waiting is not None and len(waiting.lengths):
        packed, waiting, _ = waiting.pack(capacity, n_rows, width)
        yield packed


def pack_rows(
    batch: SequenceBatch[Tokens], n_positions: int
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64], SequenceBatch[Tokens]]]:
    """The rows of a left-padded batch, each with a token or more, in packed batches of about ``n_positions``.

    Yields
    ------
    int64 [n], the numbers of the rows that are in a packed batch, in the order of their segments; int64 [n], where each
    ends in it, flat; the packed batch
    """
    width = max(ROW_WIDTH, batch.shape[1])
    n_rows = max(1, n_positions // width)
    waiting, numbers = Flat.of(batch), np.arange(len(batch))
    while len(numbers):
        lengths = waiting.lengths
        packed, waiting, starts = waiting.pack(int(FILL * n_rows * width), n_rows, width)
        is_placed = starts >= 0
        yield numbers[is_placed], (starts + lengths - 1)[is_placed], packed
        numbers = numbers[~is_placed]


class Flat:
    """Sequences one after the other.

    Parameters
    ----------
    columns : of a ``SequenceBatch`` by name, [T] each
    lengths : integers [N]
    """

    def __init__(self, columns: dict[str, NDArray[np.integer]], lengths: NDArray[np.integer]) -> None:
        self.columns, self.lengths, self.n_tokens = columns, lengths, int(lengths.sum())

    @classmethod
    def of(cls, batch: SequenceBatch[Tokens]) -> "Flat":
        """The sequences of a left-padded batch."""
        is_token = batch.token_ids != PAD
        named = {field.name: getattr(batch, field.name) for field in fields(batch)}
        columns = {name: column[is_token] for name, column in named.items() if column is not None}
        return cls(columns, is_token.sum(axis=1))

    def followed_by(self, other: "Flat") -> "Flat":
        """These sequences and then others."""
        columns = {name: np.concatenate([column, other.columns[name]]) for name, column in self.columns.items()}
        return Flat(columns, np.concatenate([self.lengths, other.lengths]))

    def pack(self, capacity: int, n_rows: int, width: int) -> tuple[SequenceBatch[Tokens], "Flat", NDArray[np.int64]]:
        """A packed batch of the first sequences, at most ``capacity`` tokens.

        Returns
        -------
        The batch; what is left over; int64 [N], where each sequence starts in the batch, -1 where it is left over
        """
        # one at least, so that callers who ask until nothing is left come to an end
        n_first = max(1, int(np.searchsorted(np.cumsum(self.lengths), capacity, side="right")))
        starts = np.full(len(self.lengths), -1, np.int64)
        starts[:n_first] = place(self.lengths[:n_first], n_rows, width)
        is_placed = starts >= 0
        is_packed = np.repeat(is_placed, self.lengths)  # [T]
        rest = Flat({name: column[~is_packed] for name, column in self.columns.items()}, self.lengths[~is_placed])
        lengths = self.lengths[is_placed]
        numbers = np.repeat(np.arange(1, len(lengths) + 1, dtype=np.int32), lengths)
        positions = _positions(starts[is_placed], lengths)
        columns = {name: column[is_packed] for name, column in self.columns.items()} | {"segments": numbers}
        grids = {}
        for name, column in columns.items():
            grids[name] = np.zeros(n_rows * width, column.dtype)
            grids[name][positions] = column
        return SequenceBatch(**{name: grid.reshape(n_rows, width) for name, grid in grids.items()}), rest, starts


def place(lengths: NDArray[np.integer], n_rows: int, width: int) -> NDArray[np.int64]:
    """Where sequences start in ``n_rows`` rows of ``width``, by best fit, the longest first (Johnson 1973).

    Parameters
    ----------
    lengths : integers [N], 1 to ``width`` each

    Returns
    -------
    int64 [N], the first position of each sequence in the flattened rows, -1 where no row has room left; no two
    sequences overlap, and none goes over the end of a row

    Examples
    --------
    >>> place(np.array([2, 5, 3, 4]), n_rows=2, width=6)
    array([10,  0, -1,  6])
    """
    starts = np.full(len(lengths), -1, np.int64)
    rows_by_room = {width: np.arange(n_rows)}
    rooms = [width]  # keys of rows_by_room, rising
    order = np.argsort(-lengths, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(lengths[order])) + 1, len(order))
    # sequences of one length are placed together: a step of Python for each kind of row, not for each sequence
    for waiting in np.split(order, ends[:-1]) if len(order) else []:
        length = int(lengths[waiting[0]])
        while len(waiting) and (at := bisect_left(rooms, length)) < len(rooms):
            room = rooms[at]
            rows = rows_by_room.pop(room)
            del rooms[at]
            n = min(len(rows), len(waiting))
            starts[waiting[:n]] = rows[:n] * width + width - room
            waiting = waiting[n:]
            # rows that were not needed keep their room, the others have less from now on
            for left, of_it in ((room, rows[n:]), (room - length, rows[:n])):
                if left and len(of_it):
                    if left not in rows_by_room:
                        insort(rooms, left)
                    rows_by_room[left] = np.concatenate([rows_by_room.get(left, of_it[:0]), of_it])
    return starts


def _positions(starts: NDArray[np.int64], lengths: NDArray[np.integer]) -> NDArray[np.int64]:
    """The positions of each sequence's tokens, int64 [T]."""
    return np.repeat(starts - (np.cumsum(lengths) - lengths), lengths) + np.arange(int(lengths.sum()))
