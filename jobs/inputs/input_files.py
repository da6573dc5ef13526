"""The files and Delta tables that a mapping names: found, checked and described without Spark."""

import itertools
import json
import logging
import re
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from conf.mappings import ColumnSettings, InputSettings, MappingSettings
from jobs.inputs.footers import read_footer
from jobs.inputs.listing import PARQUET_SUFFIXES, TABLE_MARKS, Listing, is_copy, is_passed_over, list_source
from jobs.inputs.parquet_types import Types, find_unreadable, stored_types
from jobs.inputs.text_files import OPENERS, check_lines, is_empty, read_header
from jobs.storage.delta_log import DELTA_LOG, commit_files
from jobs.storage.locations import mounted_path
from ml.files.regular import require_regular
from schemas.errors import InputError

log = logging.getLogger(__name__)

MAX_SCHEMA_BYTES = 2**26
"""Of a Delta table's commit, a line."""
MAX_COLUMNS = 10_000
"""Of CSV files: with many more, Spark plans for ever."""
_SUFFIXES = {
    "parquet": PARQUET_SUFFIXES,
    "csv": (".csv", ".tsv", ".txt"),
    "json": (".json", ".jsonl", ".ndjson"),
}
_IS_PART = re.compile(r"(part-)?\d[\w-]*|[\w-]*\d", re.ASCII)
"""What programs call parts of a table that they give no suffix: 000000_0, part-00000, events_000000000000."""
_DELIMITERS = ";\t|,"


@dataclass(frozen=True)
class InputFiles:
    """What an input's path leads to.

    Attributes
    ----------
    format : ``delta``, ``parquet``, ``csv`` or ``json``
    root : the folder whose sub-folders may be Hive partitions; of a Delta table, the table
    files : those that are read; of a Delta table, none: its log names them
    """

    format: str
    root: Path
    files: tuple[Path, ...]

    @cached_property
    def types(self) -> Types:
        """Of Parquet files, read from their footers once."""
        return {file: stored_types(file) for file in self.files}


def describe_path(path: Path) -> dict[Path, list[int]]:
    """Size and time of change of each file of a source or input that may be read.

    Of a Delta table, the number of its newest commit and that file's size and time: a table that is made anew ends at
    the same number.
    """
    if (path / DELTA_LOG).is_dir():
        newest = commit_files(path)[-1:]
        return {path / DELTA_LOG: [number for file in newest for number in (int(file.stem), *_describe(file))]}
    listings = [list_source(root) for root in _find_roots(path) if root.exists()]
    # beside Parquet there may be what a mapping reads as another format
    files = [file for each in listings for file in (*each.files, *filter(_may_hold_lines, each.skipped))]
    return {file: _describe(file) for file in files}


def _may_hold_lines(file: Path) -> bool:
    """Whether a mapping may read a file as CSV or JSON: by its suffix, or as programs name parts of a table.

    Others are left out, with a warning, whatever format is given: a download under way, notes, a copy.
    """
    return format_of(file) is not None or _IS_PART.fullmatch(_uncompressed(file).name) is not None


def _describe(file: Path) -> list[int]:
    stat = file.stat()
    return [stat.st_size, stat.st_mtime_ns]


def _find_roots(path: Path) -> list[Path]:
    """The files and folders that a path names, there or not; of a name with ``*``, those that are read."""
    if "*" not in path.name:
        return [path]
    pattern = re.sub(r"([\[?])", r"[\1]", path.name)  # a * alone stands for other names
    return sorted(root for root in path.parent.glob(pattern) if not is_passed_over(root.name))


