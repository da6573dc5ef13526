"""A vocabulary of ids in arrays: items -> positions in key order -> token ids, in numpy."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from jobs.transforms.radix import rising_order
from schemas.columns import KEY, TOKEN_ID
from schemas.tokens import UNK

SLOTS_PER_ITEM = 16
"""Up to so many ids per item between the smallest and the largest, positions are read from a table of all ids."""


@dataclass(frozen=True)
class ItemPositions:
    """A behaviour's items, ids of kind ``ID``, in rising order.

    The position of the item ``keys[n]`` is ``2 * n + 1``, and that of every other id ``2 * n`` where ``n`` items are
    smaller: positions are ordered as the items are, tell known from unknown, and need 32 bits.

    Attributes
    ----------
    keys : int64 [items], rising
    token_ids : int32 [items]
    """

    keys: NDArray[np.int64]
    token_ids: NDArray[np.int32]

    def find(self, items: NDArray[np.int64]) -> NDArray[np.int32]:
        """The position of each item, int32 [rows]."""
        if self._table is None:
            n_smaller = np.searchsorted(self.keys, items)
            is_known = self.keys[np.minimum(n_smaller, len(self.keys) - 1)] == items if len(self.keys) else False
            return (2 * n_smaller + is_known).astype(np.int32)
        above = items.view(np.uint64) - self.keys[:1].view(np.uint64)  # a smaller item wraps to a huge number
        last = np.uint64(len(self._table) - 1)
        positions = self._table[np.minimum(above, last).view(np.int64)]
        outside = np.flatnonzero(above > last)
        positions[outside] = np.where(items[outside] < self.keys[0], 0, 2 * len(self.keys))
        return positions

    def token_ids_at(self, positions: NDArray[np.int32]) -> NDArray[np.int32]:
        """The token id at each position, UNK for an unknown item, int32 [rows]."""
        # an id beyond the last item has a position of its own, hence the one more
        tokens = np.append(self.token_ids, np.int32(UNK))[positions >> 1]
        tokens[positions & 1 == 0] = UNK
        return tokens

    @cached_property
    def _table(self) -> NDArray[np.int32] | None:
        """The position of each id from the smallest item to the largest; None where these are far-flung."""
        # as Python's integers: the difference may be beyond int64
        if len(self.keys) == 0 or int(self.keys[-1]) - int(self.keys[0]) > SLOTS_PER_ITEM * len(self.keys):
            return None
        is_known = np.zeros(int(self.keys[-1]) - int(self.keys[0]) + 1, np.int32)
        is_known[self.keys - self.keys[0]] = 1
        return 2 * np.cumsum(is_known, dtype=np.int32) - is_known


def collect_item_positions(vocabulary: DataFrame) -> ItemPositions:
    """The vocabulary of a behaviour whose items are ids, whole, in the driver."""
    items = np.asarray(vocabulary.select(F.col(KEY).cast("bigint"), TOKEN_ID).toPandas(), dtype=np.int64)
    items = items[rising_order(items[:, 0].copy())]
    # a copy, for a view would keep both columns
    return ItemPositions(items[:, 0].copy(), items[:, 1].astype(np.int32))
