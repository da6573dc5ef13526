"""Batches of one rank, read by Petastorm from exactly the files it is given."""

import contextlib
import time
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from petastorm import make_batch_reader
from petastorm.transform import TransformSpec

from conf.settings import FeedSettings
from ml.batch import pad_left, rows_per_batch
from ml.sharding import FeedFile, Shard, group_by_width, shard_files, training_shard
from schemas.columns import TOKEN_IDS
from schemas.errors import TrainingError
from schemas.tokens import FIRST_ITEM

Tokens = NDArray[np.int32]


def training_batches(
    files: Sequence[FeedFile],
    schedule: NDArray[np.int64],
    tokens_per_batch: int,
    settings: FeedSettings,
    rank: int,
    world_size: int,
    seed: tuple[int, ...],
) -> Iterator[Tokens]:
    """One batch per step of the schedule, int32 [B, width], left-padded with PAD.

    Each row of the rank's shard comes once, in an order drawn from ``seed``; a rank that has fewer batches of a
    width than the schedule asks for starts over with its first ones.
    """
    streams = {
        width: _endless_batches(
            training_shard(group, rank, world_size), rows_per_batch(tokens_per_batch, width), settings, (*seed, width)
        )
        for width, group in group_by_width(files).items()
    }
    for width in schedule:
        yield next(streams[int(width)])


def validation_batches(
    files: Sequence[FeedFile], tokens_per_batch: int, rank: int, world_size: int
) -> Iterator[Tokens]:
    """Every row of the rank's exact shard once, in file order, int32 [B, width]."""
    for width, group in group_by_width(files).items():
        n_rows = rows_per_batch(tokens_per_batch, width)
        for chunk in read_shard(shard_files(group, rank, world_size)):
            yield from (chunk[start : start + n_rows] for start in range(0, len(chunk), n_rows))


def read_shard(shard: Shard, seed: int | None = None) -> Iterator[Tokens]:
    """The shard's rows, one array per row group, int32 [rows, width].

    Row groups come in an order drawn from ``seed``, or in file order without one.
    """
    if not shard.n_rows:
        return
    n_seen = 0
    with _open_reader(shard, seed) as reader:
        for row_group in reader:
            rows = row_group.token_ids
            mine = rows[(shard.offset - n_seen) % shard.stride :: shard.stride]
            n_seen += len(rows)
            yield mine[(mine >= FIRST_ITEM).any(axis=1)]  # rows of UNK alone have nothing to predict
    n_rows = sum(file.n_rows for file in shard.files)
    if n_seen != n_rows:
        raise TrainingError(f"read {n_seen} of {n_rows} rows of {len(shard.files)} files; was the table rewritten?")


def shuffled_batches(
    chunks: Iterator[Tokens], n_rows: int, buffer_rows: int, generator: np.random.Generator
) -> Iterator[Tokens]:
    """The rows of all chunks in batches of ``n_rows`` (the last may be less), mixed through a buffer.

    Whenever the buffer is full its rows are permuted and half of them leave, so that rows of many row groups
    meet in one batch.
    """
    pool: list[Tokens] = []
    n_pooled = 0
    for chunk in chunks:
        pool.append(chunk)
        n_pooled += len(chunk)
        if n_pooled >= max(buffer_rows, 2 * n_rows):
            mixed = generator.permutation(np.concatenate(pool))
            n_leaving = n_pooled // 2 // n_rows * n_rows
            yield from np.split(mixed[:n_leaving], n_leaving // n_rows)
            pool, n_pooled = [mixed[n_leaving:]], n_pooled - n_leaving
    if n_pooled:
        mixed = generator.permutation(np.concatenate(pool))
        yield from (mixed[start : start + n_rows] for start in range(0, n_pooled, n_rows))


def _endless_batches(shard: Shard, n_rows: int, settings: FeedSettings, seed: tuple[int, ...]) -> Iterator[Tokens]:
    turn = 0
    while True:
        generator = np.random.default_rng((*seed, turn))
        # where ranks read the same files, they must agree on the order to keep different rows of it
        chunks = read_shard(shard, seed=int(generator.integers(1, 2**31)))
        batches = shuffled_batches(chunks, n_rows, settings.shuffle_buffer_rows, generator)
        first = next(batches, None)
        if first is None:
            raise TrainingError(f"no sequence holds an item in {[file.url for file in shard.files]}")
        yield first
        yield from batches
        turn += 1


@contextlib.contextmanager
def _open_reader(shard: Shard, seed: int | None) -> Iterator[Iterator[Any]]:
    # Petastorm reads through pyarrow's old dataset API and is warned about it once per file
    warnings.filterwarnings("ignore", category=FutureWarning, module="petastorm")
    reader = make_batch_reader(
        [file.url for file in shard.files],
        schema_fields=[TOKEN_IDS],
        reader_pool_type="thread",
        workers_count=1,  # several hand their results over in an order that depends on their timing
        shuffle_row_groups=seed is not None,
        seed=seed,
        num_epochs=1,
        transform_spec=_padding_to(shard.files[0].width),
    )
    _end_only_after_the_last_row_group(reader)
    try:
        yield reader
    finally:  # not by Reader's own context manager, which prints
        reader.stop()
        reader.join()


def _end_only_after_the_last_row_group(reader: Any) -> None:
    """Close a race of Petastorm 0.13.1 that loses row groups without a word.

    Its thread pool asks "are all workers idle?", then "is everything handed out?". When the last row groups are
    handed out between the two questions, both answers are yes and the pool reports its end before they are read.
    Asked in the other order the answers are safe.
    """
    pool, ventilator = reader._workers_pool, reader.ventilator
    are_idle = pool.all_workers_done

    def are_done() -> bool:
        if ventilator.completed():
            return bool(are_idle())
        if are_idle():
            time.sleep(0.001)  # the pool would spin, and hold the interpreter that must hand out the work
        return False

    pool.all_workers_done = are_done


def _padding_to(width: int) -> TransformSpec:
    """Petastorm refuses ragged lists: pad each row group to its width in the reader's thread."""

    def pad(rows: pd.DataFrame) -> pd.DataFrame:
        return pd.DataFrame({TOKEN_IDS: list(pad_left(rows[TOKEN_IDS].tolist(), width).astype(np.int32))})

    return TransformSpec(pad, edit_fields=[(TOKEN_IDS, np.int32, (width,), False)], selected_fields=[TOKEN_IDS])
