"""Texts that are nearly times, and what each is, for the tests of both readers of times: Arrow's and Spark's."""

import itertools
import re
from datetime import datetime


def time_of(text: str) -> datetime | None:
    """The time of a text in the challenge's exact form, None for any other text."""
    if not re.fullmatch(r"[0-9]{4}(-[0-9]{2}){2} [0-9]{2}(:[0-9]{2}){2}", text):
        return None
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        return None


def changed_times() -> list[str]:
    """A time, and all that it becomes by changing two of its characters to those that other spellings have."""
    base = "2022-06-01 12:00:05"
    texts = {base}
    for first, second in itertools.combinations(range(len(base)), 2):
        for one, other in itertools.product("0 +-:.TZ\t٣", repeat=2):
            text = list(base)
            text[first], text[second] = one, other
            texts.add("".join(text))
    return sorted(texts)
