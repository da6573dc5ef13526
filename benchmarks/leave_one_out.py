"""Rating and review sequences with the last item of each user held out, for the benchmarks on published data.

A file has one row per interaction: ``user_id``, ``item_id`` (integers) and ``position`` (in the user's
history, oldest first). It is Parquet, or ``.npz`` with an array of each name, for machines without pyarrow:

    python benchmarks/leave_one_out.py FILE.parquet FILE.npz
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

COLUMNS = ("user_id", "item_id", "position")
FIRST_ITEM = 3
"""As in ``schemas.tokens``: the environments of other libraries have this file only."""


@dataclass(frozen=True)
class Histories:
    """The users' items in order, oldest first.

    Attributes
    ----------
    tokens : int32 [T], token ids from FIRST_ITEM by falling count, then item id; one user after the other
    offsets : int64 [N + 1], user n's tokens are ``tokens[offsets[n]:offsets[n + 1]]``
    n_items : distinct items
    """

    tokens: NDArray[np.int32]
    offsets: NDArray[np.int64]
    n_items: int

    def rows(self, n_held_out: int = 0, max_length: int | None = None) -> list[NDArray[np.int32]]:
        """Each user's items without the last ``n_held_out``; of what is left the last ``max_length``."""
        histories = np.split(self.tokens, self.offsets[1:-1])
        kept = [history[: len(history) - n_held_out] for history in histories]
        return [history[-max_length:] for history in kept] if max_length else kept


def read_histories(path: Path, min_count: int = 5) -> Histories:
    """The histories of a file, without items of fewer than ``min_count`` interactions and users of fewer than 3."""
    user_ids, item_ids, positions = read_columns(path)
    items, item_numbers, counts = np.unique(item_ids, return_inverse=True, return_counts=True)
    is_kept = counts[item_numbers] >= min_count
    _, user_numbers, lengths = np.unique(user_ids[is_kept], return_inverse=True, return_counts=True)
    is_long = lengths[user_numbers] >= 3
    user_numbers, positions = user_numbers[is_long], positions[is_kept][is_long]
    by_user = np.lexsort((positions, user_numbers))
    ranked = np.lexsort((items, -counts))  # item numbers, most frequent first
    token_of_item = np.empty(len(items), np.int32)
    token_of_item[ranked] = np.arange(FIRST_ITEM, FIRST_ITEM + len(items))
    tokens = token_of_item[item_numbers[is_kept][is_long]][by_user]
    offsets = np.concatenate([[0], np.cumsum(lengths[lengths >= 3])])
    return Histories(tokens, offsets.astype(np.int64), int((counts >= min_count).sum()))


def read_columns(path: Path) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """The columns of a Parquet or ``.npz`` file, each int64 [T]."""
    if path.suffix == ".npz":
        with np.load(path) as arrays:
            user_ids, item_ids, positions = (arrays[name].astype(np.int64) for name in COLUMNS)
    else:
        import pyarrow.parquet

        table = pyarrow.parquet.read_table(path, columns=list(COLUMNS))
        user_ids, item_ids, positions = (table[name].to_numpy().astype(np.int64) for name in COLUMNS)
    return user_ids, item_ids, positions


def main() -> None:
    """Convert a Parquet file to ``.npz``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    arguments = parser.parse_args()
    columns = [column.astype(np.int32) for column in read_columns(arguments.source)]
    np.savez_compressed(arguments.target, **dict(zip(COLUMNS, columns, strict=True)))


if __name__ == "__main__":
    main()
