"""The plain files of ``--out``: every write, append and removal of one, and JSON read with a message that helps.

An ``--out`` in a store has a copy on this machine, which these files are then of (``jobs/storage/working_copy.py``).
Logs, locks and messages between ranks and driver are of ``jobs/runtime``.
"""

import contextlib
import hashlib
import json
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from ml.files.atomic import replace_text
from ml.files.regular import require_regular
from schemas.errors import TableError

checker = cache(TypeAdapter)  # made once per type


def digest(values: object) -> str:
    """SHA-256 of values as JSON, in hexadecimal; equal for equal values, whatever the order of their keys."""
    return hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode()).hexdigest()


def read_json(path: Path, shape: Any, fix: str) -> Any:
    """The content of a file, as ``json`` reads it.

    Parameters
    ----------
    shape : what it must hold: a type, such as ``dict[str, float]``, or a dataclass, whose fields are the keys
    fix : what to do where the file is missing or damaged, e.g. ``run the stage probe, which writes it``

    Raises
    ------
    TableError
        If the file is missing, is not JSON, or holds something else.
    """
    try:
        require_regular(path)
        text = path.read_bytes()
        checker(shape).validate_json(text, strict=True)
    except FileNotFoundError as error:
        raise TableError(f"expected {path}, found none; {fix}") from error
    except OSError as error:
        raise TableError(f"{path}: expected a file that can be read, found: {error.strerror or error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        problem = f"{first['msg']} at {key}" if key else first["msg"]
        raise TableError(
            f"{path}: expected JSON as this version writes it, found: {problem}; the file is damaged or another "
            f"version's: {fix}"
        ) from error
    return json.loads(text)


def write_text(path: Path, text: str) -> None:
    """Replace a file, whole: whoever reads it finds the former text or this one."""
    replace_text(path, text)


def write_json(path: Path, value: object, indent: int | None = None) -> None:
    """``write_text`` of a value as JSON."""
    write_text(path, json.dumps(value, indent=indent) + "\n")


def append_line(path: Path, line: str) -> None:
    """Add a line to a file, which is made where there is none."""
    with path.open("a") as stream:
        stream.write(line + "\n")


def digest_file(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def remove_empty_folder(path: Path) -> None:
    """Remove a folder unless something is in it, or it is not there."""
    with contextlib.suppress(OSError):
        path.rmdir()
