"""Lock files: one run at a time of a stage on one output directory, whichever hosts mount it or reach its store.

Locks of the file system are not used: on network mounts they hold on one host alone. One rule is enough: of two
processes that create a file of one name, one fails (``O_EXCL``, or a store's ``If-None-Match``).
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
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path

import psutil

from ml.files.notes import Notes
from ml.files.store import patience
from schemas.errors import OutputError

log = logging.getLogger(__name__)

LEASE_SECONDS = 600.0
"""A lock of another host that was not renewed for so long counts no more: its driver, or its host, is lost."""
RENEW_SECONDS = 30.0
TURN_SECONDS = 60.0
"""Longest turn of ``taking_turns``, which is for moments; one that lasts longer was lost with its host."""
TURN_PATIENCE_SECONDS = TURN_SECONDS / 4
"""For so long a call of a store is tried again within a turn: what waits longer would lose it."""


@dataclass(frozen=True)
class Holder:
    """The process that holds a lock.

    Attributes
    ----------
    machine : host, its boot and its process numbers' name space: the same number elsewhere is another process
    pid, started : which process, and when it began (seconds after the boot): numbers are used again
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
        now, pid = datetime.now(UTC).isoformat(timespec="seconds"), os.getpid()
        return cls(socket.gethostname(), _machine(), pid, _started(pid), command, now, list(names))

    @property
    def is_here(self) -> bool:
        """Whether it was of this machine."""
        return self.machine == _machine()

    def is_gone(self) -> bool:
        """Whether it surely runs no more: it was of this machine, and is not there."""
        if not self.is_here:
            return False
        try:
            return abs(_started(self.pid) - self.started) > 0.1
        except psutil.NoSuchProcess:
            return True


def _started(pid: int) -> float:
    """When a process began, in seconds after the boot."""
    # psutil adds the time of the boot, which is another one as soon as the clock was set: a live run would seem gone.
    # First, for its earlier versions add what this call found last
    booted = psutil.boot_time()
    return psutil.Process(pid).create_time() - booted


@contextlib.contextmanager
def locked(notes: Notes, names: Sequence[str], command: str, out: str) -> Iterator[Callable[[], bool]]:
    """Keep every other process from what the names stand for until the block ends.

    One note, ``lock-*.json``, says who holds what, and is written anew while the holder runs. The lock
    of a process of this machine that died ends with it; that of another machine when it was not renewed for
    ``LEASE_SECONDS``. A process that finds its lock gone, as after a long sleep, interrupts itself.

    Parameters
    ----------
    out : how messages call the output directory

    Yields
    ------
    Says whether the lock is still this process' own: where it is not, nothing more may be written.

    Raises
    ------
    OutputError
        If another process holds one of the names.
    """
    if not names:
        yield lambda: True
        return
    mine, text = f"lock-{uuid.uuid4().hex[:12]}.json", json.dumps(asdict(Holder.this(command, names)))
    # in turns: of two that look at once, each would find nobody
    with taking_turns(notes, "lock.turn") as is_our_turn:
        now = notes.written("lock.turn")  # by the clock that stamps the others' notes
        others = {lock: holder for lock in notes.names("lock-") if (holder := _read_held(notes, lock, now))}
        busy = {lock: holder for lock, holder in others.items() if set(names) & set(holder.names)}
        if busy:
            found = ", ".join(
                f"`{each.command}` there since {each.since}, process {each.pid} on {each.host}"
                for each in busy.values()
            )
            raise OutputError(
                f"expected no other run in {out}, found {found}; wait for its end, choose another --out, or, "
                f"if it surely runs no more, remove {', '.join(f'{notes}/{lock}' for lock in busy)}"
            )
        if not is_our_turn():
            raise lost_turn(notes, "lock.turn")
        notes.write(mine, text)
    is_done = threading.Event()
    renewal = threading.Thread(target=_renew, args=(notes, mine, text, is_done), name="lock", daemon=True)
    renewal.start()
    try:
        yield lambda: bool(notes.identity(mine))
    finally:
        is_done.set()
        # a renewal that hangs, as on a mount that does not answer, is not waited for
        renewal.join(RENEW_SECONDS)
        # a lock that stays is taken over later; what the block raised must not give way to this
        with contextlib.suppress(OSError, OutputError), patience(RENEW_SECONDS):
            notes.remove(mine)


