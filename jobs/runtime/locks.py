"""Lock files: one run at a time on one output directory."""

import contextlib
import fcntl
import json
import os
import socket
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TextIO

import psutil

from schemas.errors import OutputError


@dataclass(frozen=True)
class Holder:
    """The process that holds a lock.

    Attributes
    ----------
    machine : host, its boot and its process numbers' name space: the same number elsewhere is another process
    pid, started : which process, and when it began (seconds since 1970): numbers are used again
    """

    host: str
    machine: str
    pid: int
    started: float
    command: str
    since: str

    @classmethod
    def this(cls, command: str) -> "Holder":
        """The process that calls."""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        return cls(socket.gethostname(), _machine(), os.getpid(), psutil.Process().create_time(), command, now)

    def is_gone(self) -> bool:
        """Whether it surely runs no more: it was of this machine, and is not there."""
        if self.machine != _machine():
            return False
        try:
            return abs(psutil.Process(self.pid).create_time() - self.started) > 1.0
        except psutil.NoSuchProcess:
            return True


@contextlib.contextmanager
def locked(path: Path, command: str) -> Iterator[None]:
    """Keep every other process from what a lock file stands for until the block ends.

    The file names who holds the lock; a process of this machine that died without a word holds it no more. The file
    system's own lock is held only while the file is read and written: ours needs nothing of a mounted file system but
    that files written on one host are read on another. Without file locks, two runs that begin in the same instant
    both go on.

    Raises
    ------
    OutputError
        If another process holds the lock.
    """
    me = Holder.this(command)
    with taking_turns(path) as file:
        other = _read(file)
        if other and not other.is_gone():
            raise OutputError(
                f"expected no other run in {path.parent.parent}, found `{other.command}` there since {other.since}, "
                f"process {other.pid} on {other.host}; wait for its end, choose another --out, or, if it surely runs "
                f"no more, remove {path}"
            )
        file.truncate(0)
        file.write(json.dumps(asdict(me)))  # appended, so at the file's new beginning
    try:
        yield
    finally:
        with contextlib.suppress(OSError), taking_turns(path) as file:
            if _read(file) == me:  # else somebody removed the file by hand, and another run made it anew
                file.truncate(0)


@contextlib.contextmanager
def taking_turns(path: Path) -> Iterator[TextIO]:
    """A file, made if need be, that no other process opens this way until the block ends.

    Not so on file systems without locks: there nobody waits.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as file:
        with contextlib.suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        yield file  # closing it writes what is still in memory, then gives the lock back


def _machine() -> str:
    """Tells machines, their boots, and containers with process numbers of their own apart."""
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts.append(str(Path("/proc/self/ns/pid").readlink()))
    return " ".join(parts)


def _read(file: TextIO) -> Holder | None:
    """Who holds the lock; None if nobody does, or its process died while it wrote this."""
    file.seek(0)
    try:
        return Holder(**json.loads(file.read()))
    except (ValueError, TypeError):
        return None
