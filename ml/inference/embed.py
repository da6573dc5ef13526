"""From token sequences to one vector per sequence.

Legend of shapes: B batch, L sequence, D hidden.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from conf.encoders import InferenceSettings
from ml.data.batching import like_length_batches
from ml.data.sequence_batch import Sequences
from ml.models.transformer import Bert4Rec, evaluating
from schemas.tokens import MASK, PAD, UNK


def embed_sequences(model: Bert4Rec, sequences: Sequences, settings: InferenceSettings) -> NDArray[np.float32]:
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
    _require_known_tokens(sequences, model.n_tokens)
    n_added = int(settings.pooling == "mask")
    lengths = np.minimum(sequences.lengths, model.max_length - n_added)
    vectors = np.empty((len(sequences), model.hidden_size), dtype=np.float32)
    with evaluating(model):
        for rows in like_length_batches(lengths + n_added, settings.tokens_per_batch):
            batch = sequences.padded(rows, width=int(lengths[rows].max()))
            token_ids = torch.from_numpy(batch).to(model.device, torch.int64)  # [B, L]
            vectors[rows] = _pool(model, token_ids, settings).float().cpu().numpy()
    return vectors


def _pool(model: Bert4Rec, token_ids: Tensor, settings: InferenceSettings) -> Tensor:
    """Float [B, D] of left-padded sequences, int64 [B, L]."""
    if settings.pooling == "last":
        return _last_vectors(model, token_ids)
    if settings.pooling == "mask":
        return _last_vectors(model, torch.nn.functional.pad(token_ids, (0, 1), value=MASK))
    age = torch.arange(token_ids.shape[1] - 1, -1, -1, device=token_ids.device)  # [L], 0 is the last token's
    weights = torch.exp2(-age / settings.half_life) if settings.pooling == "recency" else torch.ones_like(age)
    return _weighted_mean(model.encode(token_ids), token_ids, weights)


def _last_vectors(model: Bert4Rec, token_ids: Tensor) -> Tensor:
    """The vector of each row's last token, the only one that the last block computes."""
    height, width = token_ids.shape
    return model.encode_at(token_ids, torch.arange(1, height + 1, device=token_ids.device) * width - 1)


def _weighted_mean(vectors: Tensor, token_ids: Tensor, weights: Tensor) -> Tensor:
    is_token = (token_ids != PAD).unsqueeze(-1)  # [B, L, 1]
    weights = torch.where(is_token, weights.unsqueeze(-1), 0.0)  # [B, L, 1]
    # where, not a product: what stands at PAD means nothing, and nothing may leak from it
    total = (torch.where(is_token, vectors, 0.0) * weights).sum(dim=1)  # [B, D]
    return total / weights.sum(dim=1)


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
