"""The source files of a challenge directory: where they lie and whether they keep the contract's form.

Everything here reads Parquet footers and the small ``.npy`` files only, so that a wrong directory is refused
within seconds, before Spark starts and before the output directory is touched.
"""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from conf.settings import PipelineConfig
from schemas.behaviours import PRODUCT_BUY, ItemKind
from schemas.columns import CATEGORY, CLIENT_ID, NAME, PRICE, SKU, TIMESTAMP
from schemas.errors import InputError
from schemas.tables import PRODUCT_PROPERTIES
from schemas.tasks import PROPENSITY

INTEGERS = "an integer"
TEXT = "text"
TIME = "text or a timestamp"

TARGET = "target"
RELEVANT_CLIENTS = "input/relevant_clients.npy"
ACTIVE_CLIENTS = f"{TARGET}/active_clients.npy"

PRODUCT_COLUMNS = {SKU: INTEGERS, CATEGORY: INTEGERS, PRICE: INTEGERS, NAME: TEXT}


def check_challenge(data: Path, config: PipelineConfig) -> None:
    """Raise InputError for the first thing that no run could mend: what was expected, found, where, what to do."""
    if not data.is_dir():
        raise InputError(
            f"--data {data}: expected a challenge directory with {PRODUCT_BUY}.parquet and "
            f"{PRODUCT_PROPERTIES.name}.parquet in it, found {'a file' if data.exists() else 'nothing'}; "
            "name an existing directory, or make one with `ubp generate`"
        )
    for name, columns in required_columns(config).items():
        if (source := source_path(data, name)).exists():
            check_columns(source, columns)
        elif name in (PRODUCT_BUY, PRODUCT_PROPERTIES.name):
            found = sorted(path.name for path in data.glob("*.parquet"))
            raise InputError(f"{source} is missing; found {found or 'no Parquet file'} there; every run needs it")
    if count_rows(source_path(data, PRODUCT_BUY)) == 0:
        raise InputError(f"{source_path(data, PRODUCT_BUY)} holds no purchase; windows and labels come from purchases")
    check_id_files(data)


def required_columns(config: PipelineConfig) -> dict[str, dict[str, str]]:
    """Source name -> column -> kind of value, for every file that the configuration reads."""
    columns = {
        name: {CLIENT_ID: INTEGERS, TIMESTAMP: TIME, behaviour.item: INTEGERS if _holds_ids(behaviour.kind) else TEXT}
        for name, behaviour in config.behaviours.items()
    }
    return {**columns, PRODUCT_PROPERTIES.name: PRODUCT_COLUMNS}


def source_path(data: Path, name: str) -> Path:
    """One Parquet file, or a folder of them."""
    return data / f"{name}.parquet"


def parquet_files(source: Path) -> list[Path]:
    """The Parquet files of a source, in name order; InputError for a folder without any."""
    if source.is_file():
        return [source]
    files = sorted(
        path for path in source.rglob("*.parquet") if path.is_file() and not path.name.startswith((".", "_"))
    )
    if not files:
        raise InputError(f"{source}: expected Parquet files in this folder, found none; remove it or fill it")
    return files


def count_rows(source: Path) -> int:
    """Rows of a source, from its files' footers."""
    return sum(_footer(path).metadata.num_rows for path in parquet_files(source))


def check_columns(source: Path, columns: dict[str, str]) -> None:
    """Raise InputError unless every file of the source has these columns with these kinds of value."""
    for path in parquet_files(source):
        schema = _footer(path).schema_arrow
        problems = [
            f"column {name!r}: expected {kind}, found {schema.field(name).type if name in schema.names else 'none'}"
            for name, kind in columns.items()
            if name not in schema.names or not _is_of_kind(schema.field(name).type, kind)
        ]
        if problems:
            raise InputError(f"{path}: {'; '.join(problems)}; the columns there are {schema.names}")


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


def _holds_ids(kind: str) -> bool:
    return kind == ItemKind.ID


def _is_of_kind(found: pa.DataType, kind: str) -> bool:
    if pa.types.is_dictionary(found):
        found = found.value_type
    is_text = pa.types.is_string(found) or pa.types.is_large_string(found)
    if kind == INTEGERS:
        return bool(pa.types.is_integer(found))
    return bool(is_text or (kind == TIME and pa.types.is_timestamp(found)))
