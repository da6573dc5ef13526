"""Entries: the ``.npy`` files that are scored, and the stored vectors they are made of.

An entry is ``client_ids.npy`` int64 [N] and ``embeddings.npy`` float16 [N, width], row ``position`` holding
the client at that position of the clients table. Nothing here holds a whole entry in memory.
"""

import logging
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

from jobs.storage.delta_tables import list_files
from jobs.storage.entry_rules import CLIENT_IDS, EMBEDDINGS, MAX_WIDTH
from jobs.storage.locations import local_path, spark_url
from ml.files.atomic import replace_folder
from ml.profiles.composition import float16_exponent, to_float16
from schemas import columns as c
from schemas.errors import EntryError

log = logging.getLogger(__name__)

BATCH_ROWS = 8192


class EntryWriter:
    """Fills an entry's arrays on disk, batch by batch, in any order of rows.

    The files grow in a hidden folder beside ``folder``, which takes its place only in ``commit``: a run that
    dies leaves the former entry as it was. As a context manager it commits when the block ends well.

    No number overflows: an entry that would hold one beyond float16's range is divided, whole, by the smallest power
    of two that brings it in. Only rows being written are in memory: a file stays mapped for one batch.

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
        open_memmap(self.staging / CLIENT_IDS, mode="w+", dtype=np.int64, shape=(n_clients,))
        open_memmap(self.staging / EMBEDDINGS, mode="w+", dtype=np.float16, shape=(n_clients, width))
        self._is_filled = np.zeros(n_clients, dtype=bool)
        self._exponent = 0  # rows are divided by 2 to this

    def write(self, positions: np.ndarray, client_ids: np.ndarray, vectors: np.ndarray) -> None:
        """Put one batch into its rows.

        Parameters
        ----------
        positions, client_ids : int64 [n]
        vectors : float32 [n, width]

        Raises
        ------
        EntryError
            If a position is out of range or already filled, a vector has another width, or a number is not finite.
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
        self._make_room(vectors)
        self._mapped(CLIENT_IDS)[positions] = client_ids
        self._mapped(EMBEDDINGS)[positions] = to_float16(np.ldexp(vectors, -self._exponent))
        self._is_filled[positions] = True

    def _mapped(self, name: str) -> np.memmap:
        return np.lib.format.open_memmap(self.staging / name, mode="r+")

    def _make_room(self, vectors: np.ndarray) -> None:
        """Divide the rows written so far where these numbers need a larger power of two."""
        exponent = float16_exponent(vectors)
        if exponent <= self._exponent:
            return
        factor = np.float16(2.0 ** (self._exponent - exponent))
        for start in range(0, len(self._is_filled), BATCH_ROWS):
            rows = self._mapped(EMBEDDINGS)[start : start + BATCH_ROWS]
            rows *= factor
        self._exponent = exponent

    def commit(self) -> None:
        """Check that every row was filled and put the entry in its place; EntryError if one was not."""
        missing = np.flatnonzero(~self._is_filled)
        if len(missing):
            raise EntryError(
                f"{self.folder}: expected {len(self._is_filled)} rows, found none for {len(missing)}, the first "
                f"at position {missing[0]}; were the clients and the profiles made by the same run?"
            )
        for name in (CLIENT_IDS, EMBEDDINGS):
            self._mapped(name).flush()
        replace_folder(self.staging, self.folder)
        if self._exponent:
            log.info("  entry %s: divided by 2^%d to fit into float16", self.folder.name, self._exponent)

    def discard(self) -> None:
        """Remove what was written so far."""
        shutil.rmtree(self.staging, ignore_errors=True)

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
        frame.write.mode("overwrite").parquet(spark_url(folder))
        yield frame.sparkSession.read.parquet(spark_url(folder))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
