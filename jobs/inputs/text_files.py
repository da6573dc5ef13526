"""What the first lines of files of CSV and JSON say, and where a line of JSON is not one object."""

import bz2
import csv
import gzip
import json
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from schemas.errors import InputError

MAX_HEADER_BYTES = 2**20
"""Of the first line of a CSV file: a hostile one would fill the memory."""
OPENERS: dict[str, Callable[[Path], Any]] = {".gz": gzip.GzipFile, ".bz2": bz2.BZ2File}
"""Of compressed text, as Spark reads it."""
_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"PK\x03\x04": "a zip archive", b"\x28\xb5\x2f\xfd": "Zstandard"}
_COMPRESSED |= {b"\xfd7zXZ": "xz", b"\x04\x22\x4d\x18": "LZ4", b"x\x9c": "zlib"}


def is_empty(file: Path) -> bool:
    """Whether a file of lines has none; a compressed one of nothing has bytes of its own."""
    if not file.stat().st_size:
        return True
    if file.suffix not in OPENERS:
        return False
    try:
        with _open(file) as stream:
            return not stream.read(1)
    except (OSError, EOFError, zlib.error):
        return False  # reading its first line says what is wrong


def read_header(file: Path, delimiter: str) -> list[str]:
    """The first line of a CSV file; InputError where that is no text in UTF-8."""
    try:
        with _open(file) as stream:
            line = stream.readline(MAX_HEADER_BYTES)
            while line and not line.strip():  # Spark passes over empty lines too
                line = stream.readline(MAX_HEADER_BYTES)
        _refuse_packed(file, line, "csv")
        if len(line) == MAX_HEADER_BYTES:
            raise InputError(f"{file}: expected a first line of names of columns, found none that ends")
        # without the byte order mark that spreadsheets begin a file with: it is no part of the first name
        # strictly: of quotes that do not close, as where a name has a line break, Spark makes other names
        return next(csv.reader([line.decode("utf-8-sig")], delimiter=delimiter, strict=True), [])
    except csv.Error as error:
        raise InputError(
            f"{file}: expected CSV with the names of columns, their quotes closed, in a first line that ends in LF or "
            f"CRLF, found {error}; write it again"
        ) from error
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise InputError(f"{file}: expected CSV in UTF-8, found {error}; write it again") from error


def _refuse_packed(file: Path, line: bytes, kind: str) -> None:
    """Raise InputError where a file begins as a compressed one, though its name does not tell Spark so."""
    if packed := next((name for sign, name in _COMPRESSED.items() if line.startswith(sign)), None):
        raise InputError(
            f"{file}: expected {kind.upper()}, found {packed}; unpack it, or name it as Spark knows it: x.{kind}.gz"
        )


def check_lines(owner: str, file: Path) -> None:
    """Raise InputError where a JSON file does not have one object a line: Spark reads the first of a line."""
    try:
        with _open(file) as stream:
            lines = [stream.readline(MAX_HEADER_BYTES) for _ in range(2)]
    except (OSError, EOFError, zlib.error):
        return  # Spark says what it cannot read
    _refuse_packed(file, lines[0], "json")
    line, other = (text.decode(errors="replace").removeprefix("\ufeff").strip() for text in lines)
    behind = second_object(line)
    if behind is None:
        # one line that cannot be read is counted and quarantined; of an object over several lines no line can be
        if line and other and second_object(other) is None:
            raise InputError(
                f"{owner}: expected one JSON object a line in {file}, found {line[:20]!r} and {other[:20]!r} as its "
                "first lines; write each object into one line, as jq -c does"
            )
    elif behind:
        raise two_objects(owner, str(file), behind)


def second_object(line: str) -> str | None:
    """What a line of JSON has behind its value, which Spark does not read; None where it begins with no value."""
    line = line.removeprefix("\ufeff").strip()
    try:
        end = json.JSONDecoder().raw_decode(line)[1]
    except (ValueError, RecursionError):
        return None
    return line[end:].strip(" ,")


def two_objects(owner: str, where: str, second: str) -> InputError:
    """The error of a line of JSON with a second value."""
    return InputError(
        f"{owner}: expected one JSON object a line in {where}, found another one behind the first: {second[:60]!r}; "
        "write a line break between them"
    )


def _open(file: Path) -> Any:
    return OPENERS[file.suffix](file) if file.suffix in OPENERS else file.open("rb")
