"""The hidden state of each sequence's last token."""

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
    states = torch.empty(height, encoder.hidden_size, device=encoder.device)
    for rows, ends, packed in pack_rows(batch.map(lambda column: column.cpu().numpy()), POSITIONS):
        found = encoder.encode_at(packed.tensors(encoder.device), torch.from_numpy(ends).to(encoder.device))
        states[torch.from_numpy(rows).to(encoder.device)] = found.float()
    return states