def check_mapping(mapping: MappingSettings, data: Path | None) -> None:
    """Raise InputError for the first input that cannot be read: what was expected, found, where, what to do.

    What lies in a catalog or a store is looked at when Spark has started.
    """
    for name, settings in mapping.inputs.items():
        owner = f"inputs.{name}"
        found = find_input(owner, settings, data)
        if found is None:
            continue
        if found.format != "csv" and (settings.header or settings.delimiter != ","):
            raise InputError(
                f"{owner}: header and delimiter are of CSV alone, found {found.format} in {settings.location}; leave "
                "them out"
            )
        columns = read_columns(owner, settings, found)
        if columns is None:
            continue
        wanted = list(settings.columns.values())
        if settings.expand:
            wanted.append(ColumnSettings(column=settings.expand))
        for column in wanted:
            # a dot is part of a name or leads into a struct, whose fields Spark looks up
            if column.column and column.column not in columns and column.column.split(".")[0] not in columns:
                raise no_such_column(owner, column.column, columns, settings.location)


def require_out_elsewhere(mapping: MappingSettings, data: Path | None, out: Path) -> None:
    """Raise InputError where the output directory lies in a folder that an input reads: its files would be rows."""
    for name, settings in mapping.inputs.items():
        path = None if settings.path is None or settings.is_url else input_path(settings.path, data)
        for root in _find_roots(path) if path else []:
            if root.is_dir() and not (root / DELTA_LOG).is_dir() and out.resolve().is_relative_to(root.resolve()):
                raise InputError(
                    f"--out {out}: expected it outside of {root}, which inputs.{name} reads with all that lies in it; "
                    "choose another --out, or a path of the input that leaves it out"
                )


def no_such_column(owner: str, name: str, columns: Collection[str], where: str) -> InputError:
    """The error of a column that the input lacks."""
    alike = [repr(each) for each in columns if each.strip().casefold() == name.strip().casefold()]
    fix = f"write it {' or '.join(alike)}, as it is there" if alike else "correct its name"
    return InputError(f"{owner}: expected the column {name!r} in {where}, found {_shown(columns) or 'none'}; {fix}")


def _shown(names: Collection[str]) -> str:
    """Some names of columns, for a message."""
    shown = [name[:100] or "''" for name in itertools.islice(names, 50)]  # '': a sign at the end of the line
    return ", ".join(shown) + (f" and {len(names) - 50:,} more" if len(names) > 50 else "")


def find_input(owner: str, settings: InputSettings, data: Path | None) -> InputFiles | None:
    """The files of an input; None where no mount reaches it: a table of a catalog, a URL.

    Raises
    ------
    InputError
        If there is nothing, or nothing that can be read.
    """
    if settings.path is None or settings.is_url:
        return None
    path = input_path(settings.path, data)
    if path is None:
        raise InputError(f"{owner}.path: expected --data DIR, in which {settings.path!r} lies, found none; name it")
    roots = _find_roots(path)
    if not roots or not all(root.exists() for root in roots):
        beside = sorted(each.name for each in path.parent.iterdir()) if path.parent.is_dir() else []
        found = ", ".join(beside[:20]) or "nothing"
        fix = (
            "; braces are part of a name: name the folder, or write * for what differs" if "{" in settings.path else ""
        )
        raise InputError(f"{owner}: expected {path}, found {found} there; correct the path{fix}")
    if settings.format in (None, "delta") and (path / DELTA_LOG).is_dir():
        return InputFiles("delta", path, ())
    if settings.format == "delta" or settings.version is not None or settings.as_of is not None:
        raise InputError(f"{owner}: expected a Delta table, found no {DELTA_LOG} in {path}; correct path or format")
    # also through a link
    own = path.parent.resolve() / path.name if "*" in path.name else path.resolve()
    for folder in own.parents:
        if mark := next((mark for mark in TABLE_MARKS if (folder / mark).exists()), None):
            raise InputError(
                f"{owner}: expected a table whole, found {path}, files of the table {folder} ({mark}), of which some "
                f"may be of former versions; give path: {folder}, and choose rows by where"
            )
    kind, files = _files_of_one_format(owner, settings, path, roots)
    return InputFiles(kind, path.parent if "*" in path.name or path.is_file() else path, tuple(files))


def input_path(text: str, data: Path | None) -> Path | None:
    """Where an input's path leads; None for one that is under ``--data`` where there is none."""
    if text.startswith(("/", "~/", "file:", "dbfs:")):
        return mounted_path(text)
    return data / text if data else None


