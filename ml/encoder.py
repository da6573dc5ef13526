"""From token sequences to one vector per sequence."""

from collections.abc import Sequence

import numpy as np
import torch

from ml.batch import like_length_batches, pad_left
from ml.bert4rec import Bert4Rec, evaluating
from schemas.tokens import PAD, UNK


def embed_sequences(model: Bert4Rec, token_ids: Sequence[np.ndarray], tokens_per_batch: int) -> np.ndarray:
    """The mean of the last layer's token vectors of each sequence, in the order given.

    Of a sequence longer than the model's ``max_length`` the last tokens are read, as in training. What else is in
    the batch, and how wide it is padded, does not change a row.

    Parameters
    ----------
    model : is left in the mode it is in; runs without dropout
    token_ids : one integer array per sequence, oldest token first, not padded
    tokens_per_batch : positions, padding included, in one forward pass

    Returns
    -------
    float32 [N, D]

    Raises
    ------
    ValueError
        If a sequence holds no token, or a token id that is no event of this model's vocabulary.
    """
    _require_known_tokens(token_ids, model.n_tokens)
    lengths = np.fromiter((min(len(ids), model.max_length) for ids in token_ids), dtype=np.int64, count=len(token_ids))
    vectors = np.empty((len(token_ids), model.hidden_size), dtype=np.float32)
    with evaluating(model):
        for rows in like_length_batches(lengths, tokens_per_batch):
            batch = pad_left([token_ids[row] for row in rows], width=int(lengths[rows].max()))
            vectors[rows] = _mean_vectors(model, batch)
    return vectors


def _mean_vectors(model: Bert4Rec, batch: np.ndarray) -> np.ndarray:
    token_ids = torch.from_numpy(batch).to(model.device)  # [B, L]
    is_token = (token_ids != PAD).unsqueeze(-1)  # [B, L, 1]
    # where, not a product: what stands at PAD means nothing, and nothing may leak from it
    total = torch.where(is_token, model.encode(token_ids), 0.0).sum(dim=1)  # [B, D]
    return (total / is_token.sum(dim=1)).float().cpu().numpy()


def _require_known_tokens(token_ids: Sequence[np.ndarray], n_tokens: int) -> None:
    n_empty = sum(len(ids) == 0 for ids in token_ids)
    if n_empty:
        raise ValueError(f"{n_empty} of {len(token_ids)} sequences hold no token; leave absent clients out")
    if len(token_ids) == 0:
        return
    tokens = np.concatenate(token_ids)
    lowest, highest = int(tokens.min()), int(tokens.max())
    if lowest < UNK or highest >= n_tokens:
        raise ValueError(
            f"token ids from {lowest} to {highest} found; this model's events are {UNK} to {n_tokens - 1}: "
            "the sequences were built with another vocabulary"
        )
