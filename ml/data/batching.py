"""Rows of like length put together in batches."""

from collections.abc import Iterator

import numpy as np


def rows_per_batch(tokens_per_batch: int, width: int) -> int:
    """How many rows of ``width`` positions a batch may hold; at least one."""
    return max(1, tokens_per_batch // max(1, width))


def like_length_batches(lengths: np.ndarray, tokens_per_batch: int) -> Iterator[np.ndarray]:
    """Row numbers, batch by batch, longest rows first, so that little of a batch is padding.

    Every row comes once; rows of equal length keep their order. A batch's rows times its longest row are at most
    ``tokens_per_batch``, unless a single row is longer than that.

    Parameters
    ----------
    lengths : integers [N], tokens of each row
    tokens_per_batch : positions, padding included

    Yields
    ------
    int64 [b], row numbers of one batch
    """
    rows = np.argsort(-lengths, kind="stable")
    start = 0
    while start < len(rows):
        stop = start + rows_per_batch(tokens_per_batch, int(lengths[rows[start]]))
        yield rows[start:stop]
        start = stop
