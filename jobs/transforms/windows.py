"""The boundaries between what a profile may see and what it is judged on."""

from dataclasses import asdict, dataclass
from datetime import datetime, time, timedelta

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from conf.inputs import WindowSettings
from jobs.storage.stored_rows import timestamp_literal
from schemas import columns as c
from schemas import tasks
from schemas.tables import WINDOWS

ENTRY_MODE = "entry"


@dataclass(frozen=True)
class Windows:
    """The one row of the windows table; all times are the data's own, without a zone.

    Attributes
    ----------
    mode : ``evaluate`` or ``entry``
    input_end : profiles see events before it; ``train_start`` in mode evaluate, after every event in mode entry
    train_start, valid_start, end : targets are [train_start, valid_start) and [valid_start, end]
    """

    mode: str
    input_end: datetime
    train_start: datetime
    valid_start: datetime
    end: datetime


def derive_windows(end: datetime, settings: WindowSettings, last_event: datetime | None = None) -> Windows:
    """The challenge's windows for a data set whose last purchase is at ``end``.

    Parameters
    ----------
    last_event : the last event of any behaviour, ``end`` if None. In mode entry everything is input, so
        ``input_end`` is one second after it: one filter serves both modes.

    Examples
    --------
    >>> derive_windows(datetime(2022, 9, 28, 22, 8, 49), WindowSettings()).train_start
    datetime.datetime(2022, 9, 1, 0, 0)
    """
    # windows are whole days, as the challenge's: the day of the last purchase is the last of the second one
    target = timedelta(days=settings.target_days)
    first_day = (end - 2 * target + timedelta(days=1)).date()
    train_start = datetime.combine(first_day, time.min)
    after_all = max(end, last_event or end) + timedelta(seconds=1)
    input_end = after_all if settings.mode == ENTRY_MODE else train_start
    return Windows(settings.mode, input_end, train_start, train_start + target, end)


def windows_frame(spark: SparkSession, windows: Windows) -> DataFrame:
    """The windows as the one row of their table."""
    return spark.createDataFrame([tuple(asdict(windows).values())], WINDOWS.ddl)


def collect_windows(frame: DataFrame) -> Windows:
    """The windows of the one row that ``windows_frame`` made."""
    return Windows(**frame.collect()[0].asDict())


def collect_last_timestamp(events: DataFrame) -> datetime | None:
    """Time of the last event, None where there is none."""
    last: datetime | None = events.agg(F.max(c.TIMESTAMP)).collect()[0][0]
    return last


def collect_last_two_timestamps(events: DataFrame) -> list[datetime]:
    """Time of the last event, and one before it; fewer where there are no two.

    The one before it is the first of that day, or the last of an earlier day: a day is a row of a small aggregate,
    while all distinct times would be as many as the events.
    """
    of_days = events.groupBy(F.to_date(c.TIMESTAMP).alias("day")).agg(
        F.min(c.TIMESTAMP).alias("first"), F.max(c.TIMESTAMP).alias("last")
    )
    rows = of_days.orderBy(F.col("day").desc()).limit(2).collect()
    return list(dict.fromkeys(time for row in rows for time in (row["last"], row["first"])))[:2]


def events_before(events: DataFrame, cutoff: datetime) -> DataFrame:
    """The events before a time; grain and columns unchanged."""
    return events.filter(F.col(c.TIMESTAMP) < timestamp_literal(cutoff))


def target_events(events: DataFrame, windows: Windows) -> DataFrame:
    """The events of the two target windows, with the column ``window`` (``train``, ``validation``)."""
    moment = F.col(c.TIMESTAMP)
    start, middle, end = map(timestamp_literal, (windows.train_start, windows.valid_start, windows.end))
    window = F.when(moment < middle, tasks.TRAIN).otherwise(tasks.VALIDATION)
    # the end is the last purchase itself, so it belongs to the second window
    return events.filter((moment >= start) & (moment <= end)).withColumn(c.WINDOW, window)
