"""The rules of the competition's entry format, checked without Spark and without an entry in memory.

An entry is a folder with ``client_ids.npy`` int64 [N], the relevant clients, each once, and ``embeddings.npy``
float16 [N, width], the same order, every number finite.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from conf.profile import MAX_WIDTH
from ml.files.npy import NpyError, open_npy
from schemas.errors import EntryError

CLIENT_IDS = "client_ids.npy"
EMBEDDINGS = "embeddings.npy"
COLUMN_EXPONENTS = "column_exponents.json"
"""In the folder of an entry that holds columns divided by powers of two: the exponent of each column."""
BATCH_ROWS = 8192
"""Rows that are read at once: 32 MiB of the widest entry."""
N_EXAMPLES = 3
"""Ids shown of those that break a rule."""


def validate_entry(folder: Path, expected_ids: np.ndarray) -> tuple[int, int]:
    """Check an entry against the competition's format; its number of clients and its width.

    Parameters
    ----------
    expected_ids : int64 [N], the relevant clients, each once, in any order

    Raises
    ------
    EntryError
        Naming every broken rule at once.
    """
    if not folder.is_dir():
        found = "a file" if folder.exists() else "nothing"
        raise EntryError(f"entry {folder}: expected a folder with {CLIENT_IDS} and {EMBEDDINGS}, found {found}")
    ids, id_problems = _open_array(folder / CLIENT_IDS, np.dtype(np.int64), kinds="iu", n_axes=1)
    rows, row_problems = _open_array(folder / EMBEDDINGS, np.dtype(np.float16), kinds="f", n_axes=2)
    problems = id_problems + row_problems
    if ids is not None:
        problems += _id_problems(ids, expected_ids)
    if rows is not None:
        problems += _row_problems(rows)
    if ids is not None and rows is not None and len(ids) != len(rows):
        problems.append(f"{EMBEDDINGS} has {len(rows):,} rows, {CLIENT_IDS} {len(ids):,}")
    if problems:
        raise EntryError(f"entry {folder}: {'; '.join(problems)}; make the entry anew")
    assert rows is not None
    n_clients, width = rows.shape
    return n_clients, width


def require_files(folder: Path, owner: str) -> None:
    """Raise EntryError unless the files of an entry are in a folder, whatever they hold.

    Parameters
    ----------
    owner : what names the folder, for the message
    """
    if missing := [name for name in (CLIENT_IDS, EMBEDDINGS) if not (folder / name).is_file()]:
        found = "none" if len(missing) > 1 else f"no {missing[0]}"
        raise EntryError(
            f"{owner}: expected {CLIENT_IDS} and {EMBEDDINGS} in {folder}, found {found}; name another folder"
        )


def _open_array(path: Path, dtype: np.dtype, kinds: str, n_axes: int) -> tuple[np.ndarray | None, list[str]]:
    """The array, memory-mapped, where its values can be looked at; and the rules that it breaks."""
    if not path.exists():
        return None, [f"{path.name} is missing"]
    try:
        array = open_npy(path)
    except NpyError as error:
        return None, [f"{path.name} is not a whole .npy array of numbers (found {error})"]
    problems = []
    if array.dtype != dtype:
        problems.append(f"{path.name} is {array.dtype}, expected {dtype}")
    if array.ndim != n_axes:
        problems.append(f"{path.name} has {array.ndim} axes, expected {n_axes}")
    # of another width: a broken rule, but the values are compared all the same
    is_readable = array.ndim == n_axes and array.dtype.kind in kinds
    return (array if is_readable else None), problems


def _id_problems(ids: np.ndarray, expected_ids: np.ndarray) -> list[str]:
    # astype would wrap larger ones around, to ids that may be clients
    is_int64 = ids <= np.uint64(np.iinfo(np.int64).max) if ids.dtype.kind == "u" else np.ones(len(ids), bool)
    found, counts = np.unique(ids[is_int64].astype(np.int64), return_counts=True)
    culprits = {
        "ids are beyond int64": ids[~is_int64],
        "relevant clients are missing": np.setdiff1d(expected_ids, found),
        "ids are not relevant clients": np.setdiff1d(found, expected_ids),
        "ids are there more than once": found[counts > 1],
    }
    return [f"{len(culprit):,} {claim}{_examples(culprit)}" for claim, culprit in culprits.items() if len(culprit)]


def _row_problems(rows: np.ndarray) -> list[str]:
    problems = []
    if not 1 <= rows.shape[1] <= MAX_WIDTH:
        problems.append(f"{EMBEDDINGS} is {rows.shape[1]} wide, expected 1 to {MAX_WIDTH}")
    broken: dict[str, Callable[[np.ndarray], np.ndarray]] = {"NaN": np.isnan, "infinite numbers": np.isinf}
    starts = range(0, max(len(rows), 1), BATCH_ROWS)  # an entry without rows gives one empty batch to concatenate
    for name, is_broken in broken.items():
        counts = np.concatenate([is_broken(rows[start : start + BATCH_ROWS]).sum(axis=1) for start in starts])
        if counts.any():
            positions = np.flatnonzero(counts)
            claim = f"{EMBEDDINGS} holds {int(counts.sum()):,} {name} in {len(positions):,} rows"
            problems.append(f"{claim}{_examples(positions, 'row ')}")
    return problems


def _examples(values: np.ndarray, of: str = "") -> str:
    """`` (7, 8, 9, ...)``"""
    shown = ", ".join(str(value) for value in values[:N_EXAMPLES].tolist())
    return f" ({of}{shown}{', ...' if len(values) > N_EXAMPLES else ''})"
