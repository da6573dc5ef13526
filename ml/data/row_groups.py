"""The row groups of Parquet files one by one, by Petastorm or by pyarrow alone: the same ones in one order."""

import contextlib
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, Literal
from urllib.parse import unquote

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow.fs import FileSystem

Reader = Literal["petastorm", "arrow"]


def read_row_groups(
    urls: Sequence[str], columns: Sequence[str], seed: int | None, reader: Reader
) -> Iterator[pa.Table]:
    """Some columns of each row group, as Arrow holds them.

    Parameters
    ----------
    urls : of the files; without a ``seed``, row groups come in their order
    seed : what the order of row groups is drawn from, 1 or more; the same with both readers

    Raises
    ------
    OSError, pyarrow.ArrowException
        If a file cannot be read.
    """
    read = _by_petastorm if reader == "petastorm" else _by_arrow
    yield from read([unquote(url) for url in urls], list(columns), seed)


def _by_arrow(urls: list[str], columns: list[str], seed: int | None) -> Iterator[pa.Table]:
    with contextlib.ExitStack() as stack:
        files = []
        for url in urls:
            system, path = FileSystem.from_uri(url)
            files.append(stack.enter_context(pq.ParquetFile(path, filesystem=system)))
        groups = [(file, number) for file in files for number in range(file.num_row_groups)]
        order = range(len(groups)) if seed is None else np.random.default_rng(seed).permutation(len(groups))
        for position in order:
            file, number = groups[position]
            yield file.read_row_group(number, columns=columns, use_threads=False)


def _by_petastorm(urls: list[str], columns: list[str], seed: int | None) -> Iterator[pa.Table]:
    """By Petastorm's reader, but not as its own arrays, which would need rows of one length."""
    from petastorm.workers_pool import EmptyResultError  # here: the other reader is for where there is none

    with open_petastorm(urls, columns, seed) as reader, contextlib.suppress(EmptyResultError):
        while True:
            yield reader._workers_pool.get_results()


@contextlib.contextmanager
def open_petastorm(urls: list[str], columns: list[str], seed: int | None) -> Iterator[Any]:
    """Petastorm's reader, once it has handed out all row groups."""
    from petastorm import make_batch_reader

    from ml.compat.petastorm_race import wait_until_all_is_handed_out

    # Petastorm reads through pyarrow's old dataset API and is warned about it once per file
    warnings.filterwarnings("ignore", category=FutureWarning, module="petastorm")
    reader = make_batch_reader(
        urls,
        schema_fields=columns,
        # its threads look for work a thousand times a second, with or without work; ours is enough (read_ahead)
        reader_pool_type="dummy",
        shuffle_row_groups=seed is not None,
        seed=seed,
        num_epochs=1,
    )
    try:
        wait_until_all_is_handed_out(reader.ventilator)
        yield reader
    finally:  # not by Reader's own context manager, which prints
        reader.stop()
        reader.join()
