"""Texts -> times, in Arrow, by the rule of the contract (``schemas/tables.py``): exactly ``TIME_FORMAT``."""

import contextlib

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

TIME_TYPE = pa.timestamp("us")

_LENGTH = len("2022-06-01 12:00:00")
_SEPARATORS = {4: "-", 7: "-", 10: " ", 13: ":", 16: ":"}
_DAY = (
    r"(?:[0-9]{4}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)"
    r"|02-(?:0[1-9]|1[0-9]|2[0-8]))"
    r"|(?:[0-9]{2}(?:0[48]|[2468][048]|[13579][26])|(?:[02468][048]|[13579][26])00)-02-29)"
)
_TIME = rf"^{_DAY} (?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]\z"


def parse_times(texts: pa.Array) -> pa.TimestampArray:
    """The time that each text tells, to the microsecond and without a zone; null where it tells none.

    Parameters
    ----------
    texts : string, large_string or a dictionary of them; may hold nulls
    """
    texts = texts.cast(pa.string())
    if _have_shape(texts):
        with contextlib.suppress(pa.ArrowInvalid):  # some name no time, such as February 30
            return texts.cast(TIME_TYPE)
    # a sixth of the speed, for the few blocks of rows that need it
    is_time = pc.match_substring_regex(texts, _TIME)
    return pc.if_else(is_time, texts, pa.scalar(None, pa.string())).cast(TIME_TYPE)


def _have_shape(texts: pa.StringArray) -> bool:
    """Whether all texts have the length and the separators of the form; what is between them, a cast checks."""
    if len(texts) == 0 or texts.null_count:
        return False
    _, ends, characters = texts.buffers()
    ends = np.frombuffer(ends, np.int32)[texts.offset : texts.offset + len(texts) + 1]
    if (np.diff(ends) != _LENGTH).any():
        return False
    grid = np.frombuffer(characters, np.uint8)[ends[0] : ends[-1]].reshape(-1, _LENGTH)
    return all((grid[:, position] == ord(separator)).all() for position, separator in _SEPARATORS.items())
