"""What a rank is fed, from small Parquet files by Petastorm and, where the rule is every feed's, from memory."""

import contextlib
import gc
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from optional import HAS_OUR_ORDER, NEEDS_OUR_ORDER, NEEDS_PETASTORM, READERS

from conf.training import FeedSettings
from ml.data import parquet_feed as parquet_feed_module
from ml.data.array_feed import ArrayFeed
from ml.data.arrow_rows import columns_to_read
from ml.data.parquet_feed import ParquetFeed, read_ahead, read_shard, shuffled_batches
from ml.data.row_groups import Reader, open_petastorm, read_row_groups
from ml.data.sequence_batch import Feed, SequenceBatch, Sequences, Tokens
from ml.data.sharding import FeedFile, Shard, deal_files
from schemas.errors import TrainingError
from schemas.tokens import PAD, UNK

SETTINGS = FeedSettings(shuffle_buffer_mib=0.0005)  # 32 rows of width 4
ALL_ROWS = [100 * i + row for i in range(1, 4) for row in range(20)] + [900 + row for row in range(7)]
MakeFeed = Callable[..., Feed]


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


@pytest.fixture(params=[*READERS, "array"])
def make_feed(request: pytest.FixtureRequest, files: list[FeedFile]) -> MakeFeed:
    """Either feed over the same rows, for training and for validation."""
    if request.param != "array":
        settings = replace(SETTINGS, reader=request.param)
        return lambda rank=0, world_size=1, seed=1: ParquetFeed(files, files, 16, settings, rank, world_size, seed)
    rows = Sequences.from_rows([row for i in range(1, 4) for row in numbered(100 * i, 20)] + numbered(900, 7, length=6))
    return lambda rank=0, world_size=1, seed=1: ArrayFeed(rows, rows, (1, 4, 8), 16, seed, rank, world_size)


def parquet_feed(files: list[FeedFile], settings: FeedSettings = SETTINGS) -> ParquetFeed:
    return ParquetFeed(files, [], 16, settings, rank=0, world_size=1, seed=1)


def last_tokens(batches: Iterator[SequenceBatch[Tokens]]) -> list[int]:
    return [int(token) for batch in batches for token in batch.token_ids[:, -1]]


def as_lists(batches: Iterator[SequenceBatch[Tokens]]) -> list[list[list[int]]]:
    return [batch.token_ids.tolist() for batch in batches]


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_an_epoch_brings_every_row_to_exactly_one_rank_in_equally_many_steps(
    make_feed: MakeFeed, world_size: int
) -> None:
    seen: list[int] = []
    widths: list[list[int]] = []
    for rank in range(world_size):
        feed = make_feed(rank, world_size)
        batches = list(feed.training(epoch=1))
        assert len(batches) == feed.n_batches
        widths.append([batch.shape[1] for batch in batches])
        seen += last_tokens(iter(batches))
    assert all(widths[0] == others for others in widths)
    assert set(seen) == set(ALL_ROWS)
    # a rank with fewer rows than the longest repeats some: at most a batch per width
    assert len(seen) - len(ALL_ROWS) <= (world_size - 1) * 6


def test_an_epochs_rows_come_in_the_same_order_for_one_seed_and_epoch(make_feed: MakeFeed) -> None:
    def order(seed: int, epoch: int) -> list[int]:
        return [token for token in last_tokens(make_feed(seed=seed).training(epoch)) if token < 900]  # of one width

    assert order(7, 1) == order(7, 1) == order(7, 1)
    assert order(7, 1) != order(8, 1)
    assert order(7, 1) != order(7, 2)


