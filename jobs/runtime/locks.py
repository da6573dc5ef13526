"""Lock files: one run at a time of a stage on one output directory, whichever hosts mount it.

Nothing here needs locks of the file system, which on network mounts hold on one host alone: only that of two that make
a file of one name, one is told that it is there (``O_EXCL``).
"""

import contextlib
import json
import logging
import os
import signal
import socket
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import psutil

from ml.files.atomic import replace_text
from schemas.errors import OutputError

log = logging.getLogger(__name__)

LEASE_SECONDS = 600.0
"""A lock of another host that was not renewed for so long is nobody's: its driver, or its host, is lost."""
RENEW_SECONDS = 30.0
TURN_SECONDS = 60.0
"""Longest turn of ``taking_turns``, which is for moments; one that lasts longer was lost with its host."""
POLL_SECONDS = 0.02


@dataclass(frozen=True)
class Holder:
    """The process that holds a lock.

    Attributes
    ----------
    machine : host, its boot and its process numbers' name space: the same number elsewhere is another process
    pid, started : which process, and when it began (seconds since 1970): numbers are used again
    names : of what it holds
    """

    host: str
    machine: str
    pid: int
    started: float
    command: str
    since: str
    names: Sequence[str] = ()

    @classmethod
    def this(cls, command: str, names: Sequence[str] = ()) -> "Holder":
        """The process that calls."""
        now, started = datetime.now(UTC).isoformat(timespec="seconds"), psutil.Process().create_time()
        return cls(socket.gethostname(), _machine(), os.getpid(), started, command, now, list(names))

    @property
    def is_here(self) -> bool:
        """Whether it was of this machine."""
        return self.machine == _machine()

    def is_gone(self) -> bool:
        """Whether it surely runs no more: it was of this machine, and is not there."""
        if not self.is_here:
            return False
        try:
            return abs(psutil.Process(self.pid).create_time() - self.started) > 1.0
        except psutil.NoSuchProcess:
            return True


@contextlib.contextmanager
def locked(folder: Path, names: Sequence[str], command: str) -> Iterator[None]:
    """Keep every other process from what the names stand for until the block ends.

    One file in the folder, ``lock-*.json``, says who holds what, and is written anew while the holder runs. The lock
    of a process of this machine that died ends with it; that of another machine when it was not renewed for
    ``LEASE_SECONDS``. A process that finds its lock gone, as after a long sleep, interrupts itself.

    Raises
    ------
    OutputError
        If another process holds one of the names.
    """
    if not names:
        yield
        return
    path, text = folder / f"lock-{uuid.uuid4().hex[:12]}.json", json.dumps(asdict(Holder.this(command, names)))
    with taking_turns(folder / "lock.turn") as turn:
        now = turn.stat().st_mtime  # by the clock that stamps the others' files
        others = {lock: holder for lock in sorted(folder.glob("lock-*.json")) if (holder := _read_held(lock, now))}
        busy = {lock: holder for lock, holder in others.items() if set(names) & set(holder.names)}
        if busy:
            found = ", ".join(
                f"`{each.command}` there since {each.since}, process {each.pid} on {each.host}"
                for each in busy.values()
            )
            raise OutputError(
                f"expected no other run in {folder.parent}, found {found}; wait for its end, choose another --out, or, "
                f"if it surely runs no more, remove {', '.join(map(str, busy))}"
            )
        replace_text(path, text)
    is_done = threading.Event()
    renewal = threading.Thread(target=_renew, args=(path, text, is_done), name="lock", daemon=True)
    renewal.start()
    try:
        yield
    finally:
        is_done.set()
        renewal.join()
        with contextlib.suppress(OSError):
            path.unlink()


@contextlib.contextmanager
def taking_turns(path: Path) -> Iterator[Path]:
    """Make a file that no other process, on any host, makes this way until the block ends; for moments only."""
    path.parent.mkdir(parents=True, exist_ok=True)
    seen, since = None, time.monotonic()
    while True:
        try:
            with path.open("x") as file:
                file.write(json.dumps(asdict(Holder.this(path.name))))
            break
        except FileExistsError:
            found = _identity(path)
            if found != seen:
                seen, since = found, time.monotonic()
            elif found and (((holder := _read(path)) and holder.is_gone()) or time.monotonic() - since > TURN_SECONDS):
                _put_aside(path, found)
            time.sleep(POLL_SECONDS)
    mine = _identity(path)
    try:
        yield path
    finally:
        if _identity(path) == mine:  # else it lasted too long
            with contextlib.suppress(OSError):
                path.unlink()


def _renew(path: Path, text: str, is_done: threading.Event) -> None:
    while not is_done.wait(RENEW_SECONDS):
        with contextlib.suppress(OSError):  # a mount that is away for a while
            if path.exists():
                replace_text(path, text)
            elif path.parent.is_dir():
                log.error("the lock %s was removed, or taken over as nobody renewed it: this run ends", path)
                os.kill(os.getpid(), signal.SIGINT)
                return


def _read_held(path: Path, now: float) -> Holder | None:
    """Who holds a lock; None, and the file is removed, where nobody does any more."""
    holder = _read(path)
    if holder and not holder.is_gone():
        silent = now - path.stat().st_mtime
        if holder.is_here or silent <= LEASE_SECONDS:
            return holder
        log.warning("the lock of `%s` on %s is taken over: silent for %.0f s", holder.command, holder.host, silent)
    path.unlink(missing_ok=True)
    return None


def _put_aside(path: Path, abandoned: tuple[int, int]) -> None:
    """Remove a file, if it is still the one that was seen."""
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.old")
    with contextlib.suppress(OSError):  # another was first
        path.rename(aside)
        if _identity(aside) != abandoned:  # the turn of another, who was first
            os.link(aside, path)
    aside.unlink(missing_ok=True)


def _identity(path: Path) -> tuple[int, int] | None:
    with contextlib.suppress(OSError):
        found = path.stat()
        return found.st_ino, found.st_mtime_ns
    return None


def _machine() -> str:
    """Tells machines, their boots, and containers with process numbers of their own apart."""
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts.append(str(Path("/proc/self/ns/pid").readlink()))
    return " ".join(parts)


def _read(path: Path) -> Holder | None:
    """Who wrote the file; None if it is gone, of an earlier version, or its process died while it wrote this."""
    try:
        return Holder(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
