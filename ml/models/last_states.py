"""What a GPU computes for the rows of a batch by way of packed ones, the last hidden states first of all."""

from collections.abc import Callable

import torch
from torch import Tensor

from ml.data.packing import pack_rows
from ml.data.sequence_batch import SequenceBatch
from ml.models.protocol import SequenceEncoder

POSITIONS = 32_768
"""Of a packed batch without gradients: enough to keep a GPU busy."""


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
    return by_packed_rows(encoder, batch, encoder.encode_at)


def by_packed_rows(
    encoder: SequenceEncoder,
    batch: SequenceBatch[Tensor],
    function: Callable[[SequenceBatch[Tensor], Tensor], Tensor],
) -> Tensor:
    """Float [B, D], what a function gives for each row of a batch; float32, on the encoder's device.

    Parameters
    ----------
    batch : as of ``encode_last``
    function : a packed batch of N sequences, and where each ends in it (int64 [N], flat) -> float [N, D]
    """
    found = torch.empty(len(batch), encoder.hidden_size, device=encoder.device)
    for rows, ends, packed in pack_rows(batch.map(lambda column: column.cpu().numpy()), POSITIONS):
        own = function(packed.tensors(encoder.device), torch.from_numpy(ends).to(encoder.device))
        found[torch.from_numpy(rows).to(encoder.device)] = own.float()
    return found
