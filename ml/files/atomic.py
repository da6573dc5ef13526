"""Folders and files that are written whole or not at all."""

import shutil
import uuid
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
    # of this write alone: another process, perhaps on another host, may replace the same file now
    draft = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.partial")
    try:
        draft.write_text(text, encoding="utf-8")
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def remove_drafts(path: Path) -> None:
    """Remove what killed calls of ``replace_text`` left of a file; only where no other process may be at it."""
    for draft in path.parent.glob(f".{path.name}.*.partial"):
        draft.unlink(missing_ok=True)
