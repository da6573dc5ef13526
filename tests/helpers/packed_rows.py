"""The same sequences as left-padded rows and as packed ones."""

import numpy as np
import torch

from ml.data.packing import pack_batches
from ml.data.sequence_batch import SequenceBatch, Sequences, Tokens
from schemas.tokens import FIRST_ITEM


def random_sequences(n: int, n_tokens: int, longest: int = 8, seed: int = 0) -> Sequences:
    """Rows of 2 to ``longest`` items."""
    generator = np.random.default_rng(seed)
    return Sequences.from_rows(
        [generator.integers(FIRST_ITEM, n_tokens, generator.integers(2, longest + 1)) for _ in range(n)]
    )


def both_layouts(sequences: Sequences, n_rows: int = 8, width: int = 32) -> tuple[SequenceBatch[Tokens], ...]:
    """Left-padded, and packed into one batch; all of the sequences must fit."""
    longest = int(sequences.lengths.max())
    padded = SequenceBatch(sequences.padded(np.arange(len(sequences)), longest))
    (packed,) = pack_batches(iter([padded]), n_rows, width)
    return padded, packed


def tokens_by_sequence(batch: SequenceBatch[torch.Tensor], of_positions: torch.Tensor) -> list[torch.Tensor]:
    """What stands at the positions of each sequence (tensor [B, L, ...]); packed sequences come by their number."""
    if batch.segments is None:
        return [row[tokens != 0] for row, tokens in zip(of_positions, batch.token_ids, strict=True)]
    flat, numbers = of_positions.flatten(0, 1), batch.segments.flatten()
    return [flat[numbers == number] for number in range(1, int(numbers.max()) + 1)]
