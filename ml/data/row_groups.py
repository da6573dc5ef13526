"""The row groups of Parquet files one by one, by Petastorm or by pyarrow alone: the same ones in one order."""

import contextlib
import warnings
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from typing import Any, Literal
from urllib.parse import unquote

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ml.files.store import Store, arrow_system, is_object_store
from schemas.errors import TrainingError

Reader = Literal["auto", "petastorm", "arrow"]

FOOTERS_AT_ONCE = 8
"""From an object store each of them takes a while, and no processor time."""


Position = tuple[int, int | None]
"""A file, by its position among the urls, and one of its row groups, None for all of them."""


def read_row_groups(
    urls: Sequence[str],
    columns: Sequence[str],
    seed: int | None,
    reader: Reader,
    only: Collection[Position] = (),
) -> Iterator[pa.Table]:
    """Some columns of each row group, as Arrow holds them.

    Parameters
    ----------
    urls : of the files; without a ``seed``, row groups come in their order
    seed : what the order of row groups is drawn from, 1 or more; the same with both readers
    only : what is read of the files, in the order that all their row groups would have; all of them where it is empty

    Raises
    ------
    OSError, pyarrow.ArrowException
        If a file cannot be read.
    TrainingError
        If Petastorm is to read them, and is not installed.
    """
    has_petastorm = find_spec("petastorm") is not None
    if reader == "petastorm" and not has_petastorm:
        raise TrainingError(
            "feed.reader=petastorm: expected Petastorm to be installed, found none; install it, or set feed.reader=auto"
        )
    read = _by_petastorm if has_petastorm and reader != "arrow" else _by_arrow
    # Delta's log has paths percent-encoded; the readers open files by their names
    yield from read([unquote(url) for url in urls], list(columns), seed, set(only))


@contextlib.contextmanager
def as_training_error(failure: str, fix: str) -> Iterator[None]:
    """Turn what readers raise inside the block into a TrainingError that names the failure and what to do."""
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        raise TrainingError(f"{failure}: {error}; {fix}") from error


def read_footers(urls: Sequence[str]) -> list[pq.FileMetaData]:
    """What each file says of itself: its row groups and their rows."""
    return _footers([unquote(url) for url in urls])


def _footers(urls: list[str]) -> list[pq.FileMetaData]:
    with ThreadPoolExecutor(FOOTERS_AT_ONCE) as pool:
        return list(pool.map(_read_footer, urls))


def _read_footer(url: str) -> pq.FileMetaData:
    with _open(url) as file:
        return file.metadata


def _open(url: str, footer: pq.FileMetaData | None = None) -> pq.ParquetFile:
    system, path = arrow_system(url)
    return pq.ParquetFile(path, filesystem=system, metadata=footer)


def _by_arrow(urls: list[str], columns: list[str], seed: int | None, only: set[Position]) -> Iterator[pa.Table]:
    footers = _footers(urls)
    groups = [(file, group) for file, footer in enumerate(footers) for group in range(footer.num_row_groups)]
    # drawn as Petastorm draws its own, so that both readers give the same batches
    order = range(len(groups)) if seed is None else np.random.default_rng(seed).permutation(len(groups))
    for position in order:
        file, group = groups[position]
        if not only or only & {(file, None), (file, group)}:
            with _open(urls[file], footers[file]) as opened:  # one at a time: a table may have thousands
                rows = opened.read_row_group(group, columns=columns, use_threads=False)
            yield rows


def _by_petastorm(urls: list[str], columns: list[str], seed: int | None, only: set[Position]) -> Iterator[pa.Table]:
    """By Petastorm's reader, but not as its own arrays, which would need rows of one length."""
    from petastorm.workers_pool import EmptyResultError  # here: the other reader is for where there is none

    # the pool says by EmptyResultError that it has come to its end
    with open_petastorm(urls, columns, seed) as reader, contextlib.suppress(EmptyResultError):
        # the pool below the reader gives Arrow tables
        pool = reader._workers_pool
        if only:  # Petastorm chooses row groups by its own sharding alone, which makes ranks unequal
            pieces = pool._worker._split_pieces
            files = {path: _position(path, urls) for path in {piece.path for piece in pieces}}

            def is_wanted(task: tuple[Any, dict[str, Any]]) -> bool:
                piece = pieces[task[1]["piece_index"]]
                return bool(only & {(files[piece.path], None), (files[piece.path], piece.row_group)})

            # all row groups are in this queue by now, and none is read yet (ml/compat/petastorm_race.py)
            pool._ventilator_queue[:] = filter(is_wanted, pool._ventilator_queue)
        while True:
            yield pool.get_results()


def _position(path: str, urls: list[str]) -> int:
    # Petastorm keeps the path of a file without the scheme of its URL
    return next(number for number, url in enumerate(urls) if url.endswith(path))


@contextlib.contextmanager
def open_petastorm(urls: list[str], columns: list[str], seed: int | None) -> Iterator[Any]:
    """Petastorm's reader, once it has handed out all row groups."""
    from petastorm import make_batch_reader

    from ml.compat.petastorm_race import wait_until_all_is_handed_out
    from ml.compat.petastorm_stores import open_store

    # Petastorm reads through pyarrow's old dataset API and is warned about it once per file
    warnings.filterwarnings("ignore", category=FutureWarning, module="petastorm")
    files, system = urls, None
    if is_object_store(urls[0]):
        stores = [Store(url) for url in urls]
        files, system = open_store([store.full() for store in stores], stores[0].readers_system)
    reader = make_batch_reader(
        files,
        filesystem=system,
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
