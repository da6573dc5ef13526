"""Batches of one rank, read by Petastorm, or by pyarrow alone, from exactly the files it is given."""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property, partial
from math import ceil

import numpy as np
from numpy.typing import NDArray

from conf.training import FeedSettings
from ml.data.arrow_rows import BYTES_OF, columns_to_read, sequences_of
from ml.data.batching import cut, read_ahead, rows_per_batch
from ml.data.row_groups import Reader, as_training_error, read_footers, read_row_groups
from ml.data.sequence_batch import Batches, SequenceBatch, Sequences, Tokens, concatenate
from ml.data.sharding import (
    FeedFile,
    Shard,
    deal_files,
    group_by_width,
    training_shard,
    width_schedule,
)
from schemas.columns import TOKEN_IDS
from schemas.errors import TrainingError

_reading_sequences = partial(
    as_training_error, "cannot read the sequences that training began with", "were their files vacuumed or moved?"
)


class ParquetFeed:
    """A feed (``ml.data.sequence_batch.Feed``) that reads Parquet files, each of one width.

    Parameters
    ----------
    training_files, validation_files : of a pinned snapshot, the same on every rank
    tokens_per_batch : positions of a batch, padding included
    has_events : whether batches have ``event_types`` and ``timestamps``, which the files then hold

    Raises
    ------
    TrainingError
        If a file cannot be read, or no training row has an item to predict and another token to predict it from.
    """

    def __init__(
        self,
        training_files: Sequence[FeedFile],
        validation_files: Sequence[FeedFile],
        tokens_per_batch: int,
        settings: FeedSettings,
        rank: int,
        world_size: int,
        seed: int,
        has_events: bool = False,
    ) -> None:
        self._columns = columns_to_read(has_events)
        self._read = partial(read_shard, columns=self._columns, reader=settings.reader)
        self._rank, self._world_size = rank, world_size
        groups = {width: self._cut(files) for width, files in group_by_width(training_files).items()}
        # All ranks ask this of the files of all ranks, so that they keep the same widths and take the same steps. Each
        # reads one row group a width, unless the first ones hold nothing to learn.
        self._training_files = {
            width: files
            for width, files in groups.items()
            if any(self._first_learnable(file) is not None for file in files)
        }
        if not self._training_files:
            of_all = [file for files in groups.values() for file in files]
            raise TrainingError(
                f"none of {sum(file.n_rows for file in of_all)} training sequences holds two tokens, one of them an "
                f"item, in {[file.url for file in of_all[:3]]}; lower the behaviour's min_count, or leave it out of "
                "behaviours"
            )
        self._validation_files = {width: self._cut(files) for width, files in group_by_width(validation_files).items()}
        # width -> rows of the rank with the most, and the steps that are enough for them: equal on all ranks
        self._n_rows = {
            width: max(shard.n_rows for shard in deal_files(files, world_size))
            for width, files in self._training_files.items()
        }
        self._steps = {width: ceil(n / rows_per_batch(tokens_per_batch, width)) for width, n in self._n_rows.items()}
        self._tokens_per_batch, self._settings, self._seed = tokens_per_batch, settings, seed
        self.n_batches = sum(self._steps.values())

    @cached_property
    def length_counts(self) -> NDArray[np.float64]:
        """As far as one row group of each width tells, and one of the rows that are cut: these are longer."""
        # not in __init__: packed feeds alone ask for it, and it reads row groups
        counts = np.zeros(max(self._n_rows) + 1)
        for width, files in self._training_files.items():
            total = sum(file.n_rows for file in files)
            for n_chunks in {file.n_chunks for file in files}:
                alike = [file for file in files if file.n_chunks == n_chunks]
                lengths = next((rows.lengths for rows in map(self._first_learnable, alike) if rows is not None), None)
                if lengths is not None:
                    n_rows = self._n_rows[width] * sum(file.n_rows for file in alike) / total
                    counts += np.bincount(lengths, minlength=len(counts)) * (n_rows / len(lengths))
        return counts

    def training(self, epoch: int, skip: int = 0) -> Batches:
        """The batches of an epoch, int32 [B, width], but for the first ``skip``, which are read and dropped.

        Each row of the rank's shard comes once; a rank that has fewer batches of a width than another starts over
        with its first ones.

        Raises
        ------
        TrainingError
            By ``next``: if a file cannot be read, or has another number of rows than was said.
        """
        return read_ahead(self._epoch(epoch, skip), self._settings.batches_ahead)

    def validation(self) -> Batches:
        """Every learnable row of the rank's exact shard once, in file order, int32 [B, width]."""
        return read_ahead(self._held_out(), self._settings.batches_ahead)

    def _epoch(self, epoch: int, skip: int) -> Batches:
        with contextlib.ExitStack() as stack:
            streams = {
                width: stack.enter_context(contextlib.closing(self._stream(width, epoch)))
                for width in self._training_files
            }
            schedule = width_schedule(self._steps, self._seed, epoch)
            # an epoch that is over gives nothing: none of its rows is read
            for number, width in enumerate(schedule.tolist() if skip < self.n_batches else ()):
                batch = next(streams[width])
                if number >= skip:
                    yield batch

    def _stream(self, width: int, epoch: int) -> Batches:
        """Batches of one width without end, turn after turn over the rank's shard."""
        files = self._training_files[width]
        whole, shard = Shard(tuple(files)), training_shard(files, self._rank, self._world_size)
        n_rows = rows_per_batch(self._tokens_per_batch, width)
        bytes_per_event = sum(BYTES_OF[column] for column in self._columns)
        buffer_rows = int(self._settings.shuffle_buffer_mib * 2**20 / (bytes_per_event * width))
        turn = 0
        while True:
            generator = np.random.default_rng((self._seed, epoch, width, turn))
            # where ranks read the same files, they must agree on the order to keep different rows of it; from 1, for
            # Petastorm takes 0 for no seed
            with contextlib.closing(self._read(shard, int(generator.integers(1, 2**31)))) as chunks:
                batches = shuffled_batches(chunks, n_rows, buffer_rows, generator)
                first = next(batches, None)
                if first is None:
                    assert shard != whole, "each width that is kept has a learnable row"
                    shard = whole  # another rank's rows: with none at all the others would wait for ever
                    continue
                yield first
                yield from batches
            turn += 1

    def _held_out(self) -> Batches:
        for width, files in self._validation_files.items():
            n_rows = rows_per_batch(self._tokens_per_batch, width)
            shard = deal_files(files, self._world_size)[self._rank]
            with contextlib.closing(self._read(shard)) as chunks:
                for chunk in chunks:
                    yield from cut(chunk, n_rows)

    def _cut(self, files: list[FeedFile]) -> list[FeedFile]:
        """The files with what their row groups hold, where all ranks would read all of them."""
        # footers cost a request to a store each: they are read where each rank would read all files anyway
        if self._world_size == 1 or len(deal_files(files, self._world_size)[0].files) < len(files):
            return files
        with _reading_sequences():
            footers = read_footers([file.url for file in files])
        rows = [tuple(footer.row_group(n).num_rows for n in range(footer.num_row_groups)) for footer in footers]
        # of a file that holds other rows than was said reading all of it tells
        return [
            replace(file, group_rows=of_file) if sum(of_file) * file.n_chunks == file.n_rows else file
            for file, of_file in zip(files, rows, strict=True)
        ]

    def _first_learnable(self, file: FeedFile) -> SequenceBatch[Tokens] | None:
        """The learnable rows of the first row group that has any; None where none has."""
        with contextlib.closing(self._read(Shard((file,)))) as chunks:
            return next((chunk for chunk in chunks if len(chunk)), None)


