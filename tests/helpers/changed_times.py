"""Texts that are nearly times, and what each is, for the tests of both readers of times: Arrow's and Spark's."""

import itertools
import re
from datetime import datetime

NOON = "2022-06-01 12:00:00"
NO_TIMES = [
    NOON + "+02:00", NOON + "Z", NOON + " UTC", NOON + ".5", NOON + " ", " " + NOON, NOON + "\n", "",
    "2022-06-01T12:00:00", "2022-06-01", "2022-6-1 12:00:00", "2022-06-01 12:00", "12022-06-01 12:00:00",
    # all of these are 19 bytes long
    "2022-06-01 12:00:0Z", "2022-06-01 12:00:0 ", " 2022-06-01 12:00:0", "2022-06-01 1:00:0.5", "2022-06-01         ",
    "2022-06-01 12:00+02", "2022-06-01 12+02:00", "2022-06-01 12:00-02", "2022-06-01 1٣:00:0",
    # the form, but no such time
    "2022-02-29 12:00:00", "1900-02-29 12:00:00", "2022-04-31 12:00:00", "2022-13-01 12:00:00", "2022-00-01 12:00:00",
    "2022-06-00 12:00:00", "2022-06-01 24:00:00", "2022-06-01 12:60:00", "2022-06-01 12:00:60",
]  # fmt: skip


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
