"""The types of columns in the Parquet files of one input, which programs write differently from file to file."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from conf.mappings import InputSettings
from jobs.inputs.footers import read_footer
from schemas.errors import InputError

Types = Mapping[Path, Mapping[str, pa.DataType]]
"""File -> its columns' types, as ``stored_types`` gives them."""
_UNREADABLE = {"TIME": "times of day", "UUID": "UUIDs", "INTERVAL": "intervals"}
"""Parquet's logical types that Spark does not know -> how messages name their values."""


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


def group_by_types(owner: str, types: Types, settings: InputSettings) -> list[ParquetGroup]:
    """Parquet files in groups of equal types, which a union makes one table of.

    Numbers of several types are one column there, but for ids, and so are times of several units. Where a file has a
    column without any value, as pandas writes it, nothing is read of it; nor of a column of several other types that
    the mapping does not read.

    Raises
    ------
    InputError
        If a column that is read has one type in some file and another type in another.
    """
    mixed = {name: kinds for name, kinds in _files_of_types(types).items() if len(kinds) > 1}
    unread, doubles = [], []
    for name, kinds in mixed.items():
        # there is a first one: of two types or more, one at most is that of nulls
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
    for file, own in types.items():
        key = tuple(map(own.get, mixed))
        if key not in groups:
            left_out = [name for name in mixed if name in unread or pa.types.is_null(own.get(name, pa.string()))]
            kept = {name: own[name] for name in mixed if name in own and name not in left_out}
            nanoseconds = nanosecond_columns({file: kept})
            groups[key] = ParquetGroup([], left_out, [name for name in doubles if name in kept], nanoseconds)
        groups[key].files.append(file)
    return list(groups.values())


def stored_types(file: Path) -> dict[str, pa.DataType]:
    """Type of each column as Spark tells them apart: Arrow alone knows dictionaries and large texts."""
    footer = read_footer(file)
    plain = {pa.large_string(): pa.string(), pa.large_binary(): pa.binary()}
    kinds = {field.name: field.type for field in footer.schema}
    kinds = {name: kind.value_type if pa.types.is_dictionary(kind) else kind for name, kind in kinds.items()}
    kinds = {name: plain.get(kind, kind) for name, kind in kinds.items()}
    columns = map(footer.metadata.schema.column, range(len(footer.metadata.schema)))
    # Spark's own form of a time, an instant, which pyarrow takes for nanoseconds without a zone
    return kinds | {each.path: pa.timestamp("us", "UTC") for each in columns if each.physical_type == "INT96"}


def find_unreadable(schema: pq.ParquetSchema) -> dict[str, str]:
    """Columns at which Spark stops, whether they are read or not -> their types; fields of structs and lists too."""
    leaves = map(schema.column, range(len(schema)))
    kinds = {leaf.path: next((kind for kind in _UNREADABLE if kind in _logical_types(leaf)), None) for leaf in leaves}
    return {path: _UNREADABLE[kind] for path, kind in kinds.items() if kind}


def _logical_types(leaf: pq.ColumnSchema) -> tuple[str, str]:
    """By the new and the old way to say it; of intervals there is the old one alone."""
    return leaf.logical_type.type, leaf.converted_type


def _family(kind: pa.DataType, is_id: bool) -> object:
    """What columns of two types have in common where they can be one; a float would not hold all ids."""
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        return ("number", is_id and pa.types.is_floating(kind))
    return ("time", kind.tz is None) if pa.types.is_timestamp(kind) else kind


def mixes_nanoseconds(types: Types) -> bool:
    """Whether a column has times in nanoseconds in one file, and another type in another."""
    columns = _files_of_types(types).values()
    return any(_is_nanoseconds(kind) for kinds in columns if len(kinds) > 1 for kind in kinds)


def nanosecond_columns(types: Types) -> dict[str, bool]:
    """Columns whose times Spark reads as numbers -> whether they are instants."""
    stored = [(name, kind) for kinds in types.values() for name, kind in kinds.items()]
    return {name: kind.tz is not None for name, kind in stored if _is_nanoseconds(kind)}


def _files_of_types(types: Types) -> dict[str, dict[pa.DataType, Path]]:
    """Column -> each of its types -> the first file that has it so."""
    first: dict[str, dict[pa.DataType, Path]] = {}
    for file, kinds in types.items():
        for name, kind in kinds.items():
            first.setdefault(name, {}).setdefault(kind, file)
    return first


def _is_nanoseconds(kind: pa.DataType) -> bool:
    return pa.types.is_timestamp(kind) and kind.unit == "ns"
