"""The files and Delta tables that a mapping names: found, checked and described without Spark."""

import bz2
import csv
import gzip
import itertools
import json
import logging
import re
import zlib
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from conf.mappings import ColumnSettings, InputSettings, MappingSettings
from jobs.inputs.footers import read_footer
from jobs.inputs.listing import PARQUET_SUFFIXES, is_passed_over, list_source
from jobs.storage.delta_log import DELTA_LOG, commit_files
from jobs.storage.locations import mounted_path
from ml.files.regular import require_regular
from schemas.errors import InputError

log = logging.getLogger(__name__)

MAX_HEADER_BYTES = 2**20
"""Of the first line of a CSV file: a hostile one would fill the memory."""
MAX_SCHEMA_BYTES = 2**26
"""Of a Delta table's commit, a line."""
MAX_COLUMNS = 10_000
"""Of CSV files: with many more, Spark plans for ever."""
_SUFFIXES = {
    "parquet": PARQUET_SUFFIXES,
    "csv": (".csv", ".tsv", ".txt"),
    "json": (".json", ".jsonl", ".ndjson"),
}
_IS_PART = re.compile(r"(part-)?\d[\w-]*", re.ASCII)
"""What Hive and Spark call files that they give no suffix: 000000_0, part-00000."""
_TABLE_MARKS = (DELTA_LOG, ".hoodie", "_spark_metadata")
"""What is in the folder of a table, of Delta, of Hudi, of a Spark stream: files below may be of former versions."""
_DELIMITERS = ";\t|,"
_OPENERS: dict[str, Callable[[Path], Any]] = {".gz": gzip.GzipFile, ".bz2": bz2.BZ2File}
"""Of compressed text, as Spark reads it."""
_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"PK\x03\x04": "a zip archive", b"\x28\xb5\x2f\xfd": "Zstandard"}


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
    """Whether a mapping may read a file as CSV or JSON: by its suffix, or as Hive and Spark name parts of a table."""
    return format_of(file) is not None or _IS_PART.fullmatch(file.name) is not None


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
        raise InputError(f"{owner}: expected {path}, found {found} there; correct the path")
    if settings.format in (None, "delta") and (path / DELTA_LOG).is_dir():
        return InputFiles("delta", path, ())
    if settings.format == "delta" or settings.version is not None or settings.as_of is not None:
        raise InputError(f"{owner}: expected a Delta table, found no {DELTA_LOG} in {path}; correct path or format")
    # also through a link
    own = path.parent.resolve() / path.name if "*" in path.name else path.resolve()
    for folder in own.parents:
        if mark := next((mark for mark in _TABLE_MARKS if (folder / mark).exists()), None):
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
    files = [file for each in listings for file in sorted([*each.files, *each.skipped])]
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
    if kind == "parquet":
        own = [file for each in listings for file in each.files]
    else:
        # a file that is named itself is read whatever its suffix says
        has_format = settings.format is not None
        named = [f for f in files if format_of(f) == kind or f == path or (has_format and _IS_PART.fullmatch(f.name))]
        own = [file for file in named if not _is_empty(file)]
        if named and not own:
            raise InputError(f"{owner}: expected lines of {kind} in {path}, found empty files alone; write them again")
    if not own:
        raise InputError(f"{owner}: expected {kind} files in {path}, found none; correct path or format")
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


def _is_empty(file: Path) -> bool:
    """Whether a file of lines has none; a compressed one of nothing has bytes of its own."""
    if not file.stat().st_size:
        return True
    if file.suffix not in _OPENERS:
        return False
    try:
        with _open_text(file) as stream:
            return not stream.read(1)
    except (OSError, EOFError, zlib.error):
        return False  # reading its first line says what is wrong


def format_of(path: Path) -> str | None:
    """The format that a file's name tells."""
    suffix = _uncompressed(path).suffix.lower()
    return next((kind for kind, suffixes in _SUFFIXES.items() if suffix in suffixes), None)


