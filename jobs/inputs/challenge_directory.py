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

from conf.pipeline import PipelineConfig
from jobs.inputs.footers import Footer, find_undecodable, read_footer
from jobs.inputs.listing import parquet_files
from ml.files.npy import NpyError, open_npy
from schemas.behaviours import PRODUCT_BUY, ItemKind
from schemas.errors import InputError
from schemas.tables import (
    INTEGERS,
    PRODUCT_CONTRACT,
    PRODUCT_PROPERTIES,
    TEXT,
    events_contract,
)
from schemas.tasks import PROPENSITY

TARGET = "target"
RELEVANT_CLIENTS = "input/relevant_clients.npy"
ACTIVE_CLIENTS = f"{TARGET}/active_clients.npy"

# the narrowest of Spark's types that holds each; Spark has no unsigned ones
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
    """How a column lies in a Parquet file, and the type that Spark reads it as.

    The form ``plain`` is the values themselves; ``instant`` a time that is adjusted to UTC; ``nanoseconds`` those since
    1970, in UTC or in wall time; ``nothing`` is a column of nulls that the file knows no type for.
    """

    name: str
    spark_type: str
    form: Literal["plain", "instant", "nanoseconds", "nothing"] = "plain"


@dataclass(frozen=True)
class FileGroup:
    """Files of one source that store the contract's columns alike, so that one schema reads them all.

    Where ``is_plain`` is false, pyarrow cannot open them: Spark can.
    """

    files: tuple[Path, ...]
    columns: tuple[StoredColumn, ...]
    is_plain: bool = True


def check_challenge(data: Path, config: PipelineConfig) -> None:
    """Raise InputError for the first thing that no run could get over: what was expected, found, where, what to do."""
    if not data.is_dir():
        raise InputError(
            f"--data {data}: expected a challenge directory with {PRODUCT_BUY}.parquet and "
            f"{PRODUCT_PROPERTIES.name}.parquet in it, found {'a file' if data.exists() else 'nothing'}; "
            "name an existing directory, or make one with `ubp generate`"
        )
    contracts = {name: events_contract(read.item, ItemKind(read.kind)) for name, read in config.behaviours.items()}
    for name, contract in {**contracts, PRODUCT_PROPERTIES.name: PRODUCT_CONTRACT}.items():
        if (source := source_path(data, name)).exists() or source.is_symlink():  # a link to nothing is refused
            group_files(source, contract)
        elif name in (PRODUCT_BUY, PRODUCT_PROPERTIES.name):
            found = sorted(path.name for path in data.iterdir())
            raise InputError(f"{source} is missing; found {found or 'nothing'} there; every run needs it")
    if count_rows(source_path(data, PRODUCT_BUY)) == 0:
        raise InputError(f"{source_path(data, PRODUCT_BUY)} holds no purchase; windows and labels come from purchases")
    _require_merged_events(data, config)
    # read for their checks alone: the stages that need these files read them again
    for name in (RELEVANT_CLIENTS, ACTIVE_CLIENTS):
        read_id_array(data / name)
    for task in PROPENSITY:
        labels = read_id_array(data / TARGET / f"{task}.npy")
        if labels is not None:
            read_popularity(data / TARGET / f"popularity_{task}.npy", len(labels))


def _require_merged_events(data: Path, config: PipelineConfig) -> None:
    """Raise InputError for an encoder of several behaviours none of which has an event; others are left out later."""
    for name, encoder in config.encoders.items():
        sources = [source_path(data, behaviour) for behaviour in encoder.behaviours]
        if encoder.is_merged and not any(source.exists() and count_rows(source) for source in sources):
            raise InputError(
                f"encoders.{name}: expected events of one of {', '.join(encoder.behaviours)}, found none in {data}; "
                f"add a file such as {sources[0].name}, or leave the encoder out (--set encoders.{name}=null)"
            )


def source_path(data: Path, name: str) -> Path:
    """One Parquet file, or a folder of them."""
    return data / f"{name}.parquet"


def count_rows(source: Path) -> int:
    """Rows of a source, from its files' footers."""
    return sum(read_footer(path).metadata.num_rows for path in parquet_files(source))