@pytest.mark.parametrize(("rank", "world_size"), [(0, 1), (0, 2), (1, 2)])
def test_an_epoch_that_goes_on_from_its_middle_brings_what_was_left(
    make_feed: MakeFeed, rank: int, world_size: int
) -> None:
    feed = make_feed(rank, world_size)
    for epoch in (1, 2):
        undisturbed = as_lists(feed.training(epoch))
        for skip in (1, feed.n_batches // 2, feed.n_batches - 1, feed.n_batches):
            assert as_lists(make_feed(rank, world_size).training(epoch, skip)) == undisturbed[skip:]


def test_validation_reads_every_row_once_over_the_ranks(make_feed: MakeFeed) -> None:
    seen = [token for rank in range(3) for token in last_tokens(make_feed(rank, 3).validation())]
    assert sorted(seen) == ALL_ROWS


def test_a_feed_may_be_left_in_the_middle_and_leaves_no_thread(make_feed: MakeFeed) -> None:
    before = threading.active_count()
    feed = make_feed()
    with contextlib.closing(feed.training(epoch=1)) as batches:
        next(batches)
    next(feed.training(epoch=1))  # dropped at once, not closed
    assert len(last_tokens(feed.validation())) == len(ALL_ROWS)
    gc.collect()
    assert threading.active_count() == before


def test_neither_memory_nor_threads_nor_open_files_grow_over_epochs(make_feed: MakeFeed) -> None:
    feed = make_feed()
    process = psutil.Process()
    kept: list[tuple[int, int]] = []
    tracemalloc.start()
    try:
        for epoch in range(1, 7):
            assert sum(1 for _ in feed.training(epoch)) == feed.n_batches
            gc.collect()
            kept.append((tracemalloc.get_traced_memory()[0], threading.active_count() + process.num_fds()))
    finally:
        tracemalloc.stop()
    assert kept[-1][0] - kept[1][0] < 20_000
    assert kept[-1][1] == kept[1][1]


def test_a_rows_position_in_its_file_says_nothing_of_its_batch(tmp_path: Path) -> None:
    """Row groups of 50 rows, a buffer of about 500: a batch of 40 mixes many groups, and the epoch has no drift."""
    file = write_file(tmp_path, "f.parquet", numbered(100, 2000), 4, row_group=50)
    feed = ParquetFeed([file], [], 160, FeedSettings(shuffle_buffer_mib=0.008), 0, 1, seed=3)
    groups = [(batch.token_ids[:, -1] - 100) // 50 for batch in feed.training(epoch=1)]
    assert np.mean([len(np.unique(group)) for group in groups]) > 8
    drift = np.corrcoef(np.concatenate(groups), np.arange(2000))[0, 1]
    assert abs(drift) < 0.4


def test_ragged_sequences_come_padded_on_the_left_to_the_files_width(tmp_path: Path) -> None:
    file = write_file(tmp_path, "f.parquet", [[5, 6], [4, 5, 6], [5, 6, 7, 8]], width=4)
    (rows,) = read_shard(Shard((file,)))
    assert rows.token_ids.dtype == np.int32
    assert rows.token_ids.tolist() == [[PAD, PAD, 5, 6], [PAD, 4, 5, 6], [5, 6, 7, 8]]


def test_a_folder_may_have_a_name_that_spark_writes_in_other_characters(tmp_path: Path) -> None:
    (tmp_path / "an out=1").mkdir()
    file = write_file(tmp_path / "an out=1", "f.parquet", numbered(100, 20), 4)
    quoted = FeedFile(Path(file.url[7:]).as_uri(), 20, 4)
    assert "%20" in quoted.url
    assert sum(len(rows) for rows in read_shard(Shard((quoted,)))) == 20


@pytest.mark.parametrize("kind", ["petastorm", "array"])
def test_a_width_without_a_learnable_row_is_left_out_on_all_ranks_alike(tmp_path: Path, kind: str) -> None:
    unknown, known = [[UNK, UNK]] * 5, numbered(100, 6)
    files = [write_file(tmp_path, "u.parquet", unknown, 2), write_file(tmp_path, "k.parquet", known, 4)]
    rows = Sequences.from_rows([*unknown, *known])
    feeds: list[Feed] = [
        ParquetFeed(files, [], 8, SETTINGS, rank, 2, seed=1)
        if kind == "petastorm"
        else ArrayFeed(rows, Sequences.from_rows([]), (1, 2, 4), 8, seed=1, rank=rank, world_size=2)
        for rank in range(2)
    ]
    assert [feed.n_batches for feed in feeds] == [2, 2]
    epochs = [as_lists(feed.training(epoch=1)) for feed in feeds]
    assert [[len(row) for batch in epoch for row in batch] for epoch in epochs] == [[4] * 3] * 2
    assert sorted(row[-1] for epoch in epochs for batch in epoch for row in batch) == list(range(100, 106))
    assert as_lists(feeds[1].training(epoch=1, skip=1)) == epochs[1][1:]


def test_rows_with_nothing_to_predict_are_left_out_and_a_feed_of_nothing_else_is_refused(tmp_path: Path) -> None:
    mixed = write_file(tmp_path, "m.parquet", [[UNK, UNK], [UNK, 9], [9], []], width=2)
    (rows,) = read_shard(Shard((mixed,)))
    assert rows.token_ids.tolist() == [[UNK, 9]]
    # the table keeps more of a client than the encoder reads: of this one's last two events none is known
    longer = write_file(tmp_path, "l.parquet", [[3, UNK, UNK], [4, 5, 6]], width=2)
    (rows,) = read_shard(Shard((longer,)))
    assert rows.token_ids.tolist() == [[5, 6]]
    empty = write_file(tmp_path, "e.parquet", [[UNK, UNK]], width=2)
    with pytest.raises(TrainingError, match=r"none of 1 training sequences holds .*e\.parquet.*; lower .*min_count"):
        parquet_feed([empty])


def test_a_rank_whose_own_rows_have_nothing_to_predict_repeats_anothers(tmp_path: Path) -> None:
    file = write_file(tmp_path, "f.parquet", [[UNK, UNK], [UNK, 9]], width=2)
    feeds = [ParquetFeed([file], [], 4, SETTINGS, rank, 2, seed=1) for rank in range(2)]
    assert [as_lists(feed.training(epoch=1)) for feed in feeds] == [[[[UNK, 9]]]] * 2


@NEEDS_OUR_ORDER
@pytest.mark.parametrize("epoch", [1, 2])
def test_pyarrow_alone_gives_the_batches_of_petastorm_byte_for_byte(files: list[FeedFile], epoch: int) -> None:
    feeds = [parquet_feed(files, replace(SETTINGS, reader=reader)) for reader in ("petastorm", "arrow")]
    ours, theirs = ([batch.token_ids.tobytes() for batch in feed.training(epoch)] for feed in feeds)
    assert ours == theirs
    assert len(ours) > 3


@NEEDS_PETASTORM
def test_no_row_group_is_lost_to_petastorms_race(files: list[FeedFile], tmp_path: Path) -> None:
    """Petastorm hands out while it is read, at most four row groups ahead, and may report its end in between."""
    many = write_file(tmp_path, "many.parquet", numbered(100, 20), 4, row_group=1)
    with open_petastorm([many.url], ["token_ids"], seed=1) as reader:
        assert reader.ventilator.completed()
    for seed in range(1, 30):
        assert sum(len(rows) for rows in read_shard(Shard((files[0],)), seed)) == 20


@pytest.mark.parametrize("seed", [None, 4, 5])
def test_ranks_read_files_of_their_own_and_keep_different_rows_of_the_others(tmp_path: Path, seed: int | None) -> None:
    many = [write_file(tmp_path, f"f{number}.parquet", numbered(100 * number, 20), 4) for number in range(1, 6)]
    shards = deal_files(many, 4)
    assert [(len(shard.own), len(shard.files)) for shard in shards] == [(1, 1)] * 4
    kept = [token for shard in shards for token in last_tokens(read_shard(shard, seed))]
    assert sorted(kept) == [100 * number + row for number in range(1, 6) for row in range(20)]


@pytest.mark.parametrize("reader", READERS)
def test_of_few_files_ranks_read_row_groups_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reader: Reader
) -> None:
    """Two files of 13 row groups on four ranks: each reads 6 or 7 of its own, and no other."""
    decoded: set[int] = set()

    def counted(*values: Any) -> Iterator[pa.Table]:
        for rows in read_row_groups(*values):
            decoded.update(row[-1] for row in rows.column("token_ids").to_pylist())
            yield rows

    files = [
        write_file(tmp_path, f"{name}.parquet", numbered(first, 65), 4) for name, first in (("z", 100), ("a", 300))
    ]
    monkeypatch.setattr(parquet_feed_module, "read_row_groups", counted)
    trained, validated = [], []
    epochs: list[list[list[list[int]]]] = []
    for rank in range(4):
        feed = ParquetFeed(files, files, 16, replace(SETTINGS, reader=reader), rank, 4, seed=1)
        decoded.clear()
        epochs.append(as_lists(feed.training(epoch=1)))
        assert len(decoded) == (35, 35, 30, 30)[rank], "with whole files it is 130"
        assert len(epochs[-1]) == feed.n_batches
        assert as_lists(feed.training(epoch=1, skip=3)) == epochs[-1][3:]
        trained += [row[-1] for batch in epochs[-1] for row in batch]
        validated += last_tokens(feed.validation())
    expected = [first + row for first in (100, 300) for row in range(65)]
    assert sorted(validated) == expected
    assert set(trained) == set(expected)
    assert len(trained) - len(expected) <= 2 * 4
    assert len({len(epoch) for epoch in epochs}) == 1, "a rank with a step more waits for ever"
    if HAS_OUR_ORDER:
        other = replace(SETTINGS, reader="arrow" if reader == "petastorm" else "petastorm")
        assert as_lists(ParquetFeed(files, files, 16, other, 3, 4, seed=1).training(epoch=1)) == epochs[-1]


def test_of_many_files_one_is_open_at_a_time(tmp_path: Path) -> None:
    many = [write_file(tmp_path, f"f{number}.parquet", numbered(100, 2), 4) for number in range(30)]
    n_open = psutil.Process().num_fds()
    for _ in read_row_groups([file.url for file in many], ["token_ids"], 1, "arrow"):
        assert psutil.Process().num_fds() <= n_open + 2


def write_events(
    folder: Path, sequences: list[list[int]], width: int, n_chunks: int = 1, name: str = "events.parquet"
) -> FeedFile:
    """A file whose event types are the token ids' last digits, and times these times ten."""
    columns = {
        "token_ids": pa.array(sequences, pa.list_(pa.int32())),
        "event_types": pa.array([[token % 10 for token in row] for row in sequences], pa.list_(pa.int8())),
        "timestamps": pa.array([[token * 10 for token in row] for row in sequences], pa.list_(pa.int64())),
    }
    pq.write_table(pa.table(columns), folder / name, row_group_size=2)
    return FeedFile(f"file://{folder / name}", len(sequences) * n_chunks, width, n_chunks)


def test_event_types_and_times_come_aligned_with_the_tokens_to_an_encoder_that_reads_them(tmp_path: Path) -> None:
    file = write_events(tmp_path, [[11, 12, 13], [24, 25], [31, 32, 33]], width=4)
    feed = ParquetFeed([file], [file], 8, SETTINGS, 0, 1, seed=1, has_events=True)
    for batches in (feed.training(epoch=1), feed.validation()):
        for batch in batches:
            assert (batch.event_types.dtype, batch.timestamps.dtype) == (np.int8, np.int64)
            np.testing.assert_array_equal(batch.event_types, batch.token_ids % 10)
            np.testing.assert_array_equal(batch.timestamps, batch.token_ids * 10)
    assert all(batch.event_types is None for batch in parquet_feed([file]).training(epoch=1))
    own_and_shared = read_shard(Shard((file,), own=(file,)), columns=columns_to_read(has_events=True))
    assert [batch.event_types is None for batch in own_and_shared] == [False] * 4


@pytest.mark.parametrize("world_size", [1, 2])
def test_long_rows_train_in_consecutive_chunks_and_are_validated_by_their_end(tmp_path: Path, world_size: int) -> None:
    rows = [[first + number for number in range(length)] for first, length in ((10, 6), (30, 5), (50, 6))]
    training, held_out = write_events(tmp_path, rows, width=3, n_chunks=2), write_events(tmp_path, rows, width=3)
    short = write_events(tmp_path, [[71, 72]], width=3, name="a.parquet")
    trained, validated, n_batches = [], [], set()
    for rank in range(world_size):
        feed = ParquetFeed([short, training], [held_out], 6, SETTINGS, rank, world_size, seed=1, has_events=True)
        trained += [row for batch in as_lists(feed.training(epoch=1)) for row in batch]
        validated += [row for batch in as_lists(feed.validation()) for row in batch]
        n_batches.add(feed.n_batches)
    chunks = [[10, 11, 12], [13, 14, 15], [32, 33, 34], [50, 51, 52], [53, 54, 55]]
    assert sorted(trained) == [[PAD, 30, 31], [PAD, 71, 72], *chunks]
    assert sorted(validated) == [[13, 14, 15], [32, 33, 34], [53, 54, 55]]
    assert len(n_batches) == 1
    # of the chunks by the first row group: one of four has two tokens; a rank has all rows, or at most four of seven
    assert feed.length_counts.tolist() == pytest.approx({1: [0, 0, 2.5, 4.5], 2: [0, 0, 10 / 7, 18 / 7]}[world_size])


@pytest.mark.parametrize("batches_ahead", [0, 3])
def test_a_file_that_is_gone_or_damaged_or_holds_other_rows_is_an_error_of_the_caller(
    tmp_path: Path, batches_ahead: int
) -> None:
    settings = FeedSettings(batches_ahead=batches_ahead)
    gone = FeedFile(f"file://{tmp_path}/gone.parquet", 20, 4)
    with pytest.raises(TrainingError, match=r"cannot read .*gone\.parquet"):
        next(parquet_feed([gone], settings).training(epoch=1))
    file = write_file(tmp_path, "f.parquet", numbered(100, 20), 4)
    with pytest.raises(TrainingError, match="read 20 of 21 rows"):
        list(parquet_feed([FeedFile(file.url, 21, 4)], settings).training(epoch=1))
    content = Path(file.url[7:]).read_bytes()
    n_footer = int.from_bytes(content[-8:-4], "little") + 8
    Path(file.url[7:]).write_bytes(content[:4].ljust(len(content) - n_footer, b"\0") + content[-n_footer:])
    with pytest.raises(TrainingError, match="cannot read"):
        list(parquet_feed([file], settings).training(epoch=1))


def test_batches_mix_rows_of_several_row_groups() -> None:
    chunks = iter([SequenceBatch(np.full((10, 1), group, np.int32)) for group in range(20)])
    batches = list(shuffled_batches(chunks, 10, buffer_rows=80, generator=np.random.default_rng(0)))
    assert [len(batch) for batch in batches] == [10] * 20
    groups_per_batch = [len(np.unique(batch.token_ids)) for batch in batches]
    assert np.mean(groups_per_batch) > 5
    assert sorted(last_tokens(iter(batches))) == sorted(list(range(20)) * 10)


def test_a_rows_columns_are_mixed_together() -> None:
    chunk = SequenceBatch(np.arange(40).reshape(40, 1), timestamps=1000 + np.arange(40).reshape(40, 1))
    for batch in shuffled_batches(iter([chunk, chunk]), 7, buffer_rows=30, generator=np.random.default_rng(0)):
        assert np.array_equal(batch.timestamps, 1000 + batch.token_ids)


def test_so_many_batches_and_no_more_are_made_ahead_by_a_thread_that_closing_ends() -> None:
    made: list[int] = []
    is_made = threading.Semaphore(0)

    def batches() -> Iterator[SequenceBatch[Tokens]]:
        for number in range(100):
            made.append(threading.get_ident())
            is_made.release()
            yield SequenceBatch(np.full((1, 1), number, np.int32))

    ahead = read_ahead(batches(), 5)
    assert next(ahead).token_ids.item() == 0
    assert all(is_made.acquire(timeout=600) for _ in range(6))
    assert not is_made.acquire(timeout=0.02), "a seventh"
    assert threading.get_ident() not in made
    ahead.close()
    assert not [thread for thread in threading.enumerate() if thread.ident in made]


def test_an_error_of_the_thread_comes_instead_of_its_batch() -> None:
    def batches() -> Iterator[SequenceBatch[Tokens]]:
        yield SequenceBatch(np.zeros((1, 1), np.int32))
        raise TrainingError("broken")

    ahead = read_ahead(batches(), 5)
    next(ahead)
    with pytest.raises(TrainingError, match="broken"):
        next(ahead)


@pytest.mark.parametrize("buffer_rows", [1000, 40])
def test_rows_of_many_row_groups_meet_in_a_batch(buffer_rows: int) -> None:
    """Where the buffer holds all of them, as of a small table, and where half of it leaves at a time."""
    chunks = (SequenceBatch(np.full((10, 1), 3 + number)) for number in range(8))
    batches = list(shuffled_batches(chunks, 10, buffer_rows, np.random.default_rng(0)))
    groups = [set(batch.token_ids[:, 0].tolist()) for batch in batches]
    assert all(len(own) > 2 for own in groups)
    # none of the first four row groups is over before the fifth begins
    assert any(min(own) < 7 <= max(own) for own in groups)
