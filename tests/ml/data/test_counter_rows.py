"""Rows of counters from Parquet files: labels, and who reads what."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ml.data.counter_rows import CounterFeed, RowLayout
from ml.data.sharding import FeedFile
from schemas.errors import TrainingError

LAYOUT = RowLayout(n_views=2, n_counters=1, sizes=(1, 2, 1))


def table(first: int, labels: list[list[int] | None]) -> pa.Table:
    """Rows that are numbered, each with a view that has the negative number."""
    numbers = [np.array([first + row, -first - row], np.float32).tobytes() for row in range(len(labels))]
    is_active = pa.array([row % 2 == 0 for row in range(len(labels))])
    return pa.table(
        {"numbers": pa.array(numbers), "is_active": is_active, "labels": pa.array(labels, pa.list_(pa.int32()))}
    )


def test_labels_are_churn_then_what_is_bought_and_heads_are_asked_of_their_clients() -> None:
    rows = LAYOUT.rows(table(5, [None, [0, 2], [], [1]]))
    assert rows.numbers.tolist() == [[[5], [-5]], [[6], [-6]], [[7], [-7]], [[8], [-8]]]
    assert rows.labels.tolist() == [[1, 0, 0, 0], [0, 1, 0, 1], [0, 0, 0, 0], [0, 0, 1, 0]]
    assert rows.is_counted.tolist() == [[1, 0, 0], [0, 1, 1], [1, 0, 0], [0, 1, 0]]


@pytest.mark.parametrize("sizes", [(7, 7), (20,), (1,), (9, 9, 9, 2)])
def test_ranks_read_each_row_once_in_as_many_batches(tmp_path: Path, sizes: tuple[int, ...]) -> None:
    files = []
    for number, n_rows in enumerate(sizes):
        first = sum(sizes[:number])
        pq.write_table(table(first, [None] * n_rows), tmp_path / f"{number}.parquet", row_group_size=4)
        files.append(FeedFile((tmp_path / f"{number}.parquet").as_uri(), n_rows, 1))
    read = []
    for rank in range(2):
        feed, again = (CounterFeed(files, LAYOUT, 4, "arrow", rank, 2, seed=3) for _ in range(2))
        epochs = [[batch.numbers[:, 0, 0].tolist() for batch in feed.training(epoch)] for epoch in (1, 2)]
        assert epochs[0] == [batch.numbers[:, 0, 0].tolist() for batch in again.training(1)]
        assert all(len(epoch) == feed.n_batches for epoch in epochs)
        assert sum(sizes) < 8 or epochs[0] != epochs[1]
        read.append(epochs[0])
    assert len(read[0]) == len(read[1])
    assert {row for rank in read for batch in rank for row in batch} == set(range(sum(sizes)))
    n_read = sum(len(batch) for rank in read for batch in rank)
    assert n_read <= sum(sizes) + 4  # a rank with fewer rows starts over


def test_a_file_of_other_rows_than_was_said_is_refused(tmp_path: Path) -> None:
    pq.write_table(table(0, [None] * 3), tmp_path / "0.parquet")
    feed = CounterFeed([FeedFile((tmp_path / "0.parquet").as_uri(), 5, 1)], LAYOUT, 4, "arrow", 0, 1, seed=3)
    with pytest.raises(TrainingError, match="read 3 of 5 rows"):
        list(feed.training(1))
