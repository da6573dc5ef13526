"""A private folder for the files that Spark and its JVM need while they run: events pass through them."""

import atexit
import contextlib
import fcntl
import functools
import shutil
import tempfile
from pathlib import Path

PREFIX = "ubp-"
LOCK = ".held"  # the name that it had from the first on: leftovers of earlier versions go too


@functools.cache
def scratch_folder() -> Path:
    """The process' own folder among the temporary ones: only its user may look into it, and it ends with the process.

    What processes that were killed have left is removed first.
    """
    remove_abandoned()
    folder = Path(tempfile.mkdtemp(prefix=PREFIX))  # mode 0700
    made = folder / f"{LOCK}.new"
    lock = made.open("w")
    fcntl.flock(lock, fcntl.LOCK_EX)  # until the process ends, however it does
    # renamed once it is locked: a process that starts meanwhile would take a file without a lock for an abandoned one
    made.rename(folder / LOCK)
    atexit.register(_remove, folder, lock)
    return folder


def remove_abandoned() -> None:
    """Remove such folders of this user whose process has ended."""
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError), (folder / LOCK).open("r+") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)


def _remove(folder: Path, lock: object) -> None:
    """``lock`` is passed to stay open until now."""
    shutil.rmtree(folder, ignore_errors=True)
