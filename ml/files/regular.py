"""Looks at a file before it is opened: a pipe would wait for its writer, and a text may be larger than memory."""

import stat
from pathlib import Path


def require_regular(path: Path, max_bytes: int | None = None) -> None:
    """Raise OSError unless the path is a regular file, of at most so many bytes."""
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise OSError(f"expected a regular file, found {'a folder' if path.is_dir() else 'a pipe, socket or device'}")
    if max_bytes is not None and found.st_size > max_bytes:
        raise OSError(f"expected at most {max_bytes:,} bytes, found {found.st_size:,}")
