"""Sequences from Arrow's lists, without a copy where these hold what is asked for."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from ml.data.sequence_batch import Sequences
from schemas.columns import EVENT_TYPES, TIMESTAMPS, TOKEN_IDS

BYTES_OF = {TOKEN_IDS: 4, EVENT_TYPES: 1, TIMESTAMPS: 8}
"""The columns of ``tables/sequences`` that batches are made of, and what they take per event."""


def columns_to_read(has_events: bool) -> tuple[str, ...]:
    """Of ``BYTES_OF``; event types and times only for an encoder that reads them."""
    return tuple(BYTES_OF) if has_events else (TOKEN_IDS,)


def sequences_of(columns: Sequence[pa.ListArray]) -> Sequences:
    """Rows without nulls: token ids and, where there are three columns, event types and seconds, aligned with them.

    The columns may be parts of longer ones.
    """
    offsets = columns[0].offsets.to_numpy()
    # each column's values from its own first one: the columns of a row group may begin at other positions
    values = [column.flatten().to_numpy(zero_copy_only=False) for column in columns]
    # offsets count from the list array's own start, of which these rows may be a later part
    return Sequences(values[0].astype(np.int32, copy=False), offsets - offsets[0], *values[1:])
