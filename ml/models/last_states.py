"""What a GPU computes for the rows of a batch by way of packed ones, the last hidden states first of all."""

from collections.abc import Callable, Generator
from contextlib import closing
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ml.data.batching import read_ahead
from ml.data.packing import pack_sequences
from ml.data.sequence_batch import SequenceBatch, Sequences
from ml.models.protocol import SequenceEncoder

POSITIONS = 32_768
"""Of a packed batch without gradients: enough to keep a GPU busy."""
BATCHES_AHEAD = 4
"""Packed batches made by a thread while the GPU works."""


def uses_packed_rows(encoder: SequenceEncoder) -> bool:
    """Whether the encoder is quicker on packed rows where it is, and can read them."""
    return encoder.reads_segments and encoder.device.type == "cuda"


def encode_last(encoder: SequenceEncoder, batch: SequenceBatch[Tensor]) -> Tensor:
    """Float [B, D], the last token's hidden state of each row; float32, on the encoder's device.

    Parameters
    ----------
    batch : tensors [B, L], each row one client that ends in the last position and has a token or more
    """
    height, width = batch.shape
    if not uses_packed_rows(encoder):
        positions = torch.arange(1, height + 1, device=encoder.device) * width - 1
        return encoder.encode_at(batch.map(lambda column: column.to(encoder.device)), positions)
    return by_packed_rows(
        encoder, Sequences.of_padded(batch.map(lambda column: column.cpu().numpy())), encoder.encode_at
    )


def by_packed_rows(
    encoder: SequenceEncoder,
    sequences: Sequences,
    function: Callable[[SequenceBatch[Tensor], Tensor], Tensor],
) -> Tensor:
    """Float [N, D], what a function gives for each sequence; float32, on the encoder's device.

    Nothing waits for the device: its results stay there.

    Parameters
    ----------
    sequences : each has a token or more
    function : a packed batch of n sequences, and where each ends in it (int64 [n], flat) -> float [n, D]
    """
    device = encoder.device
    found = torch.empty(len(sequences), encoder.hidden_size, device=device)

    def batches() -> Generator[tuple[Tensor, SequenceBatch[NDArray[Any]]], None, None]:
        for numbers, ends, packed in pack_sequences(sequences, POSITIONS):
            of_sequences = torch.from_numpy(np.stack([numbers, ends]))
            # in the thread: what is copied from pinned memory is not waited for
            yield (of_sequences.pin_memory(), packed.pinned()) if device.type == "cuda" else (of_sequences, packed)

    with closing(read_ahead(batches(), BATCHES_AHEAD)) as ahead:
        for of_sequences, packed in ahead:
            numbers, ends = of_sequences.to(device, non_blocking=True)
            found[numbers] = function(packed.tensors(device), ends).float()
    return found
