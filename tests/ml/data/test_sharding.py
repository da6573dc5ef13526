"""Who reads what: every row once, and the same number of steps for everyone."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml.data.sharding import (
    FeedFile,
    Shard,
    deal_files,
    training_shard,
    width_schedule,
)

FILES = [FeedFile(f"file{number}", n_rows, 8) for number, n_rows in enumerate([70, 10, 64, 66, 130, 61])]


def rows_of(shard: Shard) -> list[tuple[str, int | None, int]]:
    rows, own = (
        [(file.url, file.row_group, row) for file in files for row in range(file.n_rows)]
        for files in (shard.files, shard.own)
    )
    return rows[shard.offset :: shard.stride] + own


@pytest.mark.parametrize("world_size", [1, 2, 3, 5, 8])
@pytest.mark.parametrize("n_files", [1, 2, 3, 6])
def test_every_row_is_in_exactly_one_shard(world_size: int, n_files: int) -> None:
    shards = deal_files(FILES[:n_files], world_size)
    rows = [row for shard in shards for row in rows_of(shard)]
    assert sorted(rows) == sorted((file.url, None, row) for file in FILES[:n_files] for row in range(file.n_rows))
    assert [shard.n_rows for shard in shards] == [len(rows_of(shard)) for shard in shards]


def test_files_are_dealt_out_whole_where_that_is_fair() -> None:
    shards = deal_files(FILES, 2)
    assert all(shard.stride == 1 for shard in shards)
    assert [shard.n_rows for shard in shards] == [204, 197]


@pytest.mark.parametrize("spread", [0, 100])
def test_of_many_files_ranks_read_their_own_and_share_what_is_left(spread: int) -> None:
    sizes = np.random.default_rng(0).integers(1000 - spread, 1001 + spread, 400).tolist()
    files = [FeedFile(f"file{number}", n_rows, 8) for number, n_rows in enumerate(sizes)]
    shards = deal_files(files, 64)
    own = [file.url for shard in shards for file in shard.own]
    assert len(own) == len(set(own)) > 300
    assert all(len(shard.own) + len(shard.files) < 100 for shard in shards), "each read all 400"
    assert {shard.files for shard in shards} == {shards[0].files}
    assert max(shard.n_rows for shard in shards) * 64 <= 1.1 * sum(sizes)
    rows = [row for shard in shards for row in rows_of(shard)]
    assert len(rows) == len(set(rows)) == sum(sizes)


@given(
    st.lists(st.lists(st.integers(0, 50), max_size=12), min_size=1, max_size=9),
    st.integers(1, 16),
    st.integers(1, 3),
)
@settings(max_examples=50)
def test_whatever_the_files_and_their_row_groups_each_row_is_in_one_shard(
    groups: list[list[int]], world_size: int, n_chunks: int
) -> None:
    files = [
        FeedFile(f"file{number}", n_chunks * sum(rows), 8, n_chunks, tuple(rows)) for number, rows in enumerate(groups)
    ]
    shards = deal_files(files, world_size)
    units = {(file.url, file.row_group): file.n_rows for shard in shards for file in (*shard.files, *shard.own)}
    rows = [row for shard in shards for row in rows_of(shard)]
    assert sorted(rows, key=str) == sorted(
        ((*unit, row) for unit, n_rows in units.items() for row in range(n_rows)), key=str
    )
    assert len(rows) == sum(file.n_rows for file in files)
    assert len({file.row_group is None for shard in shards for file in shard.files if file.n_rows}) <= 1
    assert shards == deal_files(files, world_size), "each rank deals for itself"


def test_row_groups_are_dealt_out_where_there_are_too_few_files() -> None:
    """Of 88 full row groups 64 ranks get one each, and share 24."""
    files = [FeedFile(f"file{number}", 11_100, 64, group_rows=(1000,) * 11 + (100,)) for number in range(8)]
    shards = deal_files(files, 64)
    assert {(len(shard.own), len(shard.files)) for shard in shards} == {(1, 24), (2, 24)}, "each read all 96"
    assert max(shard.n_rows for shard in shards) * 64 <= 1.1 * 8 * 11_100
    assert [len(shard.files) for shard in deal_files(files, 1)] == [8], "one rank reads whole files, as ever"
    assert repr(files[0]) == repr(FeedFile("file0", 11_100, 64)), "or a killed training would begin anew"


def test_few_or_unequal_files_are_shared_row_by_row() -> None:
    shards = deal_files(FILES[:1], 2)
    assert [shard.n_rows for shard in shards] == [35, 35]


def test_a_rank_without_a_row_repeats_another_ranks_row() -> None:
    two_rows = [FeedFile("file", 2, 8)]
    assert [shard.n_rows for shard in deal_files(two_rows, 3)] == [1, 1, 0]
    assert [training_shard(two_rows, rank, 3).offset for rank in range(3)] == [0, 1, 0]


def test_the_schedule_has_every_step_and_changes_with_the_epoch() -> None:
    steps = {8: 30, 32: 10}
    first, again, next_epoch = (width_schedule(steps, 7, epoch) for epoch in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, next_epoch)
    assert dict(zip(*np.unique(first, return_counts=True), strict=True)) == steps
