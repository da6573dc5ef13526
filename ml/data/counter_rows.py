"""Rows of counters with labels, from Parquet files, in batches of one rank."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count, islice, pairwise
from math import ceil

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ml.data.batching import cut
from ml.data.row_groups import Reader, as_training_error, read_row_groups
from ml.data.sharding import FeedFile, deal_files, training_shard
from schemas.columns import IS_ACTIVE, LABELS
from schemas.errors import TrainingError

NUMBERS = "numbers"
"""Column of a row's numbers, float32 as bytes."""


@dataclass(frozen=True, eq=False)
class CounterRows:
    """N clients, each at one cutoff.

    Attributes
    ----------
    numbers : float32 [N, views, F]; of all its events first, then of parts of them
    labels : float32 [N, labels]: whether it buys nothing after the cutoff, then what it buys
    is_counted : bool [N, heads], which heads are asked of it
    """

    numbers: NDArray[np.float32]
    labels: NDArray[np.float32]
    is_counted: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, rows: slice | NDArray[np.int64]) -> "CounterRows":
        return CounterRows(self.numbers[rows], self.labels[rows], self.is_counted[rows])


@dataclass(frozen=True)
class RowLayout:
    """What a row of the files holds.

    Attributes
    ----------
    n_views, n_counters : of its numbers
    sizes : labels of each head; the first head is churn, asked of clients that have bought before, each other one is
        asked of those that buy something that it names
    """

    n_views: int
    n_counters: int
    sizes: tuple[int, ...]

    def rows(self, table: pa.Table) -> CounterRows:
        """The rows of a table of ``numbers``, ``is_active``, and ``labels``.

        The last is a list of the numbers of what is bought, counted over all heads from the second on, null where
        nothing is.
        """
        packed, lists = (table.column(name).combine_chunks() for name in (NUMBERS, LABELS))
        is_active = table.column(IS_ACTIVE).to_numpy().astype(bool)
        labels = np.zeros((len(table), sum(self.sizes)), np.float32)
        # null is a client that buys nothing: the label of churn
        labels[:, 0] = lists.is_null().to_numpy(zero_copy_only=False)
        # each entry of a list with the number of its row; lists that are null have none
        labels[lists.value_parent_indices().to_numpy(), lists.flatten().to_numpy() + self.sizes[0]] = 1
        bounds = np.cumsum(self.sizes)
        asked = [labels[:, start:end].any(axis=1) for start, end in pairwise(bounds)]
        numbers = unpack_numbers(packed, self.n_views * self.n_counters)
        return CounterRows(
            numbers.reshape(-1, self.n_views, self.n_counters), labels, np.stack([is_active, *asked], axis=1)
        )


class CounterFeed:
    """The batches of one rank; each epoch has as many on every rank.

    Parameters
    ----------
    files : the same on every rank, their rows in an order that says nothing

    Raises
    ------
    TrainingError
        By ``training``: if a file cannot be read, or has another number of rows than was said.
    """

    def __init__(
        self,
        files: Sequence[FeedFile],
        layout: RowLayout,
        batch_size: int,
        reader: Reader,
        rank: int,
        world_size: int,
        seed: int,
    ) -> None:
        self._layout, self._batch_size, self._reader, self._seed = layout, batch_size, reader, seed
        self._shard = training_shard(files, rank, world_size)
        most = max(shard.n_rows for shard in deal_files(files, world_size))
        self.n_batches = ceil(most / batch_size)

    def training(self, epoch: int) -> Iterator[CounterRows]:
        """Each row of the rank's shard once; a rank with fewer batches than another starts over with its first."""
        turns = (batch for turn in count() for batch in self._turn(epoch, turn))
        return islice(turns, self.n_batches)

    def _turn(self, epoch: int, turn: int) -> Iterator[CounterRows]:
        generator = np.random.default_rng((self._seed, epoch, turn))
        # from 1: Petastorm takes 0 for no seed
        order = int(generator.integers(1, 2**31))  # ranks that share files must agree on it
        # no buffer beyond a row group, unlike ParquetFeed's: rows are stored in an order that says nothing
        left: list[CounterRows] = []
        for rows in self._chunks(order):
            mixed = _concatenate([*left, rows[generator.permutation(len(rows))]])
            # what fills no batch waits for the next row group: only the last batch of a turn may be smaller
            n_whole = len(mixed) // self._batch_size * self._batch_size
            yield from cut(mixed[:n_whole], self._batch_size)
            left = [mixed[n_whole:]]
        yield from (rows for rows in left if len(rows))

    def _chunks(self, order: int) -> Iterator[CounterRows]:
        """The rank's rows of each row group."""
        shard = self._shard
        # the rank's own files whole, of the shared ones its rows
        for files, offset, stride in ((shard.own, 0, 1), (shard.files, shard.offset, shard.stride)):
            if not files:
                continue
            n_seen = 0
            for table in read_tables(files, (NUMBERS, IS_ACTIVE, LABELS), order, self._reader):
                # row r of the files is this rank's if r % stride == offset; n_seen of them came before this row group
                mine = np.arange((offset - n_seen) % stride, len(table), stride)
                n_seen += len(table)
                yield self._layout.rows(table)[mine]
            if n_seen != (n_rows := sum(file.n_rows for file in files)):
                raise TrainingError(f"read {n_seen} of {n_rows} rows of {len(files)} files; run the stage again")


def read_tables(
    files: Sequence[FeedFile], columns: Sequence[str], order: int | None, reader: Reader
) -> Iterator[pa.Table]:
    """The row groups of some files, in an order drawn from ``order``, that of the files without one.

    Raises
    ------
    TrainingError
        If a file cannot be read.
    """
    with as_training_error("cannot read the training rows", "run the stage again"):
        yield from read_row_groups([file.url for file in files], columns, order, reader)


def unpack_numbers(packed: pa.BinaryArray, n_columns: int) -> NDArray[np.float32]:
    """Float32 [rows, columns] of a column of bytes without nulls, which may be a part of a longer one."""
    # by the column's buffers: pyarrow would make a Python object of each row
    first, last = packed.offset, packed.offset + len(packed)
    start, stop = np.frombuffer(packed.buffers()[1], np.int32)[[first, last]]
    return np.frombuffer(packed.buffers()[2], np.uint8)[start:stop].view(np.float32).reshape(-1, n_columns)


def _concatenate(parts: Sequence[CounterRows]) -> CounterRows:
    columns = zip(*((part.numbers, part.labels, part.is_counted) for part in parts), strict=True)
    return CounterRows(*map(np.concatenate, columns))
