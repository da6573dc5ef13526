"""Ends a rank that makes no progress, so that a stall becomes a failure that can be restarted."""

import contextlib
import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from ml.data.sequence_batch import Batches, Feed
from schemas.errors import OutputError

STALLED = 75
"""Exit code of a rank that ended itself (EX_TEMPFAIL of sysexits.h)."""
POLL_SECONDS = 1.0
PR_SET_PDEATHSIG = 1
"""Of Linux' prctl: the signal that a process gets when its parent ends."""


class StallWatch:
    """Ends this process when no batch was asked for in so many seconds, or when the process that started it is gone.

    Ranks wait for each other in every step. If one of them stalls, all do, and each of them that still runs ends
    itself; whoever started them then kills the one that does not.

    Parameters
    ----------
    seconds : more than a step, a checkpoint's write and the wait for a batch may take together
    sign : called now and then while there is progress; None for nothing
    sign_seconds : least time between two such calls
    """

    def __init__(self, seconds: float, sign: Callable[[], None] | None = None, sign_seconds: float = 0.0) -> None:
        self._seconds, self._sign, self._sign_seconds = seconds, sign, sign_seconds
        self._latest = time.monotonic()
        self._is_done = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="stall watch", daemon=True)

    def __enter__(self) -> "StallWatch":
        _end_with_parent()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_done.set()
        self._thread.join()

    def note_progress(self) -> None:
        """Begin to count anew."""
        self._latest = time.monotonic()

    def _loop(self) -> None:
        # the first sign is given at once
        signed, asked = 0.0, -self._sign_seconds
        while not self._is_done.wait(min(POLL_SECONDS, self._seconds / 4)):
            latest = self._latest
            if self._sign and latest > signed and time.monotonic() - asked >= self._sign_seconds:
                asked = time.monotonic()
                # a mount or store that does not answer for a while must not end the watch
                with contextlib.suppress(OSError, OutputError):
                    self._sign()
                    signed = latest
            if time.monotonic() - latest > self._seconds:
                reason = f"no progress in {self._seconds:g} s: this rank or one that it waits for has stalled"
                print(f"rank ends: {reason}", file=sys.stderr, flush=True)  # noqa: T201
                # not sys.exit: a thread that waits in a library's exchange would not let the process end
                os._exit(STALLED)


class WatchedFeed:
    """A feed whose every batch is progress, also those that are passed over on the way to where a run goes on."""

    def __init__(self, feed: Feed, watch: StallWatch) -> None:
        self._feed, self._watch, self.n_batches = feed, watch, feed.n_batches

    @property
    def length_counts(self) -> NDArray[np.float64]:
        """The feed's."""
        return self._feed.length_counts

    def training(self, epoch: int, skip: int = 0) -> Batches:
        """The feed's."""
        if skip >= self.n_batches:  # nothing is left of the epoch: nothing is read
            return self._watched(self._feed.training(epoch, skip))
        # skipped here and not by the feed: to pass over many batches takes long, and each of them is progress
        return self._watched(self._feed.training(epoch), skip)

    def validation(self) -> Batches:
        """The feed's."""
        return self._watched(self._feed.validation())

    def _watched(self, batches: Batches, skip: int = 0) -> Batches:
        with contextlib.closing(batches):
            for number, batch in enumerate(batches):
                self._watch.note_progress()
                if number >= skip:
                    yield batch


def _end_with_parent() -> None:
    """Have the kernel kill this process with the one that started it: a stopped one could not end itself."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