def group_files(source: Path, contract: Sequence[tuple[str, str]]) -> list[FileGroup]:
    """The files of a source by how they store the contract's columns, in name order; one group where all are alike.

    Parameters
    ----------
    contract : columns, each with the kind of its values

    Raises
    ------
    InputError
        Unless every file has these columns, each once, with these kinds of value, stored as Spark can decode them.
    """
    groups: dict[tuple[tuple[StoredColumn, ...], bool], list[Path]] = {}
    for path in parquet_files(source):
        footer = read_footer(path)
        columns, problems = [], []
        for name, kind in contract:
            # Spark reads none of several columns that differ in case alone, so all of them are looked at
            fields = [field for field in footer.schema if field.name.lower() == name.lower()]
            stored = _stored_as(footer, name, kind) if [field.name for field in fields] == [name] else None
            if stored:
                columns.append(stored)
            else:
                types = [
                    f"{field.type}" if field.name == name else f"{field.type} in {field.name!r}" for field in fields
                ]
                problems.append(f"column {name!r}: expected {kind}, found {' and '.join(types) or 'none'}")
        if problems:
            raise InputError(
                f"{path}: {'; '.join(problems)}; the columns there are {footer.schema.names}; write the file again"
            )
        if problems := find_undecodable(footer.metadata, [name for name, _ in contract]):
            raise InputError(
                f"{path}: {'; '.join(problems)}; write the file again with the defaults of pyarrow or Spark"
            )
        groups.setdefault((tuple(columns), footer.is_plain), []).append(path)
    return [FileGroup(tuple(files), *key) for key, files in groups.items()]


def read_id_array(path: Path) -> np.ndarray | None:
    """The ids of a challenge file, int64 [N], in the file's order; None where there is no such file.

    Raises
    ------
    InputError
        If it is not a non-empty list of distinct integers.
    """
    ids = _load_array(path)
    if ids is None:
        return None
    if ids.ndim != 1 or ids.dtype.kind not in "iu" or len(ids) == 0:
        found = f"{ids.dtype} of shape {list(ids.shape)}"
    elif int(ids.max()) > np.iinfo(np.int64).max:  # of uint64 numpy itself would compare floats
        found = f"{ids.max()}, which is beyond int64"
    elif len(np.unique(ids)) < len(ids):
        found = f"{len(ids) - len(np.unique(ids)):,} repeated ids"
    else:
        return np.array(ids, dtype=np.int64)  # a copy: no map of the file stays open
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
    values = _load_array(path)
    if values is None:
        return None
    is_numbers = values.ndim == 1 and values.dtype.kind in "iuf" and len(values) == n_labels
    if is_numbers and np.isfinite(values).all() and (values >= 0).all():
        return np.array(values, dtype=np.float64)
    raise InputError(
        f"{path}: expected {n_labels} finite numbers of 0 or above, one per label, found "
        f"{values.dtype} of shape {list(values.shape)}; write the file anew, or remove it to have it derived"
    )


def _load_array(path: Path) -> np.ndarray | None:
    if not path.exists() and not path.is_symlink():
        return None
    try:
        return open_npy(path)
    except NpyError as error:
        raise InputError(f"{path}: expected a .npy array, found {error}; write the file anew or remove it") from error


def _stored_as(footer: Footer, name: str, kind: str) -> StoredColumn | None:
    """How a file stores a column; None where it holds another kind of value than the contract's."""
    found = footer.schema.field(name).type
    if pa.types.is_null(found):
        return StoredColumn(name, "long" if kind == INTEGERS else "string", "nothing")
    if pa.types.is_dictionary(found):
        found = found.value_type
    if kind == INTEGERS:
        return StoredColumn(name, _SPARK_INTEGERS[str(found)]) if pa.types.is_integer(found) else None
    if pa.types.is_string(found) or pa.types.is_large_string(found):
        return StoredColumn(name, "string")
    if kind == TEXT or not pa.types.is_timestamp(found):
        return None
    # Parquet's own schema says how a time is stored; the Arrow schema beside it may tell another unit or zone
    schema = footer.metadata.schema
    # pyarrow finds a column of this schema by its number alone
    (stored,) = (schema.column(index) for index in range(len(schema)) if schema.column(index).path == name)
    if stored.physical_type == "INT96":
        return StoredColumn(name, "timestamp", "instant")
    # pyarrow tells the unit and zone of a logical type as JSON alone
    logical = json.loads(stored.logical_type.to_json())
    if logical["timeUnit"] == "nanoseconds":
        return StoredColumn(name, "long", "nanoseconds")  # Spark has no type for it
    if logical["isAdjustedToUTC"]:
        return StoredColumn(name, "timestamp", "instant")
    return StoredColumn(name, "timestamp_ntz")
