"""Short sequences side by side in rows of one width, so that a batch has a constant shape and hardly any padding.

Legend of shapes: N sequences, T their tokens, R rows of a packed batch, W their width.
"""

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import replace
from itertools import islice, pairwise
from math import ceil
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ml.data.batching import read_ahead
from ml.data.sequence_batch import Batches, Feed, SequenceBatch, Sequences, Tokens, flat_positions
from schemas.tokens import PAD

ROW_WIDTH = 128
"""Positions of a packed row, unless sequences may be longer: what a GPU's attention kernels work on at a time."""
WINDOW = 65_536
"""Positions packed at a time, a batch or several: the more there are, the less a token costs (docs/benchmarks.md)."""
PIECES = 16
"""Batches of the feed below that make about one packed batch, so that lengths of many widths meet in it."""
BATCHES_AHEAD = 16
"""Made by a thread while the step computes; they come by windows, of 16 batches of 4,096 positions."""
FILL = 0.995
"""Share of a batch's positions that sequences are taken for; best fit nearly always finds a row for each of them."""


class Packed(NamedTuple):
    """One batch of packed rows.

    Attributes
    ----------
    numbers : int64 [n], which sequences it holds, counted as they came, in the order of their segments
    ends : int64 [n], where each ends in it, flat
    """

    numbers: NDArray[np.int64]
    ends: NDArray[np.int64]
    batch: SequenceBatch[Tokens]


class PackedFeed:
    """A feed (``ml.data.sequence_batch.Feed``) whose training batches are packed, of one constant shape [R, W].

    Sequences come in the order of the feed below, but for those of a window, which mix. Ranks may have unequal numbers
    of batches: one that has none left takes empty steps (``Learner.step``).

    Parameters
    ----------
    feed : gives batches of about 1 / ``PIECES`` of ``tokens_per_batch`` positions
    width : W, as wide as the longest sequence or wider
    tokens_per_batch : R x W, rounded to whole rows
    is_pinned : whether the thread puts them into memory that a GPU copies from by itself

    Attributes
    ----------
    n_batches : of the rank with the most, to a few percent (``count_batches``), the same number on every rank
    """

    def __init__(self, feed: Feed, width: int, tokens_per_batch: int, is_pinned: bool = False) -> None:
        self._feed, self._is_pinned = feed, is_pinned
        self._width, self._n_rows = width, max(1, round(tokens_per_batch / width))
        self.length_counts = feed.length_counts
        self.n_batches = count_batches(self.length_counts, self._n_rows, width)

    def training(self, epoch: int, skip: int = 0) -> Batches:
        """The batches of an epoch, int32 [R, W], but for the first ``skip``, which are packed and dropped."""
        return read_ahead(self._epoch(epoch, skip), BATCHES_AHEAD)

    def validation(self) -> Batches:
        """Those of the feed below: each row is one client."""
        return self._feed.validation()

    def _epoch(self, epoch: int, skip: int) -> Batches:
        with closing(self._feed.training(epoch)) as batches:
            # which sequences a batch holds follows from all before it: none can be passed over unpacked
            packed = pack_batches(batches, self._n_rows, self._width)
            for batch in islice(packed, skip, None):
                yield batch.pinned() if self._is_pinned else batch


def count_batches(length_counts: NDArray[np.float64], n_rows: int, width: int) -> int:
    """How many packed batches sequences of such lengths make, by packing some of them.

    Parameters
    ----------
    length_counts : float64 [longest + 1], sequences of each length
    """
    n_sequences, n_tokens = length_counts.sum(), length_counts @ np.arange(len(length_counts))
    # 16 windows, or 32 batches: a sample of constant cost, however many sequences there are
    n_drawn = ceil(n_sequences * min(1.0, max(16 * WINDOW, 32 * n_rows * width) / n_tokens))
    # as evenly as the counts themselves, so that chance has no part in it but the order
    drawn = np.searchsorted(length_counts.cumsum(), (np.arange(n_drawn) + 0.5) * n_sequences / n_drawn)
    # a seed of its own: all ranks must come to the same number
    lengths = np.random.default_rng(0).permutation(drawn)
    sample = Sequences(np.ones(lengths.sum(), np.int32), np.append(0, lengths.cumsum()))
    n_packed = sum(1 for _ in pack(_in_windows(sample, n_rows * width), n_rows, width))
    # the last batch is half full on average
    return n_packed if n_drawn >= n_sequences else ceil((n_packed - 0.5) * n_sequences / n_drawn)


