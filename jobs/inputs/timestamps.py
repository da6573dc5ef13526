"""Times as sources have them -> times without a zone.

``parse_times`` does it in Arrow, by the rule of the contract (``schemas/tables.py``): exactly ``TIME_FORMAT``.
``to_utc`` does it in Spark, for a user's own tables: all times become UTC. A wall time, which names no zone, is of the
mapping's ``timezone``. One that clocks show twice, when they are set back, is the first; one that they leave out is
moved on by as much as they are: both are Java's rule (``ZonedDateTime.ofLocal``).
"""

import contextlib

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import Column
from pyspark.sql import functions as F
from pyspark.sql.types import DataType, DateType, NumericType, StringType, TimestampNTZType, TimestampType

from conf.mappings import ColumnSettings
from schemas.tables import ISO_TIME

TIME_TYPE = pa.timestamp("us")

_LENGTH = len("2022-06-01 12:00:00")
_SEPARATORS = {4: "-", 7: "-", 10: " ", 13: ":", 16: ":"}
_DAY = (
    r"(?:[0-9]{4}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)"
    r"|02-(?:0[1-9]|1[0-9]|2[0-8]))"
    r"|(?:[0-9]{2}(?:0[48]|[2468][048]|[13579][26])|(?:[02468][048]|[13579][26])00)-02-29)"
)
_TIME = rf"^{_DAY} (?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]\z"

_PER_SECOND = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}
_NUMBER = r"^\s*[+-]?[0-9]{1,19}(\.[0-9]+)?([eE][+-]?[0-9]{1,2})?\s*\z"
"""Also as programs write a float; the cast rounds what is finer than six decimals."""
_ISO = (
    r"^\s*([0-9]{4}-[0-9]{2}-[0-9]{2})(?:[T ]([0-9]{2}:[0-9]{2}(?::[0-9]{2}(?:[.,][0-9]{1,9})?)?))?"
    r"(?: ?(Z|UTC|GMT|[+-](?:0[0-9]|1[0-8])(?::?[0-5][0-9])?))?\s*\z"
)
"""Day, time of day, zone: the parts that a text of ISO 8601 has here, also with `` UTC``."""


def to_utc(value: Column, kind: DataType, settings: ColumnSettings, timezone: str) -> Column | None:
    """A column of times as UTC's wall time, timestamp_ntz, null where a value is none; None for a column of no times.

    Parameters
    ----------
    kind : the column's type
    settings : the unit of numbers, the format of text
    timezone : of times that name none
    """
    if settings.unit:
        if not isinstance(kind, NumericType | StringType):
            return None
        # a number becomes text by a decimal: that of a double may have an exponent
        text = value.cast("string") if isinstance(kind, StringType) else value.cast("decimal(38,6)").cast("string")
        number = F.when(text.rlike(_NUMBER), F.trim(text)).cast("decimal(38,6)")
        return _since_1970(number / F.lit(_PER_SECOND[settings.unit]).cast("decimal(10,0)"))
    if isinstance(kind, TimestampType):
        return instant_to_utc(value)
    if isinstance(kind, TimestampNTZType | DateType):
        return wall_to_utc(value.cast("timestamp_ntz"), timezone)
    if not isinstance(kind, StringType):
        return None
    if settings.format is None:
        return _iso_to_utc(value, timezone)
    if settings.has_zone:
        return instant_to_utc(F.to_timestamp(value, settings.format))
    return wall_to_utc(F.to_timestamp_ntz(value, F.lit(settings.format)), timezone)


def time_form(settings: ColumnSettings) -> str:
    """What a time must be, in the words of a reason."""
    if settings.unit:
        return f"a number of {settings.unit} since 1970"
    return settings.format or ISO_TIME


def instant_to_utc(instant: Column) -> Column:
    """A timestamp as UTC's wall time, whatever the session's zone: a cast would use that."""
    return micros_to_utc(F.unix_micros(instant))


def nanos_to_time(nanos: Column, is_instant: bool) -> Column:
    """Nanoseconds after 1970 as the time that they are in Parquet: a timestamp, or a timestamp_ntz.

    To whole microseconds, before 1970 towards the earlier one.
    """
    # "/" makes doubles of both, which hold no nanoseconds of today: whole milliseconds came out a microsecond early
    micros = F.call_function("div", nanos - F.pmod(nanos, F.lit(1000)), F.lit(1000))
    return F.timestamp_micros(micros) if is_instant else micros_to_utc(micros)


def micros_to_utc(micros: Column) -> Column:
    """UTC's wall time so many microseconds after 1970, bigint."""
    return _since_1970(micros.cast("decimal(20,0)") / F.lit(1_000_000).cast("decimal(7,0)"))


def _since_1970(seconds: Column) -> Column:
    """UTC's wall time, to the microsecond, so many seconds after 1970; null beyond any calendar.

    Parameters
    ----------
    seconds : decimal
    """
    # as an interval after 1970: a cast of a timestamp would use the session's zone
    zero = F.lit(0)
    is_sane = F.abs(seconds) < 10**11
    interval = F.make_dt_interval(zero, zero, zero, F.when(is_sane, seconds).cast("decimal(18,6)"))
    return F.lit("1970-01-01 00:00:00").cast("timestamp_ntz") + interval


def wall_to_utc(wall: Column, timezone: str) -> Column:
    """A timestamp_ntz of a zone as UTC's."""
    return F.convert_timezone(F.lit(timezone), F.lit("UTC"), wall)


def _iso_to_utc(text: Column, timezone: str) -> Column:
    day, time, zone = (F.regexp_extract(text, _ISO, group) for group in (1, 2, 3))
    time = F.when(F.length(time) == 5, F.concat(time, F.lit(":00"))).otherwise(F.replace(time, F.lit(","), F.lit(".")))
    # the cast knows which days there are; of a text that has another form, the parts are empty
    wall = F.trim(F.concat_ws(" ", day, time)).cast("timestamp_ntz")
    sign = F.when(zone.startswith("-"), -1).otherwise(1)
    hours, minutes = (F.substring(F.replace(zone, F.lit(":"), F.lit("")), start, 2).cast("int") for start in (2, 4))
    offset = F.make_dt_interval(F.lit(0), sign * hours, sign * F.coalesce(minutes, F.lit(0)))
    return F.when(zone == "", wall_to_utc(wall, timezone)).when(zone.rlike("^[+-]"), wall - offset).otherwise(wall)


def parse_times(texts: pa.Array) -> pa.TimestampArray:
    """The time that each text tells, to the microsecond and without a zone; null where it tells none.

    Parameters
    ----------
    texts : string, large_string or a dictionary of them; may hold nulls
    """
    # also from large_string and dictionaries: _have_shape reads string's 32-bit offsets
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
