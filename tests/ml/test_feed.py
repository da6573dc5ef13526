"""What Petastorm hands to a rank, from small Parquet files."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from conf.settings import FeedSettings
from ml.feed import read_shard, shuffled_batches, training_batches, validation_batches
from ml.sharding import FeedFile, Shard, shard_files, steps_by_width, width_schedule
from schemas.errors import TrainingError
from schemas.tokens import PAD, UNK

SETTINGS = FeedSettings(shuffle_buffer_rows=16)


def write_file(folder: Path, name: str, sequences: list[list[int]], width: int, row_group: int = 5) -> FeedFile:
    table = pa.table({"client_id": list(range(len(sequences))), "token_ids": pa.array(sequences, pa.list_(pa.int32()))})
    pq.write_table(table, folder / name, row_group_size=row_group)
    return FeedFile(f"file://{folder / name}", len(sequences), width)


def numbered(first: int, n_rows: int, length: int = 3) -> list[list[int]]:
    """Sequences that end in a token of their own."""
    return [[3] * (length - 1) + [first + row] for row in range(n_rows)]


@pytest.fixture
def files(tmp_path: Path) -> list[FeedFile]:
    narrow = [write_file(tmp_path, f"n{i}.parquet", numbered(100 * i, 20), 4) for i in range(1, 4)]
    return [*narrow, write_file(tmp_path, "w.parquet", numbered(900, 7, length=6), 8)]


def last_tokens(batches: list[np.ndarray]) -> list[int]:
    return [int(token) for batch in batches for token in batch[:, -1]]


def test_ragged_sequences_come_padded_on_the_left_to_the_files_width(tmp_path: Path) -> None:
    file = write_file(tmp_path, "f.parquet", [[5], [5, 6], [5, 6, 7, 8]], width=4)
    (rows,) = read_shard(Shard((file,)))
    assert rows.dtype == np.int32
    assert rows.tolist() == [[PAD, PAD, PAD, 5], [PAD, PAD, 5, 6], [5, 6, 7, 8]]


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_an_epoch_brings_every_row_to_exactly_one_rank_in_equally_many_steps(
    files: list[FeedFile], world_size: int
) -> None:
    schedule = width_schedule(steps_by_width(files, world_size, 16), seed=1, epoch=1)
    seen: list[int] = []
    for rank in range(world_size):
        batches = list(training_batches(files, schedule, 16, SETTINGS, rank, world_size, seed=(1, 1)))
        assert [batch.shape[1] for batch in batches] == schedule.tolist()
        seen += last_tokens(batches)
    expected = [100 * i + row for i in range(1, 4) for row in range(20)] + [900 + row for row in range(7)]
    assert set(seen) == set(expected)
    # a rank with fewer rows than the longest repeats some: at most a batch per width
    assert len(seen) - len(expected) <= world_size * 6


def test_an_epochs_rows_come_in_the_same_order_for_one_seed(files: list[FeedFile]) -> None:
    schedule = width_schedule(steps_by_width(files, 1, 16), seed=1, epoch=1)

    def order(seed: int) -> list[int]:
        return last_tokens(list(training_batches(files, schedule, 16, SETTINGS, 0, 1, seed=(seed, 1))))

    assert all(order(7) == order(7) for _ in range(5))
    assert order(7) != order(8)


def test_no_row_group_is_lost_to_petastorms_race(files: list[FeedFile]) -> None:
    """Without the guard about one reading in ten of a small file ends before its first row group."""
    for seed in range(1, 60):
        assert sum(len(rows) for rows in read_shard(Shard((files[0],)), seed)) == 20


def test_batches_mix_rows_of_several_row_groups() -> None:
    chunks = iter([np.full((10, 1), group, np.int32) for group in range(20)])
    batches = list(shuffled_batches(chunks, 10, buffer_rows=80, generator=np.random.default_rng(0)))
    assert [len(batch) for batch in batches] == [10] * 20
    groups_per_batch = [len(np.unique(batch)) for batch in batches]
    assert np.mean(groups_per_batch) > 5
    assert sorted(np.concatenate(batches).ravel().tolist()) == sorted(list(range(20)) * 10)


def test_validation_reads_every_row_once_over_the_ranks(files: list[FeedFile]) -> None:
    seen = [token for rank in range(3) for token in last_tokens(list(validation_batches(files, 16, rank, 3)))]
    assert sorted(seen) == [100 * i + row for i in range(1, 4) for row in range(20)] + [900 + row for row in range(7)]


def test_rows_of_unk_alone_are_left_out_and_a_feed_of_nothing_else_is_refused(tmp_path: Path) -> None:
    mixed = write_file(tmp_path, "m.parquet", [[UNK, UNK], [UNK, 9]], width=2)
    (rows,) = read_shard(Shard((mixed,)))
    assert rows.tolist() == [[UNK, 9]]
    empty = write_file(tmp_path, "e.parquet", [[UNK, UNK]], width=2)
    with pytest.raises(TrainingError, match="no sequence holds an item"):
        next(training_batches([empty], np.array([2]), 4, SETTINGS, 0, 1, seed=(1,)))


def test_ranks_that_share_files_keep_different_rows(tmp_path: Path) -> None:
    file = write_file(tmp_path, "f.parquet", numbered(100, 20), 4)
    kept = [np.concatenate(list(read_shard(shard_files([file], rank, 2), seed=5)))[:, -1].tolist() for rank in range(2)]
    assert sorted(kept[0] + kept[1]) == list(range(100, 120))
