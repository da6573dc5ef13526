"""From token sequences to one vector per sequence.

Legend of shapes: B batch, L sequence, D hidden.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from conf.encoders import InferenceSettings
from ml.data.batching import like_length_batches
from ml.data.segments import positions_from_newest
from ml.data.sequence_batch import SequenceBatch, Sequences, required_column
from ml.models.last_states import by_packed_rows, encode_last, uses_packed_rows
from ml.models.precision import uses_bfloat16
from ml.models.protocol import SequenceEncoder, evaluating
from schemas.tokens import MASK, PAD, UNK

SEQUENCES_AT_ONCE = 131_072
"""Whose vectors stay on a GPU until all are made: to fetch them is to wait for it."""


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
    # one less where a MASK comes after the last
    sequences = sequences.last(model.max_length - int(settings.pooling == "mask"))
    if settings.pooling == "mask":
        sequences = with_mask(sequences)
    vectors = np.empty((len(sequences), model.hidden_size), dtype=np.float32)
    # without cuDNN's attention, which plans anew for each number of rows: each call has another
    attention = sdpa_kernel([SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH])
    is_bfloat16 = uses_bfloat16(settings.precision, model.device)
    half = torch.autocast(model.device.type, dtype=torch.bfloat16, enabled=is_bfloat16)
    with evaluating(model), half, attention, _compiled(model, settings.compile):
        if uses_packed_rows(model):
            pool = partial(_pool_packed, model, settings)
            for start in range(0, len(sequences), SEQUENCES_AT_ONCE):
                rows = slice(start, start + SEQUENCES_AT_ONCE)
                vectors[rows] = by_packed_rows(model, sequences[rows], pool).cpu().numpy()
            return vectors
        for numbers in like_length_batches(sequences.lengths, settings.tokens_per_batch):
            batch = sequences.batch(numbers, width=int(sequences.lengths[numbers].max())).tensors(model.device)
            vectors[numbers] = _pool(model, settings, batch).float().cpu().numpy()
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


def _pool(model: SequenceEncoder, settings: InferenceSettings, batch: SequenceBatch[Tensor]) -> Tensor:
    """Float [B, D] of left-padded sequences."""
    if settings.pooling in ("last", "mask"):
        return encode_last(model, batch)  # the last block computes no other
    age = torch.arange(batch.shape[1] - 1, -1, -1, device=model.device)  # [L], 0 is the last token's
    weighted, weights = _weighted(model, settings, batch, age)
    return weighted.sum(dim=1) / weights.sum(dim=1)


def _pool_packed(
    model: SequenceEncoder, settings: InferenceSettings, batch: SequenceBatch[Tensor], ends: Tensor
) -> Tensor:
    """Float [n, D] of the sequences of a packed batch, which end at ``ends`` (int64 [n], flat)."""
    if settings.pooling in ("last", "mask"):
        return model.encode_at(batch, ends)
    segments = required_column(batch, "segments")
    weighted, weights = _weighted(model, settings, batch, positions_from_newest(segments))
    # number 0 collects PAD, and is left out in the end
    numbers, n = segments.flatten(), len(ends) + 1
    totals = weighted.new_zeros(n, weighted.shape[2]).index_add_(0, numbers, weighted.flatten(0, 1))
    return (totals / weights.new_zeros(n, 1).index_add_(0, numbers, weights.flatten(0, 1)))[1:]


def _weighted(
    model: SequenceEncoder, settings: InferenceSettings, batch: SequenceBatch[Tensor], age: Tensor
) -> tuple[Tensor, Tensor]:
    """The tokens' vectors times their weights, float [B, L, D], and the weights, float [B, L, 1]; zeros at PAD.

    Parameters
    ----------
    age : integers [L] or [B, L], how many tokens of its sequence come after each
    """
    weights = torch.exp2(-age / settings.half_life) if settings.pooling == "recency" else torch.ones_like(age)
    is_token = (batch.token_ids != PAD).unsqueeze(-1)  # [B, L, 1]
    weights = torch.where(is_token, weights.unsqueeze(-1), 0.0)
    # where, not a product: what stands at PAD means nothing, and nothing may leak from it
    return torch.where(is_token, model.encode(batch).float(), 0.0) * weights, weights


def with_mask(sequences: Sequences) -> Sequences:
    """Each sequence with one more event: a MASK with type and time of the last event."""
    events, ends = sequences.flat(), sequences.offsets[1:] - sequences.offsets[0]
    event_types, timestamps = events.event_types, events.timestamps
    return Sequences(
        np.insert(events.token_ids, ends, MASK),
        # an end moves by its own MASK and by those of the sequences before it
        np.append(0, ends + np.arange(1, len(sequences) + 1)),
        None if event_types is None else np.insert(event_types, ends, event_types[ends - 1]),
        None if timestamps is None else np.insert(timestamps, ends, timestamps[ends - 1]),
    )


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
