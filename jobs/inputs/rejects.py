"""Why rows of sources were rejected, in words for the user."""

import json
from collections.abc import Mapping

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from conf.mappings import LATEST_BY
from schemas.columns import CLIENT_ID, NAME, REASON, ROW, SKU, TIMESTAMP
from schemas.tables import (
    ISO_TIME,
    MALFORMED,
    MAX_PRICE,
    NO_AMOUNT,
    NO_SUCH_PRICE,
    OUT_OF_BOUNDS,
    UNKNOWN_SKU,
    is_no_codes,
    is_no_integer,
    is_no_time,
    is_no_utf8,
)

SOURCE = "source"
N_EXAMPLES = 3
MAX_VALUE_LENGTH = 60
"""Characters of a value that a message shows; a query has up to 65."""

_FIXES = {
    is_no_time(TIMESTAMP): "write 2022-06-01 12:00:00, without T, Z, zone or fraction, or Parquet timestamps",
    MALFORMED: "is the delimiter right? where a quoted text holds a line break, write the file as Parquet",
    is_no_integer(CLIENT_ID): "set as: key for ids of other forms",
    is_no_integer(SKU): "set as: key for ids of other forms",
    is_no_time(TIMESTAMP, ISO_TIME): "give the unit of numbers or the format of text",
    is_no_time(LATEST_BY, ISO_TIME): "give the unit of numbers or the format of text",
    OUT_OF_BOUNDS: "is the unit of a number right? change these settings if the times are",
    NO_AMOUNT: "a decimal comma goes by expression: replace(COLUMN, ',', '.')",
    is_no_codes(NAME): "a mapping makes codes of words by as: text",
    is_no_codes("query"): "a mapping makes codes of words by as: text",
    **{is_no_utf8(column): "write the file again in UTF-8" for column in (CLIENT_ID, SKU, NAME, "query")},
    NO_SUCH_PRICE: f"a price is one of {MAX_PRICE + 1} buckets, not an amount (as: amount makes them)",
    UNKNOWN_SKU: "give their products, or set ingest.unknown_sku=keep",
}


def collect_reasons(rejects: DataFrame) -> dict[str, dict[str, int]]:
    """Source -> reason -> rejected rows, the most first.

    Parameters
    ----------
    rejects : rows of ``quarantine``
    """
    counts = rejects.groupBy(SOURCE, REASON).count().collect()
    reasons: dict[str, dict[str, int]] = {}
    for row in sorted(counts, key=lambda row: (-row["count"], row[REASON])):
        reasons.setdefault(row[SOURCE], {})[row[REASON]] = row["count"]
    return reasons


def collect_explanation(rejects: DataFrame, source: str, reasons: Mapping[str, int]) -> str:
    """The reasons of a source, each with how to fix it, and rows for example: of the commonest reason first."""
    reasons_and_fixes = ", ".join(
        f"{count:,} {reason}" + (f" ({_FIXES[reason]})" if reason in _FIXES else "")
        for reason, count in reasons.items()
    )
    is_of_another = F.col(REASON) != next(iter(reasons))
    rows = rejects.filter(F.col(SOURCE) == source).orderBy(is_of_another, ROW, REASON).select(ROW).head(N_EXAMPLES)
    return f"{reasons_and_fixes}; for example {'; '.join(format_row(row[ROW]) for row in rows)}"


def format_row(row: str) -> str:
    """The values of a rejected row, shortened, with what a terminal would obey escaped.

    Examples
    --------
    >>> format_row('{"client_id":1,"timestamp":"2022-06-01T12:00:00Z"}')
    "client_id=1 timestamp='2022-06-01T12:00:00Z'"
    """
    return " ".join(f"{name}={_shorten(value)}" for name, value in json.loads(row).items())


def _shorten(value: object) -> str:
    if isinstance(value, str) and len(value) > MAX_VALUE_LENGTH:
        return f"{value[:MAX_VALUE_LENGTH]!r}..."
    return repr(value)
