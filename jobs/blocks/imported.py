"""Entries from elsewhere (``ensemble.blocks`` NAME=DIR) -> blocks.

An entry does not say which clients are present: all are, and a row of zeros is a vector like any other.
"""

from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession

from conf.profile import EnsembleSettings
from jobs.blocks.table import VECTORS_DDL, Block, vector_rows, write_block
from jobs.storage.delta_tables import read_as_files
from jobs.storage.entry_files import read_client_ids, snapshot_files
from jobs.storage.entry_rules import CLIENT_IDS, COLUMN_EXPONENTS, EMBEDDINGS, validate_entry
from jobs.storage.files import read_json
from jobs.storage.locations import mounted_path
from jobs.storage.workspace import Workspace
from schemas.errors import EntryError
from schemas.tables import CLIENTS

ROWS_PER_BATCH = 8192


def import_blocks(settings: EnsembleSettings, clients: DataFrame, cutoff: datetime, workspace: Workspace) -> None:
    """Write a block of each entry that ``settings.blocks`` names with its folder; executors open the folders too.

    Parameters
    ----------
    clients : the clients table

    Raises
    ------
    EntryError
        If an entry breaks a rule of the format, or is not of these clients.
    """
    folders = {name: mounted_path(folder) for name, folder in settings.named_blocks.items() if folder}
    if not folders:
        return
    # from the files: an array of ids, where rows that Spark collects would take hundreds of bytes each
    client_ids = read_client_ids(snapshot_files(read_as_files(clients.sparkSession, workspace, CLIENTS)))
    for name, folder in folders.items():
        _, width = validate_entry(folder, client_ids)
        block = Block.numbered(name, width, str(folder))
        write_block(block, read_entry(clients.sparkSession, folder), clients, cutoff, workspace)


def read_entry(spark: SparkSession, folder: Path) -> DataFrame:
    """One row per client of an entry: ``client_id``, ``vector``, as it was before it was cast to float16."""
    n_rows, width = np.load(folder / EMBEDDINGS, mmap_mode="r", allow_pickle=False).shape
    path = folder / COLUMN_EXPONENTS
    exponents = read_json(path, list[int], "make the entry anew") if path.exists() else [0] * width
    if len(exponents) != width:
        raise EntryError(
            f"{path}: expected {width} exponents, one per column, found {len(exponents)}; make the entry anew"
        )
    # powers of two, by which float32 is multiplied without an error
    factors = np.exp2(np.array(exponents, np.float32))

    def read(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        ids = np.load(folder / CLIENT_IDS, mmap_mode="r", allow_pickle=False)
        vectors = np.load(folder / EMBEDDINGS, mmap_mode="r", allow_pickle=False)
        for start in (start for batch in batches for start in batch.column(0).to_pylist()):
            rows = vectors[start : start + ROWS_PER_BATCH].astype(np.float32) * factors
            yield vector_rows(pa.array(np.asarray(ids[start : start + ROWS_PER_BATCH], dtype=np.int64)), rows)

    # a row per batch: tasks open the files themselves, and no vector passes through the driver
    return spark.range(0, n_rows, ROWS_PER_BATCH).mapInArrow(read, VECTORS_DDL)
