"""From token sequences to one vector per sequence.

Legend of shapes: B batch, L sequence, D hidden.
"""

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from conf.encoders import InferenceSettings
from ml.data.batching import like_length_batches
from ml.data.sequence_batch import SequenceBatch, Sequences
from ml.models.protocol import SequenceEncoder, evaluating
from schemas.tokens import MASK, PAD, UNK


def embed_sequences(model: SequenceEncoder, sequences: Sequences, settings: InferenceSettings) -> NDArray[np.float32]:
    """One vector of the last layer per sequence, in the order given.

    Of a sequence longer than the model's ``max_length`` the last tokens are read, as in training. What else is in
    the batch, and how wide it is padded, does not change a row.

    Parameters
    ----------
    model : is left in the mode it is in; runs without dropout
    settings : how a sequence's token vectors become one, and the positions of one forward pass

    Returns
    -------
    float32 [N, D]

    Raises
    ------
    ValueError
        If a sequence holds no token, or a token id that is no event of this model's vocabulary.
    """
    _require_known_tokens(sequences, model.vocabulary.n_tokens)
    n_added = int(settings.pooling == "mask")
    lengths = np.minimum(sequences.lengths, model.max_length - n_added)
    vectors = np.empty((len(sequences), model.hidden_size), dtype=np.float32)
    with evaluating(model):
        for rows in like_length_batches(lengths + n_added, settings.tokens_per_batch):
            batch = sequences.batch(rows, width=int(lengths[rows].max()))
            vectors[rows] = _pool(model, batch.tensors(model.device), settings).float().cpu().numpy()
    return vectors


def _pool(model: SequenceEncoder, batch: SequenceBatch[Tensor], settings: InferenceSettings) -> Tensor:
    """Float [B, D] of left-padded sequences."""
    if settings.pooling == "mask":
        batch = _with_mask(batch)
    height, width = batch.shape
    if settings.pooling in ("last", "mask"):
        # of each row only the last token's vector is wanted: the last block computes no other
        return model.encode_at(batch, torch.arange(1, height + 1, device=model.device) * width - 1)
    age = torch.arange(width - 1, -1, -1, device=model.device)  # [L], 0 is the last token's
    weights = torch.exp2(-age / settings.half_life) if settings.pooling == "recency" else torch.ones_like(age)
    is_token = (batch.token_ids != PAD).unsqueeze(-1)  # [B, L, 1]
    weights = torch.where(is_token, weights.unsqueeze(-1), 0.0)  # [B, L, 1]
    # where, not a product: what stands at PAD means nothing, and nothing may leak from it
    total = (torch.where(is_token, model.encode(batch), 0.0) * weights).sum(dim=1)  # [B, D]
    return total / weights.sum(dim=1)


def _with_mask(batch: SequenceBatch[Tensor]) -> SequenceBatch[Tensor]:
    """The batch with one more position: a MASK of no event type, at the time of the last event."""
    longer = batch.map(lambda column: F.pad(column, (0, 1)))
    longer.token_ids[:, -1] = MASK
    if longer.timestamps is not None:
        longer.timestamps[:, -1] = longer.timestamps[:, -2]
    return longer


def _require_known_tokens(sequences: Sequences, n_tokens: int) -> None:
    n_empty = int((sequences.lengths == 0).sum())
    if n_empty:
        raise ValueError(f"{n_empty} of {len(sequences)} sequences hold no token; leave absent clients out")
    if len(sequences) == 0:
        return
    tokens = sequences.tokens[sequences.offsets[0] : sequences.offsets[-1]]
    lowest, highest = int(tokens.min()), int(tokens.max())
    if lowest < UNK or highest >= n_tokens:
        raise ValueError(
            f"token ids from {lowest} to {highest} found; this model's events are {UNK} to {n_tokens - 1}: "
            "the sequences were built with another vocabulary"
        )
