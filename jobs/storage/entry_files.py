"""Entries: the ``.npy`` files that are scored; and the files of stored vectors, read batch by batch.

An entry is ``client_ids.npy`` int64 [N] and ``embeddings.npy`` float16 [N, width], row ``position`` holding
the client at that position of the clients table. Nothing here holds a whole entry in memory.
"""

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyspark.sql import DataFrame

from conf.profile import MAX_WIDTH
from jobs.storage.delta_tables import list_files
from jobs.storage.entry_rules import BATCH_ROWS, CLIENT_IDS, EMBEDDINGS
from jobs.storage.locations import readable_path
from ml.files.atomic import replace_folder
from ml.files.store import arrow_system
from schemas.columns import CLIENT_ID, POSITION
from schemas.errors import EntryError


class EntryWriter:
    """Fills an entry's arrays on disk, batch by batch, in any order of rows.

    The files grow in a hidden folder beside ``folder``. When the block of the context manager ends well, and every
    row was filled, it becomes ``folder``; else it is removed, and the former entry stays as it was.

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
        try:
            _allocate(self.staging / CLIENT_IDS, np.dtype(np.int64), (n_clients,))
            _allocate(self.staging / EMBEDDINGS, np.dtype(np.float16), (n_clients, width))
        except OSError:
            shutil.rmtree(self.staging, ignore_errors=True)
            raise
        self._is_filled = np.zeros(n_clients, dtype=bool)

    def write(self, positions: np.ndarray, client_ids: np.ndarray, vectors: np.ndarray) -> None:
        """Put one batch into its rows.

        Parameters
        ----------
        positions, client_ids : int64 [n]
        vectors : float16 [n, width]

        Raises
        ------
        EntryError
            If a position is out of range or already filled, or a vector has another width.
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
        self._mapped(CLIENT_IDS)[positions] = client_ids
        self._mapped(EMBEDDINGS)[positions] = vectors
        self._is_filled[positions] = True

    def _mapped(self, name: str) -> np.memmap:
        # mapped anew for each batch: pages of a mapping that stays open would count as this process' memory
        return np.lib.format.open_memmap(self.staging / name, mode="r+")

    def _commit(self) -> None:
        missing = np.flatnonzero(~self._is_filled)
        if len(missing):
            raise EntryError(
                f"{self.folder}: expected {len(self._is_filled)} rows, found none for {len(missing)}, the first "
                f"at position {missing[0]}; were the clients and the profiles made by the same run?"
            )
        for name in (CLIENT_IDS, EMBEDDINGS):
            self._mapped(name).flush()
        replace_folder(self.staging, self.folder)

    def __enter__(self) -> "EntryWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self._commit()
        finally:
            shutil.rmtree(self.staging, ignore_errors=True)  # after a commit it is there no more


def _allocate(path: Path, dtype: np.dtype, shape: tuple[int, ...]) -> None:
    """Make a ``.npy`` file with room on disk for all of the array.

    A write through a map into a file with holes would end the process by a signal where the disk is full; here it is an
    OSError.
    """
    np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
    with path.open("r+b") as file:
        os.posix_fallocate(file.fileno(), 0, path.stat().st_size)


def stream_batches(paths: Sequence[str], columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """The given columns of Parquet files, in batches of at most ``BATCH_ROWS`` rows that are not empty.

    The files are named as by ``readable_path``.
    """
    for path in paths:
        system, name = arrow_system(path)
        with pq.ParquetFile(name, filesystem=system) as file:
            for batch in file.iter_batches(BATCH_ROWS, columns=list(columns)):
                if batch.num_rows:
                    yield batch


def rectangle(lists: pa.ListArray, dtype: np.dtype) -> np.ndarray:
    """A list column as [n, width]; EntryError if its lists differ in length."""
    lengths = pc.min_max(pc.list_value_length(lists)).as_py()
    if lengths["min"] != lengths["max"] or lists.null_count:
        raise EntryError(f"expected vectors of one width, found {lengths['min']} to {lengths['max']}, or nulls")
    # not lists.values, which are those of the whole array where this is a slice of one
    return lists.flatten().to_numpy(zero_copy_only=False).astype(dtype, copy=False).reshape(len(lists), -1)


def read_client_ids(paths: Sequence[str]) -> np.ndarray:
    """The clients of the clients table's files, int64 [N], by position."""
    batches = [
        (batch.column(POSITION).to_numpy(), batch.column(CLIENT_ID).to_numpy())
        for batch in stream_batches(paths, [POSITION, CLIENT_ID])
    ]
    client_ids = np.empty(sum(len(positions) for positions, _ in batches), dtype=np.int64)
    for positions, ids in batches:
        client_ids[positions] = ids
    return client_ids


def position_finder(client_ids: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """What gives the position of each of some ids (int64 [n]), all of them among ``client_ids``, which are by position.

    It keeps two arrays as long as ``client_ids``.
    """
    positions = np.argsort(client_ids)
    rising = client_ids[positions]
    return lambda ids: positions[np.searchsorted(rising, ids)]


def snapshot_files(snapshot: DataFrame) -> list[str]:
    """Paths of the files that hold a snapshot's rows, in a stated order."""
    return [readable_path(file.url) for file in list_files(snapshot, partition_by=())]
