"""Batches of token ids: padding to one width, and rows of like length put together."""

from collections.abc import Iterator, Sequence

import numpy as np

from schemas.tokens import PAD


def pad_left(token_ids: Sequence[np.ndarray], width: int) -> np.ndarray:
    """The sequences as one array, each ending in the last column; of a longer one the last ``width`` tokens.

    Parameters
    ----------
    token_ids : one integer array per row, oldest token first
    width : columns of the result

    Returns
    -------
    int64 [B, width], PAD where a sequence has no token

    Examples
    --------
    >>> pad_left([np.array([5]), np.array([3, 4, 6])], width=2)
    array([[0, 5],
           [4, 6]])
    """
    lengths = np.fromiter(map(len, token_ids), dtype=np.int64, count=len(token_ids))
    tokens = np.concatenate([np.empty(0, dtype=np.int64), *token_ids], dtype=np.int64)
    distance_to_end = np.repeat(lengths.cumsum(), lengths) - np.arange(len(tokens))  # 1 = the row's last token
    padded = np.full((len(lengths), width), PAD, dtype=np.int64)
    is_token = np.arange(width, 0, -1) <= lengths[:, None]
    padded[is_token] = tokens[distance_to_end <= width]
    return padded


def rows_per_batch(tokens_per_batch: int, width: int) -> int:
    """How many rows of ``width`` positions a batch may hold; at least one."""
    return max(1, tokens_per_batch // max(1, width))


def like_length_batches(lengths: np.ndarray, tokens_per_batch: int) -> Iterator[np.ndarray]:
    """Row numbers, batch by batch, longest rows first, so that little of a batch is padding.

    Every row comes once; rows of equal length keep their order. A batch's rows times its longest row are at most
    ``tokens_per_batch``, unless a single row is longer than that.

    Parameters
    ----------
    lengths : integers [N], tokens of each row
    tokens_per_batch : positions, padding included

    Yields
    ------
    int64 [b], row numbers of one batch
    """
    rows = np.argsort(-lengths, kind="stable")
    start = 0
    while start < len(rows):
        stop = start + rows_per_batch(tokens_per_batch, int(lengths[rows[start]]))
        yield rows[start:stop]
        start = stop
