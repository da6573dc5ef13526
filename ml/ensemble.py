"""One profile per client from the behaviours' vectors."""

from collections.abc import Mapping

import numpy as np

from conf.settings import EnsembleSettings
from schemas.errors import EntryError

Block = tuple[np.ndarray, np.ndarray]
"""One behaviour's vectors: the clients' rows, integers [n_b], and their vectors, float32 [n_b, D]."""


def compose_profiles(blocks: Mapping[str, Block], n_clients: int, settings: EnsembleSettings) -> np.ndarray:
    """The behaviours' vectors side by side, or their mean, and which of them each client has.

    A client absent from a behaviour has zeros there, or does not count in the mean; without presence flags it
    could not be told from a vector of zeros. Vectors are not scaled here: each is a mean of LayerNorm's outputs, so
    the behaviours' scales are alike.

    Parameters
    ----------
    blocks : behaviour -> rows and vectors; a client may come once in each; their order is the profile's
    n_clients : rows of the result
    settings : ``concat`` or ``mean``; whether flags are appended

    Returns
    -------
    float32 [n_clients, ``profile_width``]; the last columns, with flags, are 1 where a client has the behaviour
    """
    hidden_size = max(vectors.shape[1] for _, vectors in blocks.values())
    n_columns = 1 if settings.composition == "mean" else len(blocks)
    profiles = np.zeros((n_clients, profile_width(len(blocks), hidden_size, settings)), dtype=np.float32)
    is_present = np.zeros((n_clients, len(blocks)), dtype=np.float32)
    for column, (rows, vectors) in enumerate(blocks.values()):
        start = column % n_columns * hidden_size  # a mean adds every behaviour to the one column
        profiles[rows, start : start + hidden_size] += vectors
        is_present[rows, column] = 1.0
    if settings.composition == "mean":
        profiles[:, :hidden_size] /= np.maximum(is_present.sum(axis=1, keepdims=True), 1.0)
    if settings.presence_flags:
        profiles[:, n_columns * hidden_size :] = is_present
    return profiles


def profile_width(n_behaviours: int, hidden_size: int, settings: EnsembleSettings) -> int:
    """Numbers in one client's profile."""
    n_columns = 1 if settings.composition == "mean" else n_behaviours
    return n_columns * hidden_size + (n_behaviours if settings.presence_flags else 0)


def to_float16(vectors: np.ndarray) -> np.ndarray:
    """The vectors in the format of an entry.

    Parameters
    ----------
    vectors : float [N, D]

    Raises
    ------
    EntryError
        If a number is not finite, or is beyond float16's range, where it would silently become infinite.
    """
    with np.errstate(over="ignore"):
        halves = vectors.astype(np.float16)
    is_bad = ~np.isfinite(halves)
    if is_bad.any():
        where = tuple(int(place) for place in np.argwhere(is_bad)[0])
        raise EntryError(
            f"an entry holds finite numbers up to {np.finfo(np.float16).max:.0f}; found {vectors[where]} at "
            f"{list(where)}, {is_bad.sum()} such in all; look at the training loss, or scale the vectors"
        )
    return halves