def _uncompressed(path: Path) -> Path:
    return path.with_suffix("") if path.suffix in _OPENERS else path


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
    _require_partitions(owner, found)
    partitions = [part.partition("=")[0] for part in found.files[0].relative_to(found.root).parent.parts if "=" in part]
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
            schema = read_footer(file).schema
            for field in schema:
                if pa.types.is_time(field.type):  # Spark stops, whether it is read or not
                    raise InputError(
                        f"{owner}: expected columns that Spark can read in {file}, found times of day ({field.type}) "
                        f"in {field.name!r}; write the file without that column, or with text in it"
                    )
            _require_different(owner, [*schema.names, *read], file)
            names |= dict.fromkeys(schema.names)
        return [*names, *partitions]
    if found.format == "json":
        for file in found.files:
            _check_lines(owner, file)
        return None
    header = _read_headers(owner, settings, found)
    _require_different(owner, [*header, *partitions], found.files[0])
    return [*header, *partitions]


def _require_partitions(owner: str, found: InputFiles) -> None:
    """Refuse files in folders of other columns than those of the rest: Spark would leave some out without a word."""
    first: tuple[str, ...] | None = None
    for file in found.files:
        parts = file.relative_to(found.root).parent.parts
        own = tuple(part.partition("=")[0].casefold() for part in parts if "=" in part)
        if first is None:
            first = own
        if own != first:
            of_both = [" and ".join(f"{name}=" for name in names) or "no such folder" for names in (first, own)]
            raise InputError(
                f"{owner}: expected all files in folders of the same columns (NAME=VALUE), found {of_both[0]} of "
                f"{found.files[0]}, {of_both[1]} of {file}; move one of them, or read them as inputs of their own"
            )


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


def read_header(file: Path, delimiter: str) -> list[str]:
    """The first line of a CSV file; InputError where that is no text in UTF-8."""
    try:
        with _open_text(file) as stream:
            line = stream.readline(MAX_HEADER_BYTES)
            while line and not line.strip():  # Spark passes over empty lines too
                line = stream.readline(MAX_HEADER_BYTES)
        if packed := next((name for sign, name in _COMPRESSED.items() if line.startswith(sign)), None):
            raise InputError(f"{file}: expected CSV, found {packed}; unpack it, or name it as Spark knows it: x.csv.gz")
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


def _check_lines(owner: str, file: Path) -> None:
    """Raise InputError where a JSON file does not have one object a line: Spark reads the first of a line."""
    try:
        with _open_text(file) as stream:
            lines = [stream.readline(MAX_HEADER_BYTES).decode(errors="replace") for _ in range(2)]
    except (OSError, EOFError, zlib.error):
        return  # Spark says what it cannot read
    line, second = (text.removeprefix("\ufeff").strip() for text in lines)
    end = _end_of_value(line)
    if end is None:
        # one line that cannot be read is counted and quarantined; of an object over several lines no line can be
        if line and second and _end_of_value(second) is None:
            raise InputError(
                f"{owner}: expected one JSON object a line in {file}, found {line[:20]!r} and {second[:20]!r} as its "
                "first lines; write each object into one line, as jq -c does"
            )
        return
    if second := second_object(line):
        raise two_objects(owner, str(file), second)


def second_object(line: str) -> str:
    """What a line of JSON has behind its value, which Spark does not read; empty where it has nothing, or no value."""
    line = line.removeprefix("\ufeff").strip()
    end = _end_of_value(line)
    return "" if end is None else line[end:].strip(" ,")


def two_objects(owner: str, where: str, second: str) -> InputError:
    """The error of a line of JSON with a second value."""
    return InputError(
        f"{owner}: expected one JSON object a line in {where}, found another one behind the first: {second[:60]!r}; "
        "write a line break between them"
    )


def _end_of_value(line: str) -> int | None:
    """Where the JSON value ends that a line begins with; None where it is none."""
    try:
        return json.JSONDecoder().raw_decode(line)[1]
    except (ValueError, RecursionError):
        return None


@dataclass(frozen=True)
class ParquetGroup:
    """Files of one input that Spark reads together, and what becomes of columns that differ in other files.

    Attributes
    ----------
    left_out : columns of which nothing is read
    doubles : numbers, whole ones in some files
    nanoseconds : as of ``nanosecond_columns``
    """

    files: list[Path]
    left_out: list[str]
    doubles: list[str]
    nanoseconds: dict[str, bool]


