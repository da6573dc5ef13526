"""A rank that gets no batch ends itself; one that does lives, and shows it."""

import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from ml.data.array_feed import ArrayFeed
from ml.data.sequence_batch import Sequences
from ml.training import stall_watch
from ml.training.stall_watch import STALLED, StallWatch, WatchedFeed

RANK = """
import sys, time
from types import SimpleNamespace
from ml.training import stall_watch

seconds, n_looks = 1.0, 0

def clock():  # it stands still while the rank is slow
    global n_looks
    n_looks += 1
    return seconds

def be_seen():  # the watch has acted on what it saw at the first of two looks
    before = n_looks
    while n_looks < before + 2:
        time.sleep(0.001)

stall_watch.time = SimpleNamespace(monotonic=clock)
stall_watch.POLL_SECONDS = 0.01
with stall_watch.StallWatch(10.0) as watch:
    for pause in map(int, sys.argv[1:]):
        seconds += pause
        be_seen()
        watch.note_progress()
        be_seen()
        print(pause, flush=True)
"""


def rank(*pauses: int) -> "subprocess.CompletedProcess[str]":
    """A rank that may pause for 10 seconds, by a clock of its own."""
    return subprocess.run([sys.executable, "-c", RANK, *map(str, pauses)], capture_output=True, text=True)


def test_a_rank_without_progress_ends_and_says_why() -> None:
    ended = rank(9, 9, 9, 11)
    assert (ended.returncode, ended.stdout) == (STALLED, "9\n9\n9\n"), "it lived as long as there was progress"
    assert "no progress in 10 s" in ended.stderr


def test_a_rank_that_ends_in_time_is_left_alone() -> None:
    ended = rank(9, 9)
    assert (ended.returncode, ended.stdout) == (0, "9\n9\n"), ended.stderr


def test_a_folder_that_goes_away_for_a_while_does_not_end_the_watch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stall_watch, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(stall_watch, "_end_with_parent", lambda: None)
    path, tried, shown = tmp_path / "mount" / "alive", threading.Event(), threading.Event()

    def sign() -> None:
        tried.set()
        path.touch()
        shown.set()

    with StallWatch(3600, sign):
        assert tried.wait(600)
        assert not shown.is_set()
        path.parent.mkdir()
        assert shown.wait(600), "progress that could not be shown is shown later"


def test_every_batch_of_a_watched_feed_is_progress_and_so_are_those_that_are_passed_over() -> None:
    rows = Sequences.from_rows([[3, 4, 5]] * 12)
    feed = ArrayFeed(rows, rows, widths=(4,), tokens_per_batch=8, seed=0)
    watch, seen = StallWatch(60), []
    watch.note_progress = lambda: seen.append(1)  # type: ignore[method-assign]
    watched = WatchedFeed(feed, watch)
    assert watched.n_batches == feed.n_batches > 4
    for skip in (0, 3):
        seen.clear()
        rest, plain = list(watched.training(2, skip)), list(feed.training(2, skip))
        assert all(np.array_equal(one.token_ids, other.token_ids) for one, other in zip(rest, plain, strict=True))
        assert len(seen) == feed.n_batches == len(rest) + skip
    seen.clear()
    assert list(watched.training(2, skip=feed.n_batches)) == []
    assert seen == [], "an epoch without a rest reads none"
    assert len(list(watched.validation())) == len(list(feed.validation())) == len(seen) > 0
