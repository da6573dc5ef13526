"""One run at a time on one output directory."""

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
class Owner:
    """The process that works in an output directory.

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
    def this(cls, command: str) -> "Owner":
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
def claimed(path: Path, command: str) -> Iterator[None]:
    """Work in an output directory until the block ends, alone.

    The file holds the owner; an owner that died without a word is replaced if it was of this machine. The file's lock
    is held only while it is read and written: the claim itself needs nothing of a mounted file system but that files
    written on one host are read on another. Without file locks, two runs that begin in the same instant both go on.

    Raises
    ------
    OutputError
        If another process works there.
    """
    me = Owner.this(command)
    with path.open("a+") as file, _locked(file):
        other = _read(file)
        if other and not other.is_gone():
            raise OutputError(
                f"expected to work in {path.parent.parent} alone, found `{other.command}` there since {other.since}, "
                f"process {other.pid} on {other.host}; wait for its end, choose another --out, or, if it surely runs "
                f"no more, remove {path}"
            )
        _write(file, json.dumps(asdict(me)))
    try:
        yield
    finally:
        with contextlib.suppress(OSError), path.open("r+") as file, _locked(file):
            if _read(file) == me:
                _write(file, "")


def _machine() -> str:
    """Tells machines, their boots, and containers with process numbers of their own apart."""
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts.append(str(Path("/proc/self/ns/pid").readlink()))
    return " ".join(parts)


@contextlib.contextmanager
def _locked(file: TextIO) -> Iterator[None]:
    with contextlib.suppress(OSError):  # a file system without locks
        fcntl.flock(file, fcntl.LOCK_EX)
    yield  # closing the file gives the lock back


def _read(file: TextIO) -> Owner | None:
    """The owner; None where there is none, or its process died while it wrote this."""
    file.seek(0)
    try:
        return Owner(**json.loads(file.read()))
    except (ValueError, TypeError):
        return None


def _write(file: TextIO, text: str) -> None:
    file.seek(0)
    file.truncate()
    file.write(text)
    file.flush()
