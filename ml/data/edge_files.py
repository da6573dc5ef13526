"""Reads a rank's share of a graph from Parquet files."""

from collections.abc import Sequence

import numpy as np

from ml.data.edges import EdgeShare
from ml.data.row_groups import Reader, as_training_error, read_row_groups
from schemas.columns import CLIENT_ID, TARGET_NUMBER
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
