"""Next item: each token is predicted from those before it (Kang and McAuley 2018, section 3.5)."""

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from ml.data.sequence_batch import SequenceBatch
from ml.objectives.item_prediction import ItemPrediction, predict_tokens, require_last_token
from ml.objectives.protocol import TrainingBatch
from schemas.tokens import PAD


class NextItem(ItemPrediction):
    """The task of causal encoders; one that sees what comes after would copy its labels."""

    needs_causal: bool | None = True
    takes_packed = True

    def prepare(self, batch: SequenceBatch[Tensor], generator: torch.Generator, most_targets: int = 0) -> TrainingBatch:
        """Every row moves one position to the right: where a token was, the one before it is seen. UNK is a label."""
        inputs = moved_right(batch)
        prepared = predict_tokens(inputs, batch.token_ids, inputs.token_ids != PAD, most_targets)
        return self.with_negatives(prepared, batch, generator)

    def most_targets(self, lengths: NDArray[np.integer], n_positions: int) -> int:
        """All tokens but the first of each sequence."""
        return int(lengths.sum()) - len(lengths)

    def without_last(self, batch: SequenceBatch[Tensor]) -> SequenceBatch[Tensor]:
        """The rows without their last tokens."""
        require_last_token(batch.token_ids)
        return moved_right(batch)


def moved_right(batch: SequenceBatch[Tensor]) -> SequenceBatch[Tensor]:
    """Each sequence one position to the right: its last token goes, PAD comes before its first."""
    moved = batch.map(lambda column: F.pad(column[:, :-1], (1, 0), value=PAD))
    if moved.segments is None or batch.segments is None:
        return moved
    is_same = torch.eq(moved.segments, batch.segments)  # not where a sequence begins: there its neighbour's token came
    return moved.map(lambda column: torch.where(is_same, column, PAD))
