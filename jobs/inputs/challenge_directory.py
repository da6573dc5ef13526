"""The source files of a challenge directory: where they lie and whether they keep the contract's form.

Everything here reads Parquet footers and the small ``.npy`` files only, so that a wrong directory is refused
within seconds, before Spark starts and before the output directory is touched.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from conf.pipeline import PipelineConfig
from schemas.behaviours import PRODUCT_BUY, ItemKind
from schemas.errors import InputError
from schemas.tables import (
    INTEGERS,
    PRODUCT_CONTRACT,
    PRODUCT_PROPERTIES,
    TEXT,
    TIME,
    ColumnContract,
    events_contract,
)
from schemas.tasks import PROPENSITY

TARGET = "target"
RELEVANT_CLIENTS = "input/relevant_clients.npy"
ACTIVE_CLIENTS = f"{TARGET}/active_clients.npy"

_SPARK_INTEGERS = {
    "int8": "byte",
    "int16": "short",
    "int32": "integer",
    "int64": "long",
    "uint8": "short",
    "uint16": "integer",
    "uint32": "long",
    "uint64": "decimal(20,0)",
}


@dataclass(frozen=True)
class StoredColumn:
    """How a column lies in a Parquet file.

    Attributes
    ----------
    name : of the column
    spark_type : to read it as, by Spark's own name
    form : ``plain``: the values themselves; ``instant``: a time that is adjusted to UTC; ``nanoseconds`` since 1970,
        in UTC or in wall time; ``nothing``: the file knows no type for it, every value is null
    """

    name: str
    spark_type: str
    form: Literal["plain", "instant", "nanoseconds", "nothing"] = "plain"


@dataclass(frozen=True)
class FileGroup:
    """Files of one source that store the contract's columns alike, so that one schema reads them all."""

    files: tuple[Path, ...]
    columns: tuple[StoredColumn, ...]


def check_challenge(data: Path, config: PipelineConfig) -> None:
    """Raise InputError for the first thing that no run could get over: what was expected, found, where, what to do."""
    if not data.is_dir():
        raise InputError(
            f"--data {data}: expected a challenge directory with {PRODUCT_BUY}.parquet and "
            f"{PRODUCT_PROPERTIES.name}.parquet in it, found {'a file' if data.exists() else 'nothing'}; "
            "name an existing directory, or make one with `ubp generate`"
        )
    for name, contract in source_contracts(config).items():
        if (source := source_path(data, name)).exists():
            check_columns(source, contract)
        elif name in (PRODUCT_BUY, PRODUCT_PROPERTIES.name):
            found = sorted(path.name for path in data.glob("*.parquet"))
            raise InputError(f"{source} is missing; found {found or 'no Parquet file'} there; every run needs it")
    if count_rows(source_path(data, PRODUCT_BUY)) == 0:
        raise InputError(f"{source_path(data, PRODUCT_BUY)} holds no purchase; windows and labels come from purchases")
    check_id_files(data)


def source_contracts(config: PipelineConfig) -> dict[str, tuple[ColumnContract, ...]]:
    """Source name -> its columns, for every file that the configuration reads."""
    events = {
        name: events_contract(behaviour.item, ItemKind(behaviour.kind)) for name, behaviour in config.behaviours.items()
    }
    return {**events, PRODUCT_PROPERTIES.name: PRODUCT_CONTRACT}


def source_path(data: Path, name: str) -> Path:
    """One Parquet file, or a folder of them."""
    return data / f"{name}.parquet"


def parquet_files(source: Path) -> list[Path]:
    """The Parquet files of a source, in name order; InputError for a folder without any.

    Files and folders whose names start with a dot or underscore are what writers leave behind, not data.
    """
    if source.is_file():
        return [source]
    files = sorted(path for path in source.rglob("*.parquet") if path.is_file() and _is_data(path.relative_to(source)))
    if not files:
        raise InputError(f"{source}: expected Parquet files in this folder, found none; remove it or fill it")
    return files


def count_rows(source: Path) -> int:
    """Rows of a source, from its files' footers."""
    return sum(_footer(path).metadata.num_rows for path in parquet_files(source))


def check_columns(source: Path, contract: Sequence[ColumnContract]) -> None:
    """Raise InputError unless every file of the source has these columns, each once, with these kinds of value."""
    for path in parquet_files(source):
        schema = _footer(path).schema_arrow
        problems = [
            f"column {column.column!r}: expected {column.kind}, found {_types_of(schema, column.column)}"
            for column in contract
            if _spellings(schema, column.column) != [column.column]
            or not _is_of_kind(schema.field(column.column).type, column.kind)
        ]
        if problems:
            raise InputError(
                f"{path}: {'; '.join(problems)}; the columns there are {schema.names}; write the file again"
            )


