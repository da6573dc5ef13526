"""The small JSON files of ``--out``: read with a message that helps where one is missing or damaged."""

import hashlib
import json
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from schemas.errors import TableError


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
        text = path.read_bytes()
        TypeAdapter(shape).validate_json(text, strict=True)
    except FileNotFoundError as error:
        raise TableError(f"expected {path}, found none; {fix}") from error
    except OSError as error:
        raise TableError(f"{path}: expected a file that can be read, found: {error.strerror}") from error
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        problem = f"{first['msg']} at {place}" if place else first["msg"]
        raise TableError(
            f"{path}: expected JSON as this version writes it, found: {problem}; the file is damaged or another "
            f"version's: {fix}"
        ) from error
    return json.loads(text)
