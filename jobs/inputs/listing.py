"""Which files a source has: those that are read, and those that are skipped and why."""

import re
import stat
from dataclasses import dataclass
from pathlib import Path

from schemas.errors import InputError

PARQUET_SUFFIXES = (".parquet", ".parq", ".pq")
_COPIES = (".bak", ".old", ".orig", ".tmp", ".swp")
"""Suffixes of what editors and people put beside a file."""
_PARQUET_STARTS = (b"PAR1", b"PARE")
"""Of plain files, and of those whose footer is encrypted."""
TABLE_MARKS = {
    "_delta_log": "a Delta table",
    ".hoodie": "a Hudi table",
    "_spark_metadata": "the output of a Spark stream",
}
"""What in a folder says that its files are not all rows: some are of former versions, or of writes that failed."""
_FORMATS = {**TABLE_MARKS, "metadata/*.metadata.json": "an Iceberg table"}
"""The same, and what other data may have too, so that in a folder further up it says nothing."""


@dataclass(frozen=True)
class Listing:
    """The files of a source, in name order, and the reason why each other one is skipped."""

    files: tuple[Path, ...]
    skipped: dict[Path, str]


def parquet_files(source: Path) -> list[Path]:
    """The files of a source that are read, in name order; InputError for a folder without any."""
    listing = list_source(source)
    if not listing.files:
        skipped = [f"{path.name} ({reason})" for path, reason in listing.skipped.items()]
        found = f"only {', '.join(skipped[:3])}" if skipped else "none"
        raise InputError(f"{source}: expected Parquet files in this folder, found {found}; remove it or fill it")
    return list(listing.files)


def list_source(source: Path) -> Listing:
    """The files of a source: itself, or those in it and in the folders and links to folders below.

    Files and folders whose names start with a dot or underscore are what writers leave behind, not data; they alone
    are passed over without a word. A partition is data, whatever its column is called: ``_day=1``.

    Raises
    ------
    InputError
        For what may hold rows and cannot be read as rows: a table of another format, a link to nothing, a folder or
        file that links reach twice, a name that Spark does not take.
    """
    if not source.is_dir():
        _check_file(source)
        if is_passed_over(source.name):
            raise InputError(
                f"{source}: expected a name that neither starts with . or _ nor ends with ._COPYING_, found one that "
                "Spark passes over; rename it"
            )
        return Listing((source,), {})
    files: list[Path] = []
    skipped: dict[Path, str] = {}
    folders, found = [source], {source.resolve(): source}
    try:
        # the list grows as it is walked, by the folders that are found
        for folder in folders:
            _check_format(folder)
            real_folder = folder.resolve()
            for path in sorted(path for path in folder.iterdir() if not _is_hidden(path.name)):
                if path.is_dir():
                    kind, own = "folder", folders
                elif reason := _why_skipped(path):
                    skipped[path] = reason
                    continue
                else:
                    _check_file(path)
                    kind, own = "file", files
                # resolving each of many files would ask the mount for all folders above it
                real = path.resolve() if path.is_symlink() else real_folder / path.name
                if (first := found.setdefault(real, path)) is not path:
                    raise InputError(f"{path}: expected each {kind} once, found it as {first} too; remove the link")
                own.append(path)
    except OSError as error:
        raise InputError(f"{source}: expected files that can be read, found {error}; fix its permissions") from error
    return Listing(tuple(sorted(files)), skipped)


def is_passed_over(name: str) -> bool:
    """Whether Spark reads no file of this name, though it is named: what writers leave behind, a copy under way."""
    return _is_hidden(name) or name.endswith("._COPYING_")


def _is_hidden(name: str) -> bool:
    """Spark's own rule (HadoopFSUtils.shouldFilterOutPathName): a name with = may be a partition's."""
    return name.startswith(".") or (name.startswith("_") and "=" not in name)


def is_copy(path: Path) -> bool:
    """Whether a file is by its name what editors and people put beside another one."""
    return path.suffix.lower() in _COPIES or path.name.endswith("~")


def _check_format(folder: Path) -> None:
    for pattern, name in _FORMATS.items():
        if any(folder.glob(pattern)):
            raise InputError(
                f"{folder}: expected plain Parquet files, found {name} ({pattern}), whose files may be of former "
                "versions; export its rows as plain Parquet into a folder of this name"
            )


def _why_skipped(path: Path) -> str | None:
    """Why a file of a source's folder holds no rows; None where it does, or says so by its name."""
    if path.name.endswith("._COPYING_"):
        return "a copy under way"  # Spark skips it too
    if is_copy(path):
        return "a copy, by its name"
    # by its name: a damaged file is no reason to skip it. A link to nothing is refused by _check_file
    if path.suffix.lower() in PARQUET_SUFFIXES or not path.exists():
        return None
    if not path.is_file():
        return "no regular file"
    with path.open("rb") as file:
        start = file.read(4)
    if start in _PARQUET_STARTS:
        return None
    return "no Parquet" if start else "empty"


def _check_file(path: Path) -> None:
    """Raise InputError unless Python and Spark can open a file by its name."""
    name = str(path.absolute())
    if not path.exists():
        raise InputError(f"{path}: expected a file, found a link to nothing; remove it, or give what it points to")
    if not stat.S_ISREG(path.stat().st_mode):
        raise InputError(f"{path}: expected a regular file, found a pipe, socket or device; write a file there")
    # Hadoop takes what is before a colon for a scheme, and our escapes of wildcards make it look at names one by one
    if ":" in path.name or (":" in name and re.search(r"[\[\]{}*?\\]", name)):
        raise InputError(f"{path}: expected a name without a colon, found one that Spark cannot open; rename it")
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise InputError(f"{name!a}: expected a name in UTF-8, found one that Spark cannot open; rename it") from error