def group_files(source: Path, contract: Sequence[ColumnContract]) -> list[FileGroup]:
    """The files of a source by how they store the contract's columns, in name order; one group where all are alike.

    The source must have passed ``check_columns``.
    """
    groups: dict[tuple[StoredColumn, ...], list[Path]] = {}
    for path in parquet_files(source):
        footer = _footer(path)
        groups.setdefault(tuple(_stored_as(footer, column) for column in contract), []).append(path)
    return [FileGroup(tuple(files), columns) for columns, files in groups.items()]


def check_id_files(data: Path) -> None:
    """Raise InputError if one of the ``.npy`` files that the directory has cannot be used."""
    for path in (data / RELEVANT_CLIENTS, data / ACTIVE_CLIENTS):
        read_id_array(path)
    for task in PROPENSITY:
        labels = read_id_array(data / TARGET / f"{task}.npy")
        if labels is not None:
            read_popularity(data / TARGET / f"popularity_{task}.npy", len(labels))


def read_id_array(path: Path) -> np.ndarray | None:
    """The ids of a challenge file, int64 [N], in the file's order; None where there is no such file.

    Raises
    ------
    InputError
        If it is not a non-empty list of distinct integers.
    """
    if not path.exists():
        return None
    ids = _load_array(path)
    if ids.ndim != 1 or ids.dtype.kind not in "iu" or len(ids) == 0:
        found = f"{ids.dtype} of shape {list(ids.shape)}"
    elif len(np.unique(ids)) < len(ids):
        found = f"{len(ids) - len(np.unique(ids)):,} repeated ids"
    else:
        return ids.astype(np.int64)
    raise InputError(
        f"{path}: expected a non-empty one-dimensional array of distinct integers, found {found}; "
        "write the file anew, or remove it to have the list derived from the events"
    )


def read_popularity(path: Path, n_labels: int) -> np.ndarray | None:
    """The popularity of each label, float64 [n_labels]; None where there is no such file.

    Raises
    ------
    InputError
        If it is not one number, 0 or above, per label.
    """
    if not path.exists():
        return None
    values = _load_array(path)
    is_numbers = values.ndim == 1 and values.dtype.kind in "iuf" and len(values) == n_labels
    if is_numbers and np.isfinite(values).all() and (values >= 0).all():
        return values.astype(np.float64)
    raise InputError(
        f"{path}: expected {n_labels} finite numbers of 0 or above, one per label, found "
        f"{values.dtype} of shape {list(values.shape)}; write the file anew, or remove it to have it derived"
    )


def _load_array(path: Path) -> np.ndarray:
    try:
        return np.load(path, allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise InputError(f"{path}: expected a .npy array, found: {error}; write the file anew or remove it") from error


def _footer(path: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"{path} is not a whole Parquet file: {error}; copy or write it again") from error


def _is_data(path: Path) -> bool:
    return not any(part.startswith((".", "_")) for part in path.parts)


def _spellings(schema: pa.Schema, name: str) -> list[str]:
    """The columns of this name, in any case: Spark reads none of several that differ in case alone."""
    return [found for found in schema.names if found.lower() == name.lower()]


def _types_of(schema: pa.Schema, name: str) -> str:
    found = [
        f"{field.type} in {field.name!r}" if field.name != name else str(field.type)
        for field in schema
        if field.name.lower() == name.lower()
    ]
    return " and ".join(found) or "none"


def _is_of_kind(found: pa.DataType, kind: str) -> bool:
    if pa.types.is_null(found):
        return True
    found = _value_type(found)
    is_text = pa.types.is_string(found) or pa.types.is_large_string(found)
    if kind == INTEGERS:
        return bool(pa.types.is_integer(found))
    return bool(is_text or (kind == TIME and pa.types.is_timestamp(found)))


def _value_type(found: pa.DataType) -> pa.DataType:
    return found.value_type if pa.types.is_dictionary(found) else found


def _stored_as(footer: pq.ParquetFile, column: ColumnContract) -> StoredColumn:
    found = _value_type(footer.schema_arrow.field(column.column).type)
    if pa.types.is_null(found):
        return StoredColumn(column.column, "long" if column.kind == INTEGERS else "string", "nothing")
    if column.kind == INTEGERS:
        return StoredColumn(column.column, _SPARK_INTEGERS[str(found)])
    if column.kind == TEXT or not pa.types.is_timestamp(found):
        return StoredColumn(column.column, "string")
    return _stored_time(footer.metadata.schema, column.column)


def _stored_time(schema: pq.ParquetSchema, name: str) -> StoredColumn:
    """How a typed timestamp is stored; the Arrow schema beside it may tell another unit or zone."""
    (stored,) = (schema.column(index) for index in range(len(schema)) if schema.column(index).path == name)
    if stored.physical_type == "INT96":
        return StoredColumn(name, "timestamp", "instant")
    logical = json.loads(stored.logical_type.to_json())
    if logical["timeUnit"] == "nanoseconds":
        return StoredColumn(name, "long", "nanoseconds")
    return (
        StoredColumn(name, "timestamp", "instant")
        if logical["isAdjustedToUTC"]
        else StoredColumn(name, "timestamp_ntz")
    )
