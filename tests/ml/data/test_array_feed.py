"""The feed from memory; what holds for every feed is in test_parquet_feed.py."""

import subprocess
import sys

import numpy as np
import pytest

from ml.data.array_feed import ArrayFeed
from ml.data.sequence_batch import Sequences
from schemas.errors import TrainingError
from schemas.tokens import PAD, UNK

NONE = Sequences.from_rows([])


def test_a_row_goes_to_the_smallest_width_that_holds_it_and_longer_ones_keep_their_last_tokens() -> None:
    rows = Sequences.from_rows([[3, 4], [3, 4, 5], [3, 4, 5, 6, 7, 8]])
    batches = [batch.token_ids.tolist() for batch in ArrayFeed(rows, rows, (1, 2, 4), 4, seed=0).validation()]
    assert batches == [[[3, 4]], [[PAD, 3, 4, 5]], [[5, 6, 7, 8]]]


def test_rows_with_nothing_to_predict_are_left_out_and_a_feed_of_nothing_else_is_refused() -> None:
    useless = [[9], [UNK, UNK], [], [9, UNK, UNK]]  # of the last, two events are read
    rows = Sequences.from_rows([*useless, [UNK, 9]])
    feed = ArrayFeed(rows, rows, (1, 2), 4, seed=0)
    assert [batch.token_ids.tolist() for batch in feed.training(epoch=1)] == [[[UNK, 9]]]
    assert [batch.token_ids.tolist() for batch in feed.validation()] == [[[UNK, 9]]]
    with pytest.raises(TrainingError, match="none of 4 training sequences"):
        ArrayFeed(Sequences.from_rows(useless), NONE, (1, 2), 4, seed=0)


def test_ranks_have_as_many_rows_where_these_are_fewer_than_ranks() -> None:
    rows = Sequences.from_rows([[3, 4], [3, 5]])
    feeds = [ArrayFeed(rows, NONE, (2,), 4, seed=0, rank=rank, world_size=3) for rank in range(3)]
    seen = [batch.token_ids[:, -1].tolist() for feed in feeds for batch in feed.training(epoch=1)]
    assert [len(tokens) for tokens in seen] == [1, 1, 1]
    assert set(np.ravel(seen)) == {4, 5}


def test_it_needs_neither_petastorm_nor_pyarrow_nor_torch() -> None:
    heavy = "{'petastorm', 'pyarrow', 'pandas', 'torch', 'pyspark'}"
    code = f"import sys, ml.data.array_feed; print({heavy} & set(sys.modules))"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "set()"
