"""Folders and files that are written whole or not at all."""

import shutil
import uuid
from collections.abc import Callable, Collection
from pathlib import Path


def replace_folder(new: Path, folder: Path) -> None:
    """Rename ``new`` to ``folder``, whose former content goes."""
    # a folder cannot be renamed over one that holds files, so the old one steps aside first
    old = folder.with_name(f".{folder.name}.old")
    # a killed call may have left it
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    new.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def replace_text(path: Path, text: str) -> None:
    """Replace a file's text: whoever reads it meanwhile finds the former text or the new one."""
    replace_file(path, lambda draft: draft.write_text(text, encoding="utf-8"))


def replace_file(path: Path, write: Callable[[Path], object], without_renames: Collection[int] = ()) -> None:
    """Replace a file by what ``write`` makes at another path.

    Parameters
    ----------
    without_renames : numbers of the errors by which a mount says that it has no renames: there ``write`` makes the
        file itself
    """
    # of this write alone: another process, perhaps on another host, may replace the same file now
    draft = path.with_name(draft_pattern(path.name).replace("*", uuid.uuid4().hex[:8]))
    try:
        write(draft)
        try:
            draft.replace(path)
        except OSError as error:
            if error.errno not in without_renames:
                raise
            write(path)
    finally:
        draft.unlink(missing_ok=True)


def create_file(path: Path, content: bytes) -> None:
    """Make a file that is not there, and none if it cannot be filled; FileExistsError where it is."""
    # mode x: of processes that come at once the file system lets one make it, which a look beforehand would not
    file = path.open("xb")
    try:
        with file:
            file.write(content)
    except BaseException:  # an empty note would hold others up
        path.unlink(missing_ok=True)
        raise


def draft_pattern(name: str) -> str:
    """What killed calls of ``replace_text`` leave of a file of this name, as a pattern of names."""
    return f".{name}.*.partial"


def remove_drafts(path: Path) -> None:
    """Remove what killed calls of ``replace_text`` left of a file; only where no other process may be at it."""
    for draft in path.parent.glob(draft_pattern(path.name)):
        draft.unlink(missing_ok=True)
