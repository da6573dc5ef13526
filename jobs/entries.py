"""Entries: the ``.npy`` files that are scored, and the stored vectors they are made of.

An entry is ``client_ids.npy`` int64 [N] and ``embeddings.npy`` float16 [N, width], row ``position`` holding
the client at that position of the clients table. Nothing here holds a whole entry in memory.
"""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyspark.sql import DataFrame

from jobs.io import list_files, local_path
from ml.ensemble import to_float16
from ml.folders import replace_folder
from schemas import columns as c
from schemas.errors import EntryError

CLIENT_IDS = "client_ids.npy"
EMBEDDINGS = "embeddings.npy"
MAX_WIDTH = 2048
"""Most numbers in a profile (the challenge's rule)."""

BATCH_ROWS = 8192


class EntryWriter:
    """Fills an entry's arrays on disk, batch by batch, in any order of rows.

    The files grow in a hidden folder beside ``folder``, which takes its place only in ``commit``: a run that
    dies leaves the former entry as it was. As a context manager it commits when the block ends well.

    Attributes
    ----------
    staging : the hidden folder; files put there become part of the entry
    """

    def __init__(self, folder: Path, n_clients: int, width: int) -> None:
        if not 1 <= width <= MAX_WIDTH:
            raise EntryError(
                f"{folder}: a profile has 1 to {MAX_WIDTH} numbers, found {width}; make the models smaller"
            )
        self.folder, self.width = folder, width
        self.staging = folder.with_name(f".{folder.name}.partial")
        shutil.rmtree(self.staging, ignore_errors=True)
        self.staging.mkdir(parents=True)
        open_memmap = np.lib.format.open_memmap
        self._ids = open_memmap(self.staging / CLIENT_IDS, mode="w+", dtype=np.int64, shape=(n_clients,))
        self._rows = open_memmap(self.staging / EMBEDDINGS, mode="w+", dtype=np.float16, shape=(n_clients, width))
        self._is_filled = np.zeros(n_clients, dtype=bool)

    def write(self, positions: np.ndarray, client_ids: np.ndarray, vectors: np.ndarray) -> None:
        """Put one batch into its rows.

        Parameters
        ----------
        positions, client_ids : int64 [n]
        vectors : float32 [n, width]

        Raises
        ------
        EntryError
            If a position is out of range or already filled, a vector has another width, or a number is not
            finite in float16.
        """
        if vectors.shape != (len(positions), self.width):
            raise EntryError(f"{self.folder}: expected vectors [{len(positions)}, {self.width}], found {vectors.shape}")
        outside = positions[(positions < 0) | (positions >= len(self._is_filled))]
        if len(outside):
            raise EntryError(
                f"{self.folder}: expected positions below {len(self._is_filled)}, found {outside[0]}; was the clients "
                "table written anew since?"
            )
        repeated = len(positions) - len(np.unique(positions)) + int(self._is_filled[positions].sum())
        if repeated:
            raise EntryError(f"{self.folder}: expected one row per client, found {repeated} positions more than once")
        self._ids[positions] = client_ids
        self._rows[positions] = to_float16(vectors)
        self._is_filled[positions] = True

    def commit(self) -> None:
        """Check that every row was filled and put the entry in its place; EntryError if one was not."""
        missing = np.flatnonzero(~self._is_filled)
        if len(missing):
            raise EntryError(
                f"{self.folder}: expected {len(self._is_filled)} rows, found none for {len(missing)}, the first "
                f"at position {missing[0]}; were the clients and the profiles made by the same run?"
            )
        self._close()
        replace_folder(self.staging, self.folder)

    def discard(self) -> None:
        """Remove what was written so far."""
        self._close()
        shutil.rmtree(self.staging, ignore_errors=True)

    def _close(self) -> None:
        self._ids.flush()
        self._rows.flush()
        del self._ids, self._rows

    def __enter__(self) -> "EntryWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            try:
                self.commit()
            except EntryError:
                self.discard()
                raise
        else:
            self.discard()


def write_entry(
    snapshot: DataFrame,
    column: str,
    folder: Path,
    shape: tuple[int, int],
    extra_files: Mapping[str, str] | None = None,
) -> None:
    """Stream one vector column of a stored frame into an entry.

    Parameters
    ----------
    snapshot, column : as in ``stream_vectors``
    shape : clients and width of the entry
    extra_files : name -> text, written beside the arrays
    """
    with EntryWriter(folder, *shape) as writer:
        for name, text in (extra_files or {}).items():
            (writer.staging / name).write_text(text)
        for positions, client_ids, vectors in stream_vectors(snapshot, column):
            writer.write(positions, client_ids, vectors)


