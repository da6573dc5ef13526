"""Rows of like length put together in batches, and batches made ahead."""

import contextlib
from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np

Rows = TypeVar("Rows", bound=Any)
Batch = TypeVar("Batch")


def rows_per_batch(tokens_per_batch: int, width: int) -> int:
    """How many rows of ``width`` positions a batch may hold; at least one."""
    return max(1, tokens_per_batch // max(1, width))


def cut(rows: Rows, n_rows: int) -> Iterator[Rows]:
    """Anything with a length and slices, in pieces of ``n_rows``; the last may be shorter."""
    return (rows[start : start + n_rows] for start in range(0, len(rows), n_rows))


def like_length_batches(lengths: np.ndarray, tokens_per_batch: int) -> Iterator[np.ndarray]:
    """Row numbers, batch by batch, longest rows first, so that little of a batch is padding.

    Every row comes once; rows of equal length keep their order. A batch's rows times its longest row are at most
    ``tokens_per_batch``, unless a single row is longer than that.

    Parameters
    ----------
    lengths : integers [N], tokens of each row

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


def read_ahead(batches: Generator[Batch, None, None], n_ahead: int) -> Generator[Batch, None, None]:
    """The same batches, the next ``n_ahead`` of them made by a thread while the caller works with one.

    With 0 each is made when it is asked for. An error of the thread is raised instead of the batch. Closing ends the
    thread, after the batch that it is making.
    """
    if not n_ahead:
        yield from batches
        return
    # one thread: a generator that runs in one cannot be asked by another
    thread = ThreadPoolExecutor(1, "feed")
    with contextlib.closing(batches):
        try:
            # None for the end: a StopIteration from ``result`` would become a RuntimeError in this generator (PEP 479)
            ready = deque(thread.submit(next, batches, None) for _ in range(n_ahead))
            while (batch := ready.popleft().result()) is not None:
                ready.append(thread.submit(next, batches, None))
                yield batch
        finally:
            # waits for the thread, and before ``batches`` is closed: a generator that runs cannot be
            thread.shutdown(cancel_futures=True)
