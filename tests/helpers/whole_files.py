"""A folder that behaves as a mount of an object store: a file is written once, from its start to its end."""

import builtins
import errno
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


class Sequential(io.FileIO):
    """A file that is written in order."""

    def seek(self, *_: Any) -> int:
        raise _refusal("a write in the middle of a file", self.name)

    def truncate(self, *_: Any) -> int:
        raise _refusal("a change of length", self.name)


def _refusal(what: str, path: object) -> OSError:
    return OSError(errno.EOPNOTSUPP, f"refused: {what}", str(path))


def take_whole_files_only(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refuse appends, writes in the middle, renames and links below a folder; new files and their removal remain."""
    plain_open = io.open

    def is_below(path: object) -> bool:
        return isinstance(path, str | os.PathLike) and Path(path).absolute().is_relative_to(root)

    def opened(file: Any, mode: str = "r", *rest: Any, **named: Any) -> Any:
        if not is_below(file) or not set(mode) & set("wax+"):
            return plain_open(file, mode, *rest, **named)
        if set(mode) & set("a+"):
            raise _refusal(f"open for {mode}", file)
        raw = Sequential(file, mode.replace("b", "").replace("t", ""))
        return io.BufferedWriter(raw) if "b" in mode else io.TextIOWrapper(io.BufferedWriter(raw), encoding="utf-8")

    def refusing(plain: Callable[..., Any]) -> Callable[..., Any]:
        def call(*paths: Any, **named: Any) -> Any:
            if any(map(is_below, paths)):
                raise _refusal(plain.__name__, paths[0])
            return plain(*paths, **named)

        return call

    monkeypatch.setattr(builtins, "open", opened)
    monkeypatch.setattr(io, "open", opened)
    for name in ("rename", "replace", "link", "symlink", "truncate"):
        monkeypatch.setattr(os, name, refusing(getattr(os, name)))