def _files_of_one_format(
    owner: str, settings: InputSettings, path: Path, roots: Sequence[Path]
) -> tuple[str, list[Path]]:
    listings = [list_source(root) for root in roots]
    files = _all_files(listings)
    kinds = {settings.format} if settings.format else {format_of(file) for file in files} - {None}
    if not kinds:
        names = ", ".join(file.name for file in files[:20]) or "no file"
        raise InputError(
            f"{owner}: expected names of files that tell their format (.parquet, .csv, .json; .gz, .bz2) in {path}, "
            f"found {names}; give the format, or write them in one of these"
        )
    if len(kinds) != 1:
        found = " and ".join(sorted(map(str, kinds)))
        raise InputError(
            f"{owner}: expected files of one format (parquet, csv, json) in {path}, found {found}; give the format, or "
            "move the others"
        )
    kind = str(*kinds)
    # a pattern may name copies too, which may be folders
    originals = [each for root, each in zip(roots, listings, strict=True) if root == path or not is_copy(root)]
    if kind == "parquet":
        own = [file for each in originals for file in each.files]
    else:
        # a file that is named itself is read whatever its suffix says; parts of a table where the format is given
        kinds_read = {kind, None} if settings.format else {kind}
        named = [
            file
            for file in _all_files(originals)
            if file == path or (format_of(file) in kinds_read and _may_hold_lines(file))
        ]
        own = [file for file in named if not is_empty(file)]
        if named and not own:
            raise InputError(f"{owner}: expected lines of {kind} in {path}, found empty files alone; write them again")
    if not own:
        names = ", ".join(file.name for file in files[:20]) or "no file"
        raise InputError(f"{owner}: expected {kind} files in {path}, found {names}; correct path or format")
    once: dict[Path, Path] = {}
    for file in own:
        if (first := once.setdefault(_uncompressed(file.resolve()), file)) is not file:
            why = "are one file" if first.samefile(file) else "differ by compression alone"
            raise InputError(
                f"{owner}: expected the rows of each file once in {path}, found {first.name} and {file.name}, which "
                f"{why}; remove one, or rename it if its rows are others"
            )
    if skipped := sorted(set(files).difference(own)):
        names = ", ".join(str(file.relative_to(path.parent)) for file in skipped[:20])
        log.warning("  %s: skipped, empty or no %s by their names: %s", owner, kind, names)
    return kind, own


def _all_files(listings: Sequence[Listing]) -> list[Path]:
    """Those that the challenge's format would read, and those that it would skip."""
    return [file for each in listings for file in sorted([*each.files, *each.skipped])]


def format_of(path: Path) -> str | None:
    """The format that a file's name tells."""
    suffix = _uncompressed(path).suffix.lower()
    return next((kind for kind, suffixes in _SUFFIXES.items() if suffix in suffixes), None)


def _uncompressed(path: Path) -> Path:
    return path.with_suffix("") if path.suffix in OPENERS else path


def read_columns(owner: str, settings: InputSettings, found: InputFiles) -> list[str] | None:
    """Names of an input's columns; None where Spark alone can tell them, as of JSON.

    Raises
    ------
    InputError
        If CSV files differ in their first lines, or name a column twice, or a first line of JSON holds several objects.
    """
    if found.format == "delta":
        # those of the newest version: what an earlier one calls its columns, Spark tells
        return _delta_columns(found.root) if settings.version is None and settings.as_of is None else None
    partitions = _partition_columns(owner, found)
    if found.format == "parquet":
        names: dict[str, None] = {}
        told = [
            settings.where,
            settings.expand,
            *(each.column or each.expression for each in settings.columns.values()),
        ]
        # of a folder's value that nothing reads it does not matter
        read = [name for name in partitions if re.search(rf"\b{re.escape(name)}\b", " ".join(filter(None, told)))]
        for file in found.files:
            footer = read_footer(file)
            if unreadable := find_unreadable(footer.metadata.schema):  # Spark stops, whether they are read or not
                columns = [f"{kind} in {name!r}" for name, kind in itertools.islice(unreadable.items(), 50)]
                raise InputError(
                    f"{owner}: expected columns that Spark can read in {file}, found {', '.join(columns)}; write the "
                    "file without these columns, or with text in them"
                )
            _require_different(owner, [*footer.schema.names, *read], file)
            names |= dict.fromkeys(footer.schema.names)
        return [*names, *partitions]
    if found.format == "json":
        for file in found.files:
            check_lines(owner, file)
        return None
    header = _read_headers(owner, settings, found)
    _require_different(owner, [*header, *partitions], found.files[0])
    return [*header, *partitions]


