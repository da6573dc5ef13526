"""What is known of a merged stream's items, in arrays by token id."""

import hashlib
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from schemas.behaviours import CODES_PER_QUERY
from schemas.errors import TrainingError
from schemas.tables import MAX_PRICE

N_PRICES = MAX_PRICE + 2
"""Values of ``ItemAttributes.price``: 0 and one per bucket."""
N_CODE_VALUES = 257
"""Values of ``ItemAttributes.codes``: 0 and one per code."""


@dataclass(frozen=True, eq=False)
class ItemAttributes:
    """Attributes of tokens; 0 stands for unknown, and for what a token does not have.

    Attributes
    ----------
    item_kind : uint8 [V], 0 for special tokens, else 1 + the position of the item's column among the stream's
    category : int32 [V], 1 and up by falling number of events
    price : int16 [V], 1 + bucket
    codes : int16 [V, 16], 1 + code, of a sku's name or of the query itself
    n_events : int64 [V], events before the cutoff, 0 for special tokens
    """

    item_kind: NDArray[np.uint8]
    category: NDArray[np.int32]
    price: NDArray[np.int16]
    codes: NDArray[np.int16]
    n_events: NDArray[np.int64]

    @classmethod
    def unknown(cls, n_tokens: int) -> "ItemAttributes":
        """Zeros, to be filled."""
        return cls(
            item_kind=np.zeros(n_tokens, np.uint8),
            category=np.zeros(n_tokens, np.int32),
            price=np.zeros(n_tokens, np.int16),
            codes=np.zeros((n_tokens, CODES_PER_QUERY), np.int16),
            n_events=np.zeros(n_tokens, np.int64),
        )

    def __len__(self) -> int:
        return len(self.item_kind)

    def digest(self) -> str:
        """Changes with any number in the arrays."""
        digest = hashlib.sha256()
        for field in fields(self):
            digest.update(np.ascontiguousarray(getattr(self, field.name)).data)
        return digest.hexdigest()[:16]

    def save(self, path: Path) -> None:
        """Write the arrays as a safetensors file."""
        import torch  # here: torch takes seconds to import, and the stage ``vocabulary`` writes no arrays

        from ml.files.tensor_file import write_tensors

        write_tensors(path, {field.name: torch.from_numpy(getattr(self, field.name)) for field in fields(self)})

    @classmethod
    def load(cls, path: Path) -> "ItemAttributes":
        """The arrays of a file; TrainingError if it is missing or damaged."""
        from safetensors import SafetensorError  # here: training by itself needs torch and numpy alone
        from safetensors.numpy import load_file

        try:
            return cls(**load_file(path))
        except (OSError, SafetensorError, TypeError) as error:
            raise TrainingError(
                f"{path}: expected the item attributes that train wrote, found {error}; must be in a folder that all "
                "ranks mount"
            ) from error