def read_shard(
    shard: Shard, seed: int | None = None, columns: Sequence[str] = (TOKEN_IDS,), reader: Reader = "auto"
) -> Batches:
    """The shard's learnable rows, or the sequences that they are cut into, one batch per row group.

    Row groups come in an order drawn from ``seed``, those of the rank's own files and of shared ones each for
    themselves, or in file order without one.

    Parameters
    ----------
    columns : to read, of ``BYTES_OF``

    Raises
    ------
    TrainingError
        If a file cannot be read, or the files hold another number of rows than was said.
    """
    if not shard.n_rows:
        return
    if shard.own:
        # else what ranks share would come last in every epoch
        parts = [Shard(shard.own), replace(shard, own=())]
        for part in parts[:: -1 if (seed or 0) % 2 else 1]:
            yield from read_shard(part, seed, columns, reader)
        return
    n_seen, width = 0, shard.files[0].width
    is_cut = any(file.n_chunks > 1 for file in shard.files)  # rows of its other files are no longer than a chunk
    for rows in _sequences(shard, seed, columns, reader):
        # the table may keep more of a client than this encoder reads, and what it reads must hold an item
        rows = rows.cut(width) if is_cut else rows.last(width)
        # row r of the shard's files is this rank's if r % stride == offset; n_seen of them came before this row group
        mine = np.arange((shard.offset - n_seen) % shard.stride, len(rows), shard.stride)
        # before rows without anything to learn are left out: the file counts them
        n_seen += len(rows)
        yield rows.batch(mine[rows.is_learnable[mine]], width)
    # a reader that loses row groups, and files that were replaced, go unnoticed but for this count
    n_rows = sum(file.n_rows for file in shard.files)
    if n_seen != n_rows:
        raise TrainingError(f"read {n_seen} of {n_rows} rows of {len(shard.files)} files; was the table rewritten?")


def shuffled_batches(
    chunks: Iterator[SequenceBatch[Tokens]], n_rows: int, buffer_rows: int, generator: np.random.Generator
) -> Iterator[SequenceBatch[Tokens]]:
    """The rows of all chunks in batches of ``n_rows`` (the last may be less), mixed through a buffer.

    Whenever the buffer is full its rows are permuted and half of them leave, so that rows of many row groups
    meet in one batch.
    """
    pool: list[SequenceBatch[Tokens]] = []
    n_pooled = 0
    for chunk in chunks:
        pool.append(chunk)
        n_pooled += len(chunk)
        if n_pooled >= max(buffer_rows, 2 * n_rows):
            mixed = concatenate(pool)[generator.permutation(n_pooled)]
            # whole batches: a smaller one here would be one more than the epoch has steps for
            n_leaving = n_pooled // 2 // n_rows * n_rows
            yield from cut(mixed[:n_leaving], n_rows)
            pool, n_pooled = [mixed[n_leaving:]], n_pooled - n_leaving
    if n_pooled:
        yield from cut(concatenate(pool)[generator.permutation(n_pooled)], n_rows)


def _sequences(shard: Shard, seed: int | None, columns: Sequence[str], reader: Reader) -> Iterator[Sequences]:
    """The rows of each row group as Arrow holds them."""
    # row groups that are dealt out are files of one url
    positions = {url: number for number, url in enumerate(dict.fromkeys(file.url for file in shard.files))}
    is_cut = any(file.row_group is not None for file in shard.files)
    only = [(positions[file.url], file.row_group) for file in shard.files] if is_cut else []
    with _reading_sequences():
        for rows in read_row_groups(list(positions), columns, seed, reader, only):
            yield sequences_of([rows.column(name).combine_chunks() for name in columns])
