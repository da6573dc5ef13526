"""From token sequences to one vector per sequence.

Legend of shapes: B batch, L sequence, D hidden.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from conf.encoders import InferenceSettings
from ml.data.batching import cut, like_length_batches
from ml.data.segments import positions_from_newest
from ml.data.sequence_batch import SequenceBatch, Sequences
from ml.models.last_states import by_packed_rows, encode_last, uses_packed_rows
from ml.models.protocol import SequenceEncoder, evaluating
from schemas.tokens import MASK, PAD, UNK

SEQUENCES_AT_ONCE = 16_384
"""Of which packed batches are made."""


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
    half = torch.autocast(model.device.type, dtype=torch.bfloat16, enabled=settings.precision == "bfloat16")
    with evaluating(model), half, _compiled(model, settings.compile):
        if uses_packed_rows(model):  # as they come: sequences of like length would fill no rows
            batches = cut(np.arange(len(sequences)), SEQUENCES_AT_ONCE)
        else:
            batches = like_length_batches(lengths + n_added, settings.tokens_per_batch)
        for rows in batches:
            batch = sequences.batch(rows, width=int(lengths[rows].max())).tensors()
            batch = _with_mask(batch) if n_added else batch
            vectors[rows] = _pool(model, batch, settings).float().cpu().numpy()
    return vectors


@contextmanager
def _compiled(model: SequenceEncoder, is_wanted: bool) -> Iterator[None]:
    """Have the encoder's two ways in compiled for a while."""
    names = ("encode", "encode_at") if is_wanted and model.can_compile else ()
    for name in names:
        # on the instance, for callers know the encoder by these names; the class is shared with other encoders
        setattr(model, name, torch.compile(getattr(model, name)))
    try:
        yield
    finally:
        for name in names:
            delattr(model, name)  # the class' own again


def _pool(model: SequenceEncoder, batch: SequenceBatch[Tensor], settings: InferenceSettings) -> Tensor:
    """Float [B, D] of left-padded sequences."""
    if settings.pooling in ("last", "mask"):
        return encode_last(model, batch)  # the last block computes no other
    if not uses_packed_rows(model):
        return _means(model, batch.map(lambda column: column.to(model.device)), settings)
    return by_packed_rows(model, batch, lambda packed, _: _means(model, packed, settings))


def _means(model: SequenceEncoder, batch: SequenceBatch[Tensor], settings: InferenceSettings) -> Tensor:
    """Float [N, D], weighted means over the tokens of each sequence."""
    width = batch.shape[1]
    if batch.segments is None:
        age = torch.arange(width - 1, -1, -1, device=model.device)  # [L], 0 is the last token's
    else:
        age = positions_from_newest(batch.segments)  # [B, L]
    weights = torch.exp2(-age / settings.half_life) if settings.pooling == "recency" else torch.ones_like(age)
    is_token = (batch.token_ids != PAD).unsqueeze(-1)  # [B, L, 1]
    weights = torch.where(is_token, weights.unsqueeze(-1), 0.0)  # [B, L, 1]
    # where, not a product: what stands at PAD means nothing, and nothing may leak from it
    weighted = torch.where(is_token, model.encode(batch).float(), 0.0) * weights  # [B, L, D]
    if batch.segments is None:
        return weighted.sum(dim=1) / weights.sum(dim=1)
    # number 0 collects PAD, and is left out in the end
    numbers, n = batch.segments.flatten(), int(batch.segments.max())
    totals = weighted.new_zeros(n + 1, weighted.shape[2]).index_add_(0, numbers, weighted.flatten(0, 1))
    return (totals / weights.new_zeros(n + 1, 1).index_add_(0, numbers, weights.flatten(0, 1)))[1:]


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
    # the arrays may be parts of longer ones, whose other tokens are no rows of ours
    tokens = sequences.tokens[sequences.offsets[0] : sequences.offsets[-1]]
    lowest, highest = int(tokens.min()), int(tokens.max())
    if lowest < UNK or highest >= n_tokens:
        raise ValueError(
            f"token ids from {lowest} to {highest} found; this model's events are {UNK} to {n_tokens - 1}: "
            "the sequences were built with another vocabulary"
        )
