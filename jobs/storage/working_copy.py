"""The plain files of an ``--out`` that takes whole files only: a copy on this machine, filled from it and copied back.

Single files are copied one by one. A model or an entry is a folder whose files belong together: beside them the store
has ``.complete``, which names them. It goes first and comes last, so that no reader takes a half for a whole.
"""

import fcntl
import json
import logging
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from jobs.runtime.locks import lost_turn, taking_turns
from ml.files.atomic import replace_text
from ml.files.notes import StoreNotes
from ml.files.store import Store, StoredFile
from schemas.errors import OutputError

log = logging.getLogger(__name__)

COMPLETE = ".complete"
STATE = ".store.json"
METRICS = "metrics.jsonl"
UNITS = ("models", "entries", "ablation")
"""Their folders are whole or not there."""
SPARKS_OWN = ("tables", "copies")
"""Folders that Spark writes in the store itself."""

State = dict[str, tuple[int, int, str]]
"""File -> size and time of change of the copy, and tag of the stored file, when they last were equal."""


@dataclass(frozen=True)
class WorkingCopy:
    """The files of a store on this machine, in ``folder``.

    Of several processes on one machine, such as a driver and its ranks, each may copy; they take turns.
    """

    store: Store
    folder: Path

    def start(self) -> None:
        """Make the folder, and fill it with the files that are in no folder of the store."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        (self.folder / STATE).write_text("{}")
        # without drafts, which another process may be about to rename
        self._get({name: file for name, file in self.store.list_single().items() if not _is_hidden(name)})

    @property
    def is_here(self) -> bool:
        """Whether this machine has the folder, for this user."""
        try:
            return (self.folder / STATE).exists()
        except OSError:  # of the driver's user alone: an executor of another one on its host
            return False

    def here(self, scratch: Path) -> "WorkingCopy":
        """Itself on the machine that started it; elsewhere another one, in ``scratch``, that is empty at first."""
        if self.is_here:
            return self
        other = WorkingCopy(self.store, scratch / self.folder.name)
        other.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with other._turn():
            # another task of the executor may have been first
            if not other.is_here:
                (other.folder / STATE).write_text("{}")
        return other

    def fetch(self, path: Path) -> Path:
        """Where a Spark task has a file or folder of the copy, fetched from the store unless this is the driver's host.

        What is no part of the copy is where it is.
        """
        if self.is_here or not path.is_relative_to(self.folder):
            return path
        from pyspark import SparkFiles

        other = self.here(Path(SparkFiles.getRootDirectory()))  # of the executor: its tasks share it
        other.pull(self.name_of(path))
        return other.folder / self.name_of(path)

    def name_of(self, path: Path) -> str:
        """The name in the store of a file or folder of the copy."""
        return path.relative_to(self.folder).as_posix()

    def moved(self, path: Path, other: "WorkingCopy") -> Path:
        """Where another copy has a file or folder of this one."""
        return other.folder / self.name_of(path)

    def pull(self, *names: str) -> None:
        """Copy here what is missing or changed of some files, and below some folders, and remove what was removed."""
        for name in names:
            self._get(self._whole(self.store.list_all(name)), name)

    def push(self, *names: str) -> None:
        """Copy into the store what has changed here, of all or below some folders, and remove what was removed here."""
        with self._turn() as state:
            local = {name: stamp for name, stamp in self._local().items() if _is_below(name, names)}
            gone = [name for name in state if name not in local and _is_below(name, names)]
            changed = [name for name, stamp in local.items() if name not in state or state[name][:2] != stamp]
            # folders first: single files, such as a run's state, speak of them
            for unit in dict.fromkeys(unit for name in [*changed, *gone] if (unit := unit_of(name))):
                self._put_unit(unit, [name for name in local if unit_of(name) == unit], local, state)
            single = [name for name in changed if unit_of(name) is None]
            self._put([name for name in single if name != METRICS], local, state)
            if METRICS in single:
                try:
                    self._put_metrics(state)
                except OutputError:  # a turn waits for no store, and may be lost; the next one begins anew
                    self._put_metrics(state)
            self.store.remove([name for name in gone if unit_of(name) is None])
            for name in gone:
                state.pop(name, None)

    def remove(self, folder: str) -> bool:
        """Remove a folder here and in the store; whether there was one."""
        stored = self.store.list_all(folder)
        with self._turn() as state:
            # the marks first: a reader takes what is left without one for unfinished
            self.store.remove([name for name in stored if name.endswith(COMPLETE)])
            self.store.remove([name for name in stored if not name.endswith(COMPLETE)])
            for name in stored:
                state.pop(name, None)
            shutil.rmtree(self.folder / folder, ignore_errors=True)
        return bool(stored)

    def _get(self, stored: dict[str, StoredFile], within: str | None = None) -> None:
        with self._turn() as state:
            there = {name for name in stored if (self.folder / name).exists()}
            names = [name for name in stored if name not in there or state.get(name, (0, 0, ""))[2] != stored[name].tag]
            self.store.get(names, self.folder)
            for name in names:
                path = self.folder / name
                os.utime(path, (stored[name].written, stored[name].written))
                state[name] = (path.stat().st_size, path.stat().st_mtime_ns, stored[name].tag)
            # only within a folder that was listed whole: else a missing name says nothing
            for name in [name for name in state if within and _is_below(name, (within,)) and name not in stored]:
                (self.folder / name).unlink(missing_ok=True)
                del state[name]

    def _put_unit(self, unit: str, names: list[str], local: dict[str, tuple[int, int]], state: State) -> None:
        """Replace a folder whose files belong together."""
        mark = f"{unit}/{COMPLETE}"
        self.store.remove([mark])
        try:
            self._put(names, local, state)
            self.store.remove([name for name in self.store.list_all(unit) if name not in names])
            if names:
                self.store.write(mark, json.dumps({name: local[name][0] for name in names}).encode())
        except BaseException:
            for name in names:  # what is there is no whole: all of it is copied again
                state.pop(name, None)
            raise

    def _put(self, names: list[str], local: dict[str, tuple[int, int]], state: State) -> None:
        # before the transfer: one that fails leaves them to be copied again
        for name in names:
            state.pop(name, None)
        self.store.put(names, self.folder)
        for name in names:
            found = self.store.describe(name)
            # by what it was before the transfer: a file that has grown since counts as changed, and is copied again
            state[name] = (*local[name], found.tag if found else "")

    def _put_metrics(self, state: State) -> None:
        """Put the lines that are new here behind those that are there: stages on other machines add theirs."""
        path = self.folder / METRICS
        notes = StoreNotes(self.store, "logs")
        with taking_turns(notes, "metrics.turn") as is_our_turn:
            stored, (n_known, _, tag) = self.store.describe(METRICS), state.get(METRICS, (0, 0, ""))
            lines = path.read_bytes()
            others = self.store.read(METRICS) if stored and stored.tag != tag else None
            if not is_our_turn():
                raise lost_turn(notes, "metrics.turn")
            if stored and others is not None:
                lines = others + lines[n_known:]
                replace_text(path, lines.decode())
                # a write that fails leaves no line to be added twice
                state[METRICS] = (len(others), 0, stored.tag)
            self.store.write(METRICS, lines)
            found = self.store.describe(METRICS)
            state[METRICS] = (len(lines), path.stat().st_mtime_ns, found.tag if found else "")

    def _whole(self, stored: dict[str, StoredFile]) -> dict[str, StoredFile]:
        """Those that are to be copied here: of folders whose files belong together, whole ones alone."""
        units = {unit_of(name): json.loads(self.store.read(name)) for name in stored if name.endswith(f"/{COMPLETE}")}
        for unfinished in sorted({unit_of(name) or "" for name in stored} - {*units, ""}):
            log.warning("  %s/%s: left out: its last writer did not finish it", self.store.url, unfinished)
        return {
            name: file
            for name, file in stored.items()
            if not _is_hidden(name)
            and ((unit := unit_of(name)) is None or units.get(unit, {}).get(name) == file.n_bytes)
        }

    def _local(self) -> dict[str, tuple[int, int]]:
        """File -> size and time of change."""
        found = {}
        for path in sorted(self.folder.rglob("*")):
            name = self.name_of(path)
            if not _is_hidden(name) and name.split("/")[0] not in SPARKS_OWN and path.is_file():
                stat = path.stat()
                found[name] = (stat.st_size, stat.st_mtime_ns)
        return found

    @contextmanager
    def _turn(self) -> Iterator[State]:
        """What is known of both sides; other processes of this machine wait."""
        with (self.folder / ".turn").open("a") as turn:
            # enough here: the folder is this machine's own. Between hosts, over NFS, flock may keep nobody out
            fcntl.flock(turn, fcntl.LOCK_EX)
            path = self.folder / STATE
            state: State = json.loads(path.read_text()) if path.exists() else {}
            # JSON makes lists of tuples, and a list equals no tuple
            state = {name: (known[0], known[1], known[2]) for name, known in state.items()}
            try:
                yield state
            finally:  # of a transfer that failed, what it had done
                replace_text(path, json.dumps(state))


def copy_folder(store: Store, folder: Path) -> None:
    """Copy all files of a store into a folder of this machine, with the times at which the store has them written."""
    folder.mkdir(mode=0o700, parents=True)
    stored = store.list_all()
    store.get(stored, folder)
    for name, file in stored.items():
        # provenance.json knows the data's files by size and time, and each command copies them anew
        os.utime(folder / name, (file.written, file.written))


def unit_of(name: str) -> str | None:
    """The folder that a file belongs to which is whole or not there: a model, an entry, a training's best weights."""
    parts = name.split("/")
    n_parts = 3 if parts[0] == "checkpoints" and parts[2:3] == ["best"] else 2 if parts[0] in UNITS else 0
    return "/".join(parts[:n_parts]) if 0 < n_parts < len(parts) else None


def _is_hidden(name: str) -> bool:
    """Drafts, our own state, and notes, which ``StoreNotes`` keeps in the store itself."""
    return any(part.startswith(".") for part in name.split("/")) or bool(re.fullmatch(r"logs/(lock-|.*\.turn).*", name))


def _is_below(name: str, folders: Sequence[str]) -> bool:
    return not folders or any(name == folder or name.startswith(f"{folder}/") for folder in folders)