def _partition_columns(owner: str, found: InputFiles) -> list[str]:
    """The columns that the names of folders are of (NAME=VALUE), of all files alike: Spark would leave others out."""
    columns: list[str] = []
    for number, file in enumerate(found.files):
        parts = file.relative_to(found.root).parent.parts
        own = [part.partition("=")[0] for part in parts if "=" in part]
        if number == 0:
            columns = own
        elif [name.casefold() for name in own] != [name.casefold() for name in columns]:
            of_both = [" and ".join(f"{name}=" for name in names) or "no such folder" for names in (columns, own)]
            raise InputError(
                f"{owner}: expected all files in folders of the same columns (NAME=VALUE), found {of_both[0]} of "
                f"{found.files[0]}, {of_both[1]} of {file}; move one of them, or read them as inputs of their own"
            )
    return columns


def _read_headers(owner: str, settings: InputSettings, found: InputFiles) -> list[str]:
    """The names of the columns of CSV files, which are alike in all of them."""
    header = list(settings.header) or read_header(found.files[0], settings.delimiter)
    if len(header) < 2 and (others := [sign for sign in _DELIMITERS if sign in "".join(header)]):
        raise InputError(
            f"{owner}: expected columns with {settings.delimiter!r} between them in {found.files[0]}, found "
            f"{header[0][:100]!r}; give the sign between them, such as delimiter: {json.dumps(others[0])}"
        )
    if len(header) > MAX_COLUMNS:
        raise InputError(
            f"{owner}: expected at most {MAX_COLUMNS:,} columns in {found.files[0]}, found {len(header):,}; leave some "
            "out, or give the delimiter"
        )
    if twice := [name for name, n_times in Counter(header).items() if n_times > 1]:
        raise InputError(
            f"{owner}: expected different columns in {found.files[0]}, found {_shown(twice)} twice; rename "
            f"one of them, or end the lines without {settings.delimiter!r}"
        )
    for file in found.files[1:] if not settings.header else ():
        if (other := read_header(file, settings.delimiter)) != header:
            raise InputError(
                f"{owner}: expected the columns {_shown(header)} as in {found.files[0].name}, found "
                f"{_shown(other)} in {file}; give the files in inputs of their own, or write them alike"
            )
    return header


def _require_different(owner: str, names: Sequence[str], where: Path) -> None:
    """Raise InputError where two columns have one name, in a file or its folders (day=1): Spark takes one of them."""
    times = Counter(name.casefold() for name in names)
    if twice := [name for name in names if times[name.casefold()] > 1]:
        raise InputError(
            f"{owner}: expected names of columns that differ by more than case, in {where} and in the names of its "
            f"folders (day=1), found {_shown(twice)}; rename one of them"
        )


def _delta_columns(table: Path) -> list[str] | None:
    """By the newest commit that names them; None where only a checkpoint does."""
    for commit in reversed(commit_files(table)):
        try:
            require_regular(commit)
            with commit.open(encoding="utf-8") as lines:
                while line := lines.readline(MAX_SCHEMA_BYTES):
                    # nearly all lines are of files with their statistics: parsing each would take long
                    action = json.loads(line) if '"metaData"' in line else {}
                    if schema := action.get("metaData", {}).get("schemaString"):
                        return [field["name"] for field in json.loads(schema)["fields"]]
        except (OSError, ValueError, TypeError, AttributeError, KeyError, RecursionError) as error:
            raise InputError(f"{commit}: expected a commit of a Delta table, found {error!r}; restore it") from error
    return None
