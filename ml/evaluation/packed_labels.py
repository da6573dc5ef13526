"""Labels at a bit each: a task's take an eighth of their bytes, and are unpacked batch by batch, label by label."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class PackedLabels:
    """Labels 0 and 1 of N clients, n each.

    Attributes
    ----------
    bits : uint8 [N, ceil(n / 8)], the first label in the highest bit (``numpy.packbits``)
    """

    bits: np.ndarray
    n_labels: int

    @classmethod
    def pack(cls, labels: np.ndarray) -> "PackedLabels":
        """Of an array [N, n]."""
        return cls(np.packbits(labels.astype(bool), axis=1), labels.shape[1])

    def __len__(self) -> int:
        return len(self.bits)

    def __getitem__(self, rows: np.ndarray) -> "PackedLabels":
        return PackedLabels(self.bits[rows], self.n_labels)

    def unpack(self, rows: slice) -> Tensor:
        """Uint8 [B, n]."""
        return torch.from_numpy(np.unpackbits(self.bits[rows], axis=1, count=self.n_labels))

    def columns(self) -> Iterator[Tensor]:
        """Each label of all clients, int64 [N]."""
        for number in range(self.n_labels):
            byte, bit = divmod(number, 8)
            yield torch.from_numpy((self.bits[:, byte] >> (7 - bit) & 1).astype(np.int64))
