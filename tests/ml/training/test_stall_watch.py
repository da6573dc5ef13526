"""A rank that gets no batch ends itself; one that does lives, and shows it."""

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from ml.data.array_feed import ArrayFeed
from ml.data.sequence_batch import Sequences
from ml.training import stall_watch
from ml.training.stall_watch import STALLED, StallWatch, WatchedFeed

RANK = """
import sys, time
from pathlib import Path
from ml.training.stall_watch import StallWatch
with StallWatch(1.0, Path(sys.argv[1]).touch) as watch:
    for _ in range(int(sys.argv[2])):
        time.sleep(0.4)
        watch.note_progress()
    time.sleep(float(sys.argv[3]))
print("done")
"""


def rank(sign: Path, n_steps: int, pause: float) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([sys.executable, "-c", RANK, sign, str(n_steps), str(pause)], capture_output=True, text=True)


def test_a_rank_without_progress_ends_in_time_and_says_why(tmp_path: Path) -> None:
    began = time.monotonic()
    ended = rank(tmp_path / "alive", n_steps=4, pause=60)
    assert ended.returncode == STALLED
    assert "no progress in 1 s" in ended.stderr
    assert 2.5 < time.monotonic() - began < 20, "it lived as long as there was progress"
    assert (tmp_path / "alive").exists()


def test_a_rank_that_ends_in_time_is_left_alone(tmp_path: Path) -> None:
    assert rank(tmp_path / "alive", n_steps=1, pause=0.1).stdout == "done\n"


def test_a_folder_that_goes_away_for_a_while_does_not_end_the_watch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stall_watch, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(stall_watch, "_end_with_parent", lambda: None)
    sign = tmp_path / "mount" / "alive"
    with StallWatch(60, sign.touch):
        time.sleep(0.1)
        sign.parent.mkdir()
        deadline = time.monotonic() + 10
        while not sign.exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        assert sign.exists(), "progress that could not be shown is shown later"


def test_every_batch_of_a_watched_feed_is_progress() -> None:
    rows = Sequences.from_rows([[3, 4, 5]] * 6)
    feed = ArrayFeed(rows, rows, widths=(4,), tokens_per_batch=8, seed=0)
    watch = StallWatch(60)
    seen = []
    watch.note_progress = lambda: seen.append(1)  # type: ignore[method-assign]
    watched = WatchedFeed(feed, watch)
    assert watched.n_batches == feed.n_batches
    batches, plain = list(watched.training(1)), list(feed.training(1))
    assert all(np.array_equal(one.token_ids, other.token_ids) for one, other in zip(batches, plain, strict=True))
    assert len(seen) == len(batches) > 0
    assert len(list(watched.validation())) == len(list(feed.validation()))
    assert len(seen) > len(batches)


def test_batches_that_are_passed_over_are_progress_and_an_epoch_without_a_rest_reads_none() -> None:
    rows = Sequences.from_rows([[3, 4, 5]] * 12)
    feed = ArrayFeed(rows, rows, widths=(4,), tokens_per_batch=8, seed=0)
    watch, seen = StallWatch(60), []
    watch.note_progress = lambda: seen.append(1)  # type: ignore[method-assign]
    watched = WatchedFeed(feed, watch)
    assert feed.n_batches > 4
    rest, plain = list(watched.training(2, skip=3)), list(feed.training(2, skip=3))
    assert all(np.array_equal(one.token_ids, other.token_ids) for one, other in zip(rest, plain, strict=True))
    assert len(seen) == feed.n_batches == len(rest) + 3
    assert list(watched.training(2, skip=feed.n_batches)) == []
    assert len(seen) == feed.n_batches