def group_by_types(owner: str, files: Sequence[Path], settings: InputSettings) -> list[ParquetGroup]:
    """Parquet files in groups of equal types, which a union makes one table of.

    Numbers of several types are one column there, but for ids, and so are times of several units. Where a file has a
    column without any value, as pandas writes it, nothing is read of it; nor of a column of several other types that
    the mapping does not read.

    Raises
    ------
    InputError
        If a column that is read has one type in some file and another type in another.
    """
    stored = {file: _stored_types(file) for file in files}
    first: dict[str, dict[pa.DataType, Path]] = {}
    for file, kinds in stored.items():
        for name, kind in kinds.items():
            first.setdefault(name, {}).setdefault(kind, file)
    mixed = {name: kinds for name, kinds in first.items() if len(kinds) > 1}
    unread, doubles = [], []
    for name, kinds in mixed.items():
        (one, file), *others = [each for each in kinds.items() if not pa.types.is_null(each[0])]
        is_id = settings.has_id(name)
        differing = next((each for each in others if _family(each[0], is_id) != _family(one, is_id)), None)
        if differing and settings.reads(name):
            other, another = differing
            raise InputError(
                f"{owner}: expected one type of the column {name!r}, found {one} in {file} and {other} in {another}; "
                "write the files alike"
            )
        if differing:
            unread.append(name)
        elif any(map(pa.types.is_floating, kinds)):
            doubles.append(name)
    groups: dict[tuple[pa.DataType | None, ...], ParquetGroup] = {}
    for file, kinds in stored.items():
        key = tuple(map(kinds.get, mixed))
        if key not in groups:
            left_out = [name for name in mixed if name in unread or pa.types.is_null(kinds.get(name, pa.string()))]
            kept = {name: kinds[name] for name in mixed if name in kinds and name not in left_out}
            times = {name: kind for name, kind in kept.items() if pa.types.is_timestamp(kind)}
            nanoseconds = {name: kind.tz is not None for name, kind in times.items() if kind.unit == "ns"}
            groups[key] = ParquetGroup([], left_out, [name for name in doubles if name in kept], nanoseconds)
        groups[key].files.append(file)
    return list(groups.values())


def _stored_types(file: Path) -> dict[str, pa.DataType]:
    """Type of each column as Spark tells them apart: Arrow alone knows dictionaries and large texts."""
    footer = read_footer(file)
    plain = {pa.large_string(): pa.string(), pa.large_binary(): pa.binary()}
    kinds = {field.name: field.type for field in footer.schema}
    kinds = {name: kind.value_type if pa.types.is_dictionary(kind) else kind for name, kind in kinds.items()}
    kinds = {name: plain.get(kind, kind) for name, kind in kinds.items()}
    columns = map(footer.metadata.schema.column, range(len(footer.metadata.schema)))
    # Spark's own form of a time, an instant, which pyarrow takes for nanoseconds without a zone
    return kinds | {each.path: pa.timestamp("us", "UTC") for each in columns if each.physical_type == "INT96"}


def _family(kind: pa.DataType, is_id: bool) -> object:
    """What columns of two types have in common where they can be one; a float would not hold all ids."""
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        return ("number", is_id and pa.types.is_floating(kind))
    return ("time", kind.tz is None) if pa.types.is_timestamp(kind) else kind


def mixes_nanoseconds(files: Sequence[Path]) -> bool:
    """Whether a column of Parquet files has times in nanoseconds in one, and another type in another."""
    kinds: dict[str, set[pa.DataType]] = {}
    for file in files:
        for name, kind in _stored_types(file).items():
            kinds.setdefault(name, set()).add(kind)
    mixed = [kind for own in kinds.values() if len(own) > 1 for kind in own]
    return any(pa.types.is_timestamp(kind) and kind.unit == "ns" for kind in mixed)


def nanosecond_columns(files: Sequence[Path]) -> dict[str, bool]:
    """Columns of Parquet files whose times Spark reads as numbers -> whether they are instants."""
    times = [field for file in files for field in read_footer(file).schema if pa.types.is_timestamp(field.type)]
    return {field.name: field.type.tz is not None for field in times if field.type.unit == "ns"}


def _open_text(file: Path) -> Any:
    return _OPENERS[file.suffix](file) if file.suffix in _OPENERS else file.open("rb")


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