def pack_batches(batches: Iterator[SequenceBatch[Tokens]], n_rows: int, width: int) -> Iterator[SequenceBatch[Tokens]]:
    """The sequences of left-padded batches in packed ones of ``n_rows`` x ``width``."""
    return (packed.batch for packed in pack(map(Sequences.of_padded, batches), n_rows, width))


def pack_sequences(sequences: Sequences, n_positions: int) -> Iterator[Packed]:
    """Sequences, each of a token or more, in equally full packed batches of about ``n_positions`` at most."""
    width = max(ROW_WIDTH, int(sequences.lengths.max(initial=0)))
    n_rows = max(1, n_positions // width)
    # rows as full as may be, and so many batches of them: for few sequences smaller ones
    n_full = sequences.n_tokens / (FILL * width)
    n_rows = max(1, ceil(n_full / max(1, ceil(n_full / n_rows))))
    return pack(_in_windows(sequences, n_rows * width), n_rows, width)


def _in_windows(sequences: Sequences, n_positions: int) -> Iterator[Sequences]:
    """Parts of about a window, or of a batch of ``n_positions`` where that is more."""
    n_parts = ceil(sequences.n_tokens / max(WINDOW, n_positions))
    bounds = np.linspace(0, len(sequences), n_parts + 1).astype(int).tolist()
    return (sequences[start:stop] for start, stop in pairwise(bounds))


def pack(parts: Iterable[Sequences], n_rows: int, width: int) -> Iterator[Packed]:
    """Sequences in packed batches, about a window at a time; each comes once, none is cut.

    Raises
    ------
    ValueError
        If a sequence is longer than a row.
    """
    n_at_once, capacity = max(1, WINDOW // (n_rows * width)), FILL * n_rows * width
    waiting, numbers, n_seen, n_tokens = [], [], 0, 0
    for part in parts:
        waiting.append(part)
        numbers.append(np.arange(n_seen, n_seen + len(part)))
        n_seen, n_tokens = n_seen + len(part), n_tokens + part.n_tokens
        while n_tokens >= n_at_once * capacity:
            batches, left, numbers_left = _pack_window(waiting, numbers, n_at_once, n_rows, width)
            yield from batches
            waiting, numbers, n_tokens = [left], [numbers_left], left.n_tokens
    while n_tokens:
        # the rest, in as few batches as may hold it
        n_batches = min(n_at_once, ceil(n_tokens / capacity))
        batches, left, numbers_left = _pack_window(waiting, numbers, n_batches, n_rows, width)
        yield from batches
        waiting, numbers, n_tokens = [left], [numbers_left], left.n_tokens


def _pack_window(
    waiting: list[Sequences], waiting_numbers: list[NDArray[np.int64]], n_batches: int, n_rows: int, width: int
) -> tuple[list[Packed], Sequences, NDArray[np.int64]]:
    """Batches of the first sequences; the sequences that are left, and their numbers."""
    sequences, numbers = Sequences.concatenate(waiting), np.concatenate(waiting_numbers)
    # one at least, so that callers who ask until nothing is left come to an end
    n_first = max(1, int(np.searchsorted(sequences.offsets[1:], FILL * n_batches * n_rows * width, side="right")))
    first, n_positions = sequences[:n_first], n_batches * n_rows * width
    lengths = first.lengths
    starts = place(lengths, n_batches * n_rows, width)
    is_left = starts < 0
    # rows are dealt out like cards, so that each batch has long sequences and short ones
    row, column = np.divmod(starts, width)
    in_batch = np.where(is_left, n_batches, row % n_batches)
    starts = (in_batch * n_rows + row // n_batches) * width + column
    # past the end of the batches, where they are forgotten
    starts[is_left] = n_positions + np.cumsum(lengths[is_left]) - lengths[is_left]
    order = np.argsort(in_batch.astype(np.uint16), kind="stable")  # numpy sorts 16 bits by counting them
    bounds = np.searchsorted(in_batch[order], np.arange(n_batches + 1)).tolist()
    segments = np.empty(n_first, np.int32)
    segments[order] = np.arange(1, n_first + 1)
    # from 1 anew in each batch
    segments -= np.array(bounds, np.int32)[in_batch]
    positions = flat_positions(starts, lengths)  # [T]

    def grid(values: NDArray[Any]) -> NDArray[Any]:
        whole = np.full(n_positions + lengths[is_left].sum(), PAD, values.dtype)
        whole[positions] = values
        return whole[:n_positions].reshape(n_batches, n_rows, width)

    grids = replace(first.flat(), segments=np.repeat(segments, lengths)).map(grid)
    packed = []
    for number, (start, stop) in enumerate(pairwise(bounds)):
        own = order[start:stop]
        ends = starts[own] + lengths[own] - 1 - number * n_rows * width
        packed.append(Packed(numbers[own], ends, grids[number]))
    left = Sequences.concatenate([first.take(np.flatnonzero(is_left)), sequences[n_first:]])
    return packed, left, np.concatenate([numbers[:n_first][is_left], numbers[n_first:]])


def place(lengths: NDArray[np.integer], n_rows: int, width: int) -> NDArray[np.int64]:
    """Where sequences start in ``n_rows`` rows of ``width``, by best fit, the longest first (Johnson 1973).

    Parameters
    ----------
    lengths : integers [N], 1 to ``width`` each

    Returns
    -------
    int64 [N], the first position of each sequence in the flattened rows, -1 where no row has room left; no two
    sequences overlap, and none goes over the end of a row

    Raises
    ------
    ValueError
        If a sequence is longer than a row.

    Examples
    --------
    >>> place(np.array([2, 5, 3, 4]), n_rows=2, width=6)
    array([10,  0, -1,  6])
    """
    counts = np.bincount(lengths)
    if len(counts) > width + 1:
        raise ValueError(f"expected sequences of at most {width} tokens, the width of a row; found {len(counts) - 1}")
    # Sequences of one length are alike, and so are rows with as much room left: a step of plain Python deals with all
    # of them. Rows are consecutive ones, as (first, how many)
    rows_by_room = {width: [(0, n_rows)]}
    rooms = [width]  # keys of rows_by_room, rising
    steps: list[tuple[int, int, int]] = []  # how many sequences, the first one's row, and the position in its row
    for length in np.flatnonzero(counts)[::-1].tolist():
        n_waiting = int(counts[length])
        while n_waiting:
            # best fit: the least room that is enough
            at = bisect_left(rooms, length)
            if at == len(rooms):
                steps.append((n_waiting, -1, 0))
                break
            room = rooms[at]
            rows = rows_by_room[room]
            first, n_alike = rows.pop()
            n = min(n_alike, n_waiting)
            steps.append((n, first, width - room))
            n_waiting -= n
            if n < n_alike:
                rows.append((first + n, n_alike - n))
            elif not rows:
                del rows_by_room[room], rooms[at]
            if room > length:
                left = rows_by_room.get(room - length)
                if left is None:
                    insort(rooms, room - length)
                    left = rows_by_room[room - length] = []
                left.append((first, n))
    n_of_step, first_row, column = np.array(steps, np.int64).reshape(-1, 3).T
    rows_of = flat_positions(first_row, n_of_step)
    starts = np.empty(len(lengths), np.int64)
    # longest first, as the steps come; of 16 bits where they are enough, which numpy sorts by counting
    order = np.argsort((width - lengths).astype(np.uint16 if width < 2**16 else np.int64), kind="stable")
    starts[order] = np.where(np.repeat(first_row < 0, n_of_step), -1, rows_of * width + np.repeat(column, n_of_step))
    return starts
