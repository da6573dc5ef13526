"""Folders that are written whole or not at all."""

import shutil
from pathlib import Path


def replace_folder(new: Path, folder: Path) -> None:
    """Rename ``new`` to ``folder``, whose former content goes."""
    old = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    new.rename(folder)
    shutil.rmtree(old, ignore_errors=True)
