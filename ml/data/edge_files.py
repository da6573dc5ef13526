"""Reads a rank's share of a graph, and its items' vectors, from Parquet files."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ml.data.edges import EdgeShare
from ml.data.row_groups import Reader, as_training_error, read_row_groups
from schemas.columns import CLIENT_ID, ITEM_NUMBER, TARGET_NUMBER, VECTOR
from schemas.errors import TrainingError


def read_edges(urls: Sequence[str], n_edges: int, reader: Reader) -> EdgeShare:
    """The edges of some files, one row group after the other.

    Raises
    ------
    TrainingError
        If a file cannot be read, or the files hold another number of edges than was said.
    """
    client_ids, targets = np.empty(n_edges, np.int64), np.empty(n_edges, np.int32)
    n_seen = 0
    with as_training_error("cannot read edges of the graph", "were files vacuumed or moved?"):
        for rows in read_row_groups(urls, (CLIENT_ID, TARGET_NUMBER), None, reader) if urls else ():
            end = n_seen + len(rows)
            # more rows than the arrays have room for are counted on, for the message below
            if end <= n_edges:
                client_ids[n_seen:end] = rows.column(CLIENT_ID)
                targets[n_seen:end] = rows.column(TARGET_NUMBER)
            n_seen = end
    # a reader that loses row groups, and files that were replaced, go unnoticed but for this count
    if n_seen != n_edges:
        raise TrainingError(f"read {n_seen} of {n_edges} edges of {len(urls)} files; was the table rewritten?")
    return EdgeShare.of(client_ids, targets)


def read_item_vectors(urls: Sequence[str], n_items: int, width: int, reader: Reader) -> NDArray[np.float32]:
    """Float32 [V, E], rows of ``item_number`` and ``vector``; zeros of an item without one.

    Raises
    ------
    TrainingError
        If a file cannot be read.
    """
    vectors = np.zeros((n_items, width), np.float32)
    with as_training_error("cannot read vectors of the graph's items", "run the stage again"):
        for rows in read_row_groups(urls, (ITEM_NUMBER, VECTOR), None, reader):
            packed = rows.column(VECTOR).combine_chunks()
            vectors[rows.column(ITEM_NUMBER).to_numpy()] = packed.flatten().to_numpy().reshape(len(rows), width)
    return vectors
