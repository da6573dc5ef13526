"""The boundaries between what a profile may see and what it is judged on."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, time, timedelta

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from conf.inputs import WindowSettings
from jobs.storage.delta_tables import read_table
from jobs.storage.stored_rows import timestamp_literal
from jobs.storage.workspace import Workspace
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


@dataclass(frozen=True)
class Day:
    """A day's first and last event, and how many it has."""

    first: datetime
    last: datetime
    n_events: int


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
    # the fields of ``Windows`` follow the columns of the table
    return spark.createDataFrame([tuple(asdict(windows).values())], WINDOWS.ddl)


def read_windows(spark: SparkSession, workspace: Workspace) -> Windows:
    """The windows that the stage ``split`` wrote."""
    return Windows(**read_table(spark, workspace, WINDOWS).collect()[0].asDict())


def collect_last_timestamp(events: DataFrame) -> datetime | None:
    """Time of the last event, None where there is none."""
    last: datetime | None = events.agg(F.max(c.TIMESTAMP)).collect()[0][0]
    return last


def collect_days(events: DataFrame) -> list[Day]:
    """The days that have events, in order: a few thousand rows, however many the events are."""
    of_days = events.groupBy(F.to_date(c.TIMESTAMP).alias("day")).agg(
        F.min(c.TIMESTAMP), F.max(c.TIMESTAMP), F.count("*")
    )
    return [Day(*row[1:]) for row in of_days.orderBy("day").collect()]


def find_stray_days(days: Sequence[Day], longest_pause: timedelta) -> int | None:
    """The position of the first of the last days that look like slips in a year; None where there are none.

    They come after a longer pause, and have together at most 2 % of the events and no more than an average day before
    it, or those of a single moment. Either bound alone would take a shop that opened again for a slip: an old one after
    two months, a small one after some days.

    Examples
    --------
    >>> june, slip = datetime(2022, 6, 1, 12), datetime(2099, 12, 31)
    >>> find_stray_days([Day(june, june, 9), Day(slip, slip, 1)], timedelta(28))
    1
    """
    # from the last day back: of several pauses the earliest counts before which all that follows is still few
    first, n_before, n_later = None, sum(day.n_events for day in days), 0
    for position in range(len(days) - 1, 0, -1):
        n_later += days[position].n_events
        n_before -= days[position].n_events
        is_few = n_later * position <= n_before and n_later * 50 <= n_before + n_later
        is_moment = days[position].first == days[-1].last
        if (is_few or is_moment) and days[position].first - days[position - 1].last > longest_pause:
            first = position
    return first


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
