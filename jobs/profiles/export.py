"""Profiles and blocks -> entries: the only place where vectors become float16.

A column that holds a number beyond float16's range is divided by the smallest power of two that brings it in; the other
columns stay as they are. The driver reads the files of the tables itself, twice, some rows at a time: first for the
largest number of each column, then to write.
"""

import json
import logging
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import partial, reduce
from itertools import chain
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pyspark.sql import DataFrame

from jobs.blocks.table import Block, dense_vectors
from jobs.storage.delta_tables import list_files
from jobs.storage.entry_files import (
    EntryWriter,
    position_finder,
    read_client_ids,
    rectangle,
    snapshot_files,
    stream_batches,
)
from jobs.storage.entry_rules import COLUMN_EXPONENTS
from jobs.storage.locations import readable_path
from schemas import columns as c
from schemas.blocks import ENSEMBLE
from schemas.errors import EntryError

FEATURE_NAMES = "feature_names.json"
"""In the folder of a block's entry: the name of each column. No other entry has it."""
CLIENT_KEYS = "client_keys.parquet"
"""In the folder of an entry: ``position``, ``client_id`` and ``client_key`` of each row, in any order."""

log = logging.getLogger(__name__)

Rows = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]
"""Some rows of an entry: positions [n], client ids [n], vectors [n, d]."""


def export_profiles(profiles: DataFrame, folders: Mapping[str, Path], n_clients: int) -> dict[str, int]:
    """Write the entry of each profile; the widths by name.

    Parameters
    ----------
    profiles : snapshot of ``tables/profiles``, or files of the same columns and partitions, that Python can read
    folders : profile -> folder of its entry
    """
    files = _files_by(profiles, c.PROFILE)

    def read(name: str) -> Iterator[Rows]:
        for batch in stream_batches(files[name,], [c.CLIENT_ID, c.VECTOR, c.POSITION]):
            vectors = rectangle(batch.column(c.VECTOR), np.dtype(np.float32))
            yield batch.column(c.POSITION).to_numpy(), batch.column(c.CLIENT_ID).to_numpy(), vectors

    return {
        name: _export(partial(read, name), folder, n_clients, partial(write_keys, files[name,]))
        for name, folder in folders.items()
    }


def write_keys(files: Sequence[str], folder: Path) -> None:
    """Write ``client_keys.parquet``, the user's own text for each client of an entry, where they have one.

    Parameters
    ----------
    files : of one profile
    """
    batches = stream_batches(files, [c.POSITION, c.CLIENT_ID, c.CLIENT_KEY])
    first = next(batches, None)
    # all clients have a text, or none has: their ids are texts, or integers
    if first is None or first.column(c.CLIENT_KEY).null_count == first.num_rows:
        return
    with pq.ParquetWriter(folder / CLIENT_KEYS, first.schema) as writer:
        for batch in chain([first], batches):
            writer.write_batch(batch)


def export_blocks(
    rows: DataFrame,
    clients: DataFrame,
    cutoff: datetime,
    blocks: Mapping[Path, Block],
    profiles: DataFrame | None = None,
) -> None:
    """Write the entry of each block: its vectors at the cutoff, zeros for clients that are not present.

    Parameters
    ----------
    rows : snapshot of ``tables/blocks`` whose files Python can read
    clients : snapshot of the clients table, likewise
    blocks : folder of an entry -> its block
    profiles : snapshot of ``tables/profiles``, likewise, which has the clients' own ids; None writes none of these
    """
    client_ids = read_client_ids(snapshot_files(clients))
    find_positions = position_finder(client_ids)
    files = _files_by(rows, c.BLOCK, c.CUTOFF)
    # blocks have no texts; each profile has those of all clients
    keys = _files_by(profiles, c.PROFILE)[ENSEMBLE,] if profiles is not None else []

    def read(block: Block) -> Iterator[Rows]:
        for batch in stream_batches(files[block.name, cutoff], [c.CLIENT_ID, c.VECTOR, c.IS_PRESENT]):
            own = batch.column(c.CLIENT_ID).to_numpy()
            is_present = batch.column(c.IS_PRESENT).to_numpy(zero_copy_only=False)
            vectors = dense_vectors(batch.column(c.VECTOR), is_present, len(block.columns))
            yield find_positions(own), own, vectors

    def write_more(block: Block, folder: Path) -> None:
        (folder / FEATURE_NAMES).write_text(json.dumps(block.columns, indent=1))
        write_keys(keys, folder)

    for folder, block in blocks.items():
        _export(partial(read, block), folder, len(client_ids), partial(write_more, block))


def column_exponents(peaks: NDArray[np.floating]) -> NDArray[np.int32]:
    """The smallest e >= 0 of each column for which its numbers divided by 2^e are within float16's range.

    Parameters
    ----------
    peaks : float [d], the largest magnitude of each column
    """
    # x = m * 2^e with 0.5 <= m < 1, so that 2^e brings it to 1 or below; a power of two needs one less
    mantissas, exponents = np.frexp(peaks.astype(np.float64) / float(np.finfo(np.float16).max))
    return np.maximum(0, exponents - (mantissas == 0.5)).astype(np.int32)


def to_float16(vectors: NDArray[np.floating]) -> NDArray[np.float16]:
    """The vectors [n, d] in the format of an entry; EntryError if a number is not finite, or beyond float16's range."""
    with np.errstate(over="ignore"):  # what is too large becomes infinite, and is reported below
        halves = vectors.astype(np.float16)
    is_bad = ~np.isfinite(halves)
    if is_bad.any():
        where = tuple(int(index) for index in np.argwhere(is_bad)[0])
        raise EntryError(
            f"an entry holds finite numbers up to {np.finfo(np.float16).max:.0f}; found {vectors[where]} at "
            f"{list(where)}, {is_bad.sum()} such in all; look at the training loss"
        )
    return halves


def _export(
    read: Callable[[], Iterator[Rows]], folder: Path, n_clients: int, write_more: Callable[[Path], None]
) -> int:
    """Write an entry of the rows that ``read`` gives, the same ones each time; its width.

    Parameters
    ----------
    write_more : writes other files into a folder, which become part of the entry
    """
    # one exponent holds for a whole column: all of it is read before the first row is written
    peaks = reduce(np.maximum, (np.abs(vectors).max(axis=0) for _, _, vectors in read()))
    exponents = column_exponents(peaks)
    with EntryWriter(folder, n_clients, len(peaks)) as writer:
        write_more(writer.staging)
        if exponents.any():
            (writer.staging / COLUMN_EXPONENTS).write_text(json.dumps(exponents.tolist()))
        for positions, client_ids, vectors in read():
            # ldexp changes no digit of a number
            writer.write(positions, client_ids, to_float16(np.ldexp(vectors, -exponents)))
    log.info("  entry %s: %s clients x %d", folder.name, f"{n_clients:,}", len(peaks))
    if n_divided := int((exponents > 0).sum()):
        log.info(
            "  entry %s: %d of %d columns divided by powers of two to fit into float16, see %s",
            *(folder.name, n_divided, len(peaks), COLUMN_EXPONENTS),
        )
    return len(peaks)


def _files_by(snapshot: DataFrame, *partition_by: str) -> dict[tuple[object, ...], list[str]]:
    """Partition values -> paths of the files."""
    files: dict[tuple[object, ...], list[str]] = defaultdict(list)
    for file in list_files(snapshot, partition_by):
        files[tuple(file.partition[name] for name in partition_by)].append(readable_path(file.url))
    return files