def stream_vectors(
    snapshot: DataFrame, column: str, batch_rows: int = BATCH_ROWS
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Batches of a stored frame: positions int64 [n], client ids int64 [n], vectors float32 [n, width].

    The driver reads the files itself, ``batch_rows`` at a time: collecting would hold every row at once.

    Parameters
    ----------
    snapshot : a Delta table or Parquet folder as it was read, with ``position``, ``client_id`` and ``column``
        (array<float>, one width); filters on it have no effect

    Raises
    ------
    EntryError
        If vectors differ in width.
    """
    names = [c.POSITION, c.CLIENT_ID, column]
    for batch in stream_batches(snapshot_files(snapshot), names, batch_rows):
        positions, client_ids, vectors = (batch.column(name) for name in names)
        yield positions.to_numpy(), client_ids.to_numpy(), rectangle(vectors, np.dtype(np.float32))


def stream_batches(paths: Sequence[str], columns: list[str], batch_rows: int = BATCH_ROWS) -> Iterator[pa.RecordBatch]:
    """The given columns of Parquet files, in batches of at most ``batch_rows`` rows that are not empty."""
    for path in paths:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_rows, columns=columns):
                if batch.num_rows:
                    yield batch


def rectangle(lists: pa.ListArray, dtype: np.dtype) -> np.ndarray:
    """A list column as [n, width]; EntryError if its lists differ in length."""
    lengths = pc.min_max(pc.list_value_length(lists)).as_py()
    if lengths["min"] != lengths["max"] or lists.null_count:
        raise EntryError(f"expected vectors of one width, found {lengths['min']} to {lengths['max']}, or nulls")
    return lists.flatten().to_numpy(zero_copy_only=False).astype(dtype, copy=False).reshape(len(lists), -1)


def snapshot_files(snapshot: DataFrame) -> list[str]:
    """Paths of the files that hold a snapshot's rows, in a stated order."""
    return [local_path(file.url) for file in list_files(snapshot, partition_by=())]


@contextmanager
def stored(frame: DataFrame, folder: Path) -> Iterator[DataFrame]:
    """The frame as read back from Parquet files in ``folder``, which is removed when the block ends."""
    try:
        frame.write.mode("overwrite").parquet(str(folder))
        yield frame.sparkSession.read.parquet(str(folder))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def validate_entry(folder: Path, expected_ids: np.ndarray) -> None:
    """Check an entry against the competition's format.

    Parameters
    ----------
    expected_ids : int64 [N], the relevant clients, in any order

    Raises
    ------
    EntryError
        Naming every broken rule at once.
    """
    ids, id_problems = _open_array(folder / CLIENT_IDS, np.dtype(np.int64), n_axes=1)
    rows, row_problems = _open_array(folder / EMBEDDINGS, np.dtype(np.float16), n_axes=2)
    problems = id_problems + row_problems
    if ids is not None:
        problems += _id_problems(ids, expected_ids)
    if rows is not None:
        problems += _row_problems(rows)
    if ids is not None and rows is not None and len(ids) != len(rows):
        problems.append(f"{EMBEDDINGS} has {len(rows):,} rows, {CLIENT_IDS} {len(ids):,}")
    if problems:
        raise EntryError(f"entry {folder}: {'; '.join(problems)}; make the entry anew")


def _open_array(path: Path, dtype: np.dtype, n_axes: int) -> tuple[np.ndarray | None, list[str]]:
    if not path.exists():
        return None, [f"{path.name} is missing"]
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        return None, [f"{path.name} is not a .npy array ({error})"]
    problems = []
    if array.dtype != dtype:
        problems.append(f"{path.name} is {array.dtype}, expected {dtype}")
    if array.ndim != n_axes:
        problems.append(f"{path.name} has {array.ndim} axes, expected {n_axes}")
    is_readable = array.ndim == n_axes and array.dtype.kind == dtype.kind
    return (array if is_readable else None), problems


def _id_problems(ids: np.ndarray, expected_ids: np.ndarray) -> list[str]:
    found, counts = np.unique(ids, return_counts=True)
    numbers = {
        "relevant clients are missing": len(np.setdiff1d(expected_ids, found)),
        "ids are not relevant clients": len(np.setdiff1d(found, expected_ids)),
        "ids are there more than once": int((counts > 1).sum()),
    }
    return [f"{number:,} {claim}" for claim, number in numbers.items() if number]


def _row_problems(rows: np.ndarray) -> list[str]:
    problems = []
    if not 1 <= rows.shape[1] <= MAX_WIDTH:
        problems.append(f"{EMBEDDINGS} is {rows.shape[1]} wide, expected 1 to {MAX_WIDTH}")
    n_nan = n_infinite = 0
    for start in range(0, len(rows), BATCH_ROWS):
        batch = rows[start : start + BATCH_ROWS]
        n_nan += int(np.isnan(batch).sum())
        n_infinite += int(np.isinf(batch).sum())
    if n_nan:
        problems.append(f"{EMBEDDINGS} holds {n_nan:,} NaN")
    if n_infinite:
        problems.append(f"{EMBEDDINGS} holds {n_infinite:,} infinite numbers")
    return problems
