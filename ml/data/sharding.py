"""Who reads what, and for how many steps: pure arithmetic, the same on every rank, no file and no process group.

Words: a *file*, or one row group of it, is the unit a rank reads; ``world_size`` ranks read one shard each; an epoch
has as many steps on every rank, because a rank with a step more would wait in the allreduce for ever.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from math import ceil
from operator import attrgetter

import numpy as np
from numpy.typing import NDArray

BALANCED = 1.1
"""Files or row groups are dealt out whole where no rank gets more than this times the mean of rows."""


@dataclass(frozen=True)
class FeedFile:
    """One Parquet file of a pinned snapshot; all its sequences are padded to ``width``.

    Attributes
    ----------
    n_rows : sequences, those that its rows are cut into if they are
    n_chunks : consecutive sequences that each of its rows is cut into; of 1 a longer row's last events are read
    group_rows : rows of each of its row groups; empty where these are not to be dealt out
    row_group : the one that is read; None for all
    """

    url: str
    n_rows: int
    width: int
    n_chunks: int = 1
    # a training that was killed goes on with the same data, however many ranks there are: no part of the repr
    group_rows: tuple[int, ...] = field(default=(), repr=False)
    row_group: int | None = field(default=None, repr=False)

    def parts(self) -> "list[FeedFile]":
        """Its row groups, each as a file of its own; itself where they are not known."""
        parts = [
            replace(self, n_rows=n_rows * self.n_chunks, group_rows=(), row_group=number)
            for number, n_rows in enumerate(self.group_rows)
        ]
        return parts or [self]


@dataclass(frozen=True)
class Shard:
    """What one rank reads of one width: of the rows of ``files``, each ``stride``-th from ``offset`` on; and its own.

    Attributes
    ----------
    own : files that no other rank reads
    """

    files: tuple[FeedFile, ...]
    offset: int = 0
    stride: int = 1
    own: tuple[FeedFile, ...] = ()

    @property
    def n_rows(self) -> int:
        """Rows that the rank keeps."""
        n_shared = max(0, ceil((sum(file.n_rows for file in self.files) - self.offset) / self.stride))
        return n_shared + sum(file.n_rows for file in self.own)


def deal_files(files: Sequence[FeedFile], world_size: int) -> list[Shard]:
    """The shard of each rank; over all ranks each row is in exactly one shard.

    Files are dealt out whole, the largest first, each to the rank with the fewest rows so far. Where that leaves
    the ranks unequal, those that would take a rank above the mean are shared: every rank reads them and keeps each
    ``world_size``-th row. Of 400 equal files, 64 ranks get 6 each, and share 16. Where few files are left for that,
    the same is done with their row groups, if these are known, and else all files are shared.
    """
    total = sum(file.n_rows for file in files)
    for units in (files, [part for file in files for part in file.parts()]):
        # first without a limit, so that nothing is shared where whole files balance by themselves
        for limit in (total, total / world_size):  # rows of a rank's own files
            dealt: list[list[FeedFile]] = [[] for _ in range(world_size)]
            n_rows, shared = [0] * world_size, []
            # equal files keep their order, and the first of equal ranks takes one: every rank deals alike
            for file in sorted(units, key=lambda file: -file.n_rows):
                lightest = n_rows.index(min(n_rows))
                if n_rows[lightest] + file.n_rows > limit:
                    shared.append(file)
                    continue
                dealt[lightest].append(file)
                n_rows[lightest] += file.n_rows
            most = max(n_rows) + ceil(sum(file.n_rows for file in shared) / world_size)
            if any(n_rows) and most * world_size <= BALANCED * total:
                if not shared:
                    return [Shard(tuple(own)) for own in dealt]
                return [Shard(tuple(shared), rank, world_size, tuple(own)) for rank, own in enumerate(dealt)]
    return [Shard(tuple(files), rank, world_size) for rank in range(world_size)]


def training_shard(files: Sequence[FeedFile], rank: int, world_size: int) -> Shard:
    """One rank's of ``deal_files``; a rank left without a row (fewer rows than ranks) repeats another rank's."""
    shards, n_rows = deal_files(files, world_size), sum(file.n_rows for file in files)
    # of fewer rows than ranks, the first ranks have one each
    return shards[rank] if shards[rank].n_rows else shards[rank % max(1, n_rows)]


def width_schedule(steps: dict[int, int], seed: int, epoch: int) -> NDArray[np.int64]:
    """The width of every step of an epoch, int64 [n_steps]: all ranks take like work at the same time."""
    # of the seed and the epoch, not of the rank: a rank with a wide batch would keep those with a narrow one waiting
    widths = np.repeat(np.fromiter(steps.keys(), np.int64), np.fromiter(steps.values(), np.int64))
    return np.random.default_rng([seed, epoch]).permutation(widths)


def group_by_width(files: Sequence[FeedFile]) -> dict[int, list[FeedFile]]:
    """Width -> its files, in rising width."""
    width = attrgetter("width")
    return {key: list(group) for key, group in groupby(sorted(files, key=width), key=width)}