@contextlib.contextmanager
def taking_turns(notes: Notes, name: str) -> Iterator[Callable[[], bool]]:
    """Make a note that no other process, on any host, makes this way until the block ends; for moments only.

    Yields
    ------
    Says whether the turn is still ours, to be asked before the first write: of a host that slept, another took it.
    """
    seen, since = None, time.monotonic()
    while True:
        try:
            # a text of its own, as ``create`` asks
            notes.create(name, json.dumps(asdict(Holder.this(name, [uuid.uuid4().hex]))))
            break
        except FileExistsError:
            found = notes.identity(name)
            if found != seen:
                # another one's turn: the wait begins anew
                seen, since = found, time.monotonic()
            elif found and (_is_lost(notes, name) or time.monotonic() - since > TURN_SECONDS):
                notes.remove_if(name, found)
            time.sleep(notes.poll_seconds)
    mine = notes.identity(name)
    try:
        with patience(TURN_PATIENCE_SECONDS):
            yield lambda: notes.identity(name) == mine
    finally:
        # a turn that lasted too long is another process' by now
        with contextlib.suppress(OSError):
            if notes.identity(name) == mine:
                notes.remove(name)


def lost_turn(notes: Notes, name: str) -> OutputError:
    """The error of a turn that another process has taken over, before anything was written in it."""
    return OutputError(
        f"{notes}/{name}: expected to be done within {TURN_SECONDS:.0f} s, found that another process has taken over: "
        "this host slept, or its mount or store is slow; run again"
    )


def _is_lost(notes: Notes, name: str) -> bool:
    """Whether the process whose turn it is surely runs no more; not where its note cannot be read now."""
    with contextlib.suppress(OSError):
        holder = _read(notes, name)
        return holder is not None and holder.is_gone()
    return False


def _renew(notes: Notes, mine: str, text: str, is_done: threading.Event) -> None:
    while not is_done.wait(RENEW_SECONDS):
        # a mount or store that does not answer for a while: the next renewal is the next try
        with contextlib.suppress(OSError, OutputError), patience(0):
            if notes.identity(mine):
                notes.write(mine, text)
            elif notes.is_there():
                log.error("the lock %s/%s was removed, or taken over as nobody renewed it: this run ends", notes, mine)
                # as Ctrl-C, which ends the main thread and its Spark jobs
                os.kill(os.getpid(), signal.SIGINT)
                return


def _read_held(notes: Notes, lock: str, now: float) -> Holder | None:
    """Who holds a lock; None, and the note is removed, where nobody does any more."""
    try:
        holder = _read(notes, lock)
        silent = now - notes.written(lock)
    except FileNotFoundError:  # its work has just ended
        return None
    except OSError as error:  # of another user, or of a mount that is away for a moment: its process may well run
        raise OutputError(
            f"{notes}/{lock}: expected a lock that can be read, found: {error}; run again, or fix its permissions"
        ) from error
    if holder is None and silent <= LEASE_SECONDS:  # of another version of ubp, which may well run
        raise OutputError(
            f"{notes}/{lock}: expected a lock of this version, found another text, written {silent:.0f} s ago; wait "
            f"for the end of that run, or, if it surely runs no more, for {LEASE_SECONDS - silent:.0f} s, or remove it"
        )
    if holder and not holder.is_gone():
        if holder.is_here or silent <= LEASE_SECONDS:
            return holder
        log.warning("the lock of `%s` on %s is taken over: silent for %.0f s", holder.command, holder.host, silent)
    with contextlib.suppress(FileNotFoundError):
        notes.remove(lock)
    return None


def _machine() -> str:
    """Tells machines, their boots, and containers with process numbers of their own apart."""
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts.append(str(Path("/proc/self/ns/pid").readlink()))
    return " ".join(parts)


def _read(notes: Notes, name: str) -> Holder | None:
    """Who wrote the note; None if another version did, or its process died meanwhile; OSError if it is not there."""
    try:
        values = json.loads(notes.read(name))
        return Holder(**{each.name: values[each.name] for each in fields(Holder)})  # a later version may tell more
    except (ValueError, TypeError, KeyError):
        return None
