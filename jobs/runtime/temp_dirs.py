"""A private folder for the files that Spark and its JVM need while they run: events pass through them."""

import atexit
import contextlib
import fcntl
import functools
import shutil
import tempfile
from pathlib import Path

PREFIX = "ubp-"
LOCK = ".held"  # earlier versions called it so too: their leftovers are found by it


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

    def remove() -> None:
        shutil.rmtree(folder, ignore_errors=True)
        lock.close()  # open until now: Python would close a file that nothing refers to, and give up its lock

    atexit.register(remove)
    return folder


def remove_abandoned() -> None:
    """Remove such folders of this user whose process has ended."""
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError), (folder / LOCK).open("r+") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
