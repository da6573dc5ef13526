"""Small texts by which processes on several hosts know of each other, in a folder that all mount or in a store."""

import contextlib
import os
import uuid
from collections.abc import Hashable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from ml.files.atomic import create_file, replace_text
from ml.files.store import Store


@dataclass(frozen=True)
class FolderNotes:
    """Notes as files of a folder, which is made where there is none; each has a name.

    Attributes
    ----------
    poll_seconds : how often it may be asked whether a note has changed
    """

    folder: Path
    poll_seconds: ClassVar[float] = 0.02

    def __str__(self) -> str:
        """The place as the user knows it."""
        return str(self.folder)

    def create(self, name: str, text: str) -> None:
        """Make a note that is not there; FileExistsError where it is. No two have the same text."""
        self.folder.mkdir(parents=True, exist_ok=True)
        create_file(self.folder / name, text.encode())

    def write(self, name: str, text: str) -> None:
        """Make or replace a note."""
        replace_text(self.folder / name, text)

    def read(self, name: str) -> str:
        """Its text; OSError where there is none."""
        return (self.folder / name).read_text(encoding="utf-8")

    def names(self, prefix: str) -> list[str]:
        """Those whose names begin so, in order."""
        return sorted(path.name for path in self.folder.glob(f"{prefix}*"))

    def identity(self, name: str) -> Hashable | None:
        """Another one after each writing; None where there is none."""
        with contextlib.suppress(OSError):
            found = (self.folder / name).stat()
            # both: a new file may get the number of a removed one, and two writings the same tick of the clock
            return found.st_ino, found.st_mtime_ns
        return None

    def written(self, name: str) -> float:
        """When, in seconds, by the one clock that stamps all notes of the place; OSError where there is none."""
        return (self.folder / name).stat().st_mtime

    def remove(self, name: str) -> None:
        """Remove a note; OSError may say that there is none."""
        (self.folder / name).unlink()

    def remove_if(self, name: str, identity: Hashable) -> None:
        """Remove a note if it still is the one that was seen."""
        path = self.folder / name
        aside = path.with_name(f".{name}.{uuid.uuid4().hex[:8]}.old")
        with contextlib.suppress(OSError):  # another was first
            # aside before it is looked at: else another process could put its own note there before the removal
            path.rename(aside)
            if self.identity(aside.name) != identity:  # of another, who was first
                # a link, not a rename: it fails where a newer note stands by now
                os.link(aside, path)
        aside.unlink(missing_ok=True)

    def is_there(self) -> bool:
        """Whether the place is: else nothing is known of its notes."""
        return self.folder.is_dir()


@dataclass(frozen=True)
class StoreNotes:
    """Notes as objects of a store below ``prefix``."""

    store: Store
    prefix: str
    poll_seconds: ClassVar[float] = 0.5

    def __str__(self) -> str:
        return f"{self.store.url}/{self.prefix}"

    def create(self, name: str, text: str) -> None:
        """See ``FolderNotes``."""
        self.store.create(f"{self.prefix}/{name}", text.encode())

    def write(self, name: str, text: str) -> None:
        """See ``FolderNotes``."""
        self.store.write(f"{self.prefix}/{name}", text.encode())

    def read(self, name: str) -> str:
        """See ``FolderNotes``."""
        return self.store.read(f"{self.prefix}/{name}").decode()

    def names(self, prefix: str) -> list[str]:
        """See ``FolderNotes``."""
        names = [name.removeprefix(f"{self.prefix}/") for name in self.store.list_all(self.prefix)]
        return [name for name in names if name.startswith(prefix) and "/" not in name]

    def identity(self, name: str) -> Hashable | None:
        """See ``FolderNotes``."""
        found = self.store.describe(f"{self.prefix}/{name}")
        return (found.tag, found.written) if found else None

    def written(self, name: str) -> float:
        """See ``FolderNotes``."""
        found = self.store.describe(f"{self.prefix}/{name}")
        if found is None:
            raise FileNotFoundError(name)
        return found.written

    def remove(self, name: str) -> None:
        """See ``FolderNotes``."""
        self.store.remove([f"{self.prefix}/{name}"])

    def remove_if(self, name: str, identity: Hashable) -> None:
        """See ``FolderNotes``."""
        # a store has no removal on a condition that all of them know: what is made between the two calls is lost
        if self.identity(name) == identity:
            self.remove(name)

    def is_there(self) -> bool:
        """See ``FolderNotes``."""
        return True  # it answered


Notes = FolderNotes | StoreNotes
