"""Settings of what is read: behaviours, the rules of rows, the windows."""

import re
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from conf.ranges import Days, PositiveInt, Settings, Share, require
from schemas.columns import CLIENT_ID, N_EVENTS, REASON, ROW, TIMESTAMP, TOKEN_ID


def is_identifier(text: str) -> bool:
    """Whether a name may stand in SQL text and in a path as it is."""
    return re.fullmatch(r"[A-Za-z_]\w*", text, re.ASCII) is not None


def is_time(text: str) -> bool:
    """Whether a text is ``yyyy-MM-dd`` or ``yyyy-MM-dd HH:mm:ss`` and names a time."""
    # fromisoformat alone takes the other forms of ISO 8601 too, and zones
    if not re.fullmatch(r"\d{4}-\d{2}-\d{2}( \d{2}:\d{2}:\d{2})?", text):
        return False
    try:
        datetime.fromisoformat(text)
    except ValueError:
        return False
    return True


@dataclass(frozen=True)
class BehaviourSettings(Settings):
    """One behaviour of the data set; its source file is ``<name>.parquet``."""

    item: str
    """Column of the source file that holds the item."""
    kind: Literal["id", "codes"] = "id"
    """``id`` (int64) or ``codes`` (16 numbers in brackets; each distinct query is one item)."""
    min_count: PositiveInt = 1
    """Items with fewer input events are rare: they have no row in the vocabulary."""
    keep_rare_as_unk: bool = False
    """Keep events of rare items as UNK instead of dropping them (the *paper* drops them)."""

    def __post_init__(self) -> None:
        require(is_identifier(self.item), f"item must be a column's name of letters, digits, _; found {self.item!r}")
        ours = (CLIENT_ID, TIMESTAMP, TOKEN_ID, N_EVENTS, REASON, ROW)
        require(
            # Spark's names of columns differ in more than case
            self.item.lower() not in ours,
            f"item must be another column than {', '.join(ours)}, which stand beside it; found {self.item!r}; "
            "name the column of the items",
        )


@dataclass(frozen=True)
class IngestSettings(Settings):
    """Which source rows become events; the rules that need no setting are in ``schemas/tables.py``."""

    earliest: str = "2000-01-01"
    """Events before this time are quarantined; ``yyyy-MM-dd``, with or without `` HH:mm:ss``."""
    latest: str = "2100-01-01"
    """Events at or after this time are quarantined."""
    unknown_sku: Literal["keep", "quarantine"] = "keep"
    """What becomes of events whose sku is not in ``product_properties``."""
    drop_duplicates: bool = False
    """Keep one of several equal events; the challenge's data holds them, so they are kept and counted."""
    count_duplicates: bool = True
    """Count the equal events of each behaviour; needs one more look at each written table."""
    max_quarantined_share: Share = 0.1
    """Of the rows of one source; where more are rejected, ingest stops and says why. 1 lets all pass."""

    def __post_init__(self) -> None:
        for name, text in (("earliest", self.earliest), ("latest", self.latest)):
            require(is_time(text), f"ingest.{name} must be yyyy-MM-dd or yyyy-MM-dd HH:mm:ss; found {text!r}")
        bounds = f"ingest.earliest ({self.earliest}) must come before ingest.latest ({self.latest})"
        require(datetime.fromisoformat(self.earliest) < datetime.fromisoformat(self.latest), bounds)


@dataclass(frozen=True)
class WindowSettings(Settings):
    """Which events a profile may see, and the windows that it is judged on."""

    mode: Literal["evaluate", "entry"] = "evaluate"
    """``evaluate``: events before the train target window; ``entry``: all events, as a competition entry."""
    target_days: Days = 14
    """Days in each of the two target windows (*challenge*)."""
    end: str | None = None
    """Where the windows end, ``yyyy-MM-dd HH:mm:ss``, or ``yyyy-MM-dd`` for its midnight: as if the last purchase were
    at that time. What comes later is neither input nor target. None: at the last purchase. Few purchases after a pause
    of more than 28 days are then refused, for a slip in a year would move the windows: they must be more than on an
    average day, or more than 2 % of all."""

    def __post_init__(self) -> None:
        is_end = self.end is None or is_time(self.end)
        require(is_end, f"windows.end must be yyyy-MM-dd or yyyy-MM-dd HH:mm:ss; found {self.end!r}")
