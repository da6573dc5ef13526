"""Rows that Python tasks read from a table's Parquet files themselves, without a detour through rows of the JVM."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from jobs.storage.locations import is_mounted, plain_path
from schemas.columns import TIMESTAMP

PART_BYTES = 128 * 2**20
"""About what one task reads; a row group is read whole, by the task in whose part it starts."""
BATCH_ROWS = 1_000_000
MAX_FOOTERS = 8
"""Files that the driver opens to learn how many rows there are: each may take a while on a mount."""


@dataclass(frozen=True)
class StoredRows:
    """The rows of one snapshot of a table that ingest wrote, and the columns that are asked for.

    Attributes
    ----------
    frame : the same rows and columns, for work that the JVM does
    parts : what each task reads
    """

    frame: DataFrame
    parts: "Parts"

    def select(self, *columns: str) -> "StoredRows":
        """The same rows with fewer columns."""
        return StoredRows(self.frame.select(*columns), replace(self.parts, columns=columns))

    @property
    def max_rows(self) -> int | None:
        """The rows are no more, by the footers of their files; None where many would have to be asked."""
        paths = {path for path, _ in self.parts.starts}
        if len(paths) > MAX_FOOTERS:
            return None
        try:
            return sum(pq.read_metadata(path).num_rows for path in paths)
        except (pa.ArrowException, OSError):  # the task that reads the file says what is wrong with it
            return None


@dataclass(frozen=True)
class Parts:
    """Parts of files, each for one task.

    Attributes
    ----------
    starts : path and first byte of each
    before : rows of this time or later are left out; None keeps all
    """

    starts: tuple[tuple[str, int], ...]
    columns: tuple[str, ...]
    before: datetime | None

    def read(self, numbers: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """The rows of the parts with these numbers (bigint, the first column)."""
        for batch in numbers:
            for number in batch.column(0).to_pylist():
                yield from self.read_part(number)

    def open(self, number: int) -> tuple[pq.ParquetFile, list[int]]:
        """The file of a part, and the row groups of it that start in the part."""
        path, start = self.starts[number]
        file = pq.ParquetFile(path)
        columns = [file.metadata.row_group(group).column(0) for group in range(file.num_row_groups)]
        # a dictionary, where there is one, lies before the data
        first_bytes = [int(column.dictionary_page_offset or column.data_page_offset) for column in columns]
        return file, [group for group, first in enumerate(first_bytes) if 0 <= first - start < PART_BYTES]

    def read_part(self, number: int, max_rows: int | None = None) -> Iterator[pa.RecordBatch]:
        """The rows of one part, at most so many at once, where few of them are large.

        Raises
        ------
        OSError
            With the file's name, if it is damaged or gone.
        """
        columns = [*self.columns, *([TIMESTAMP] if self.before and TIMESTAMP not in self.columns else [])]
        try:
            file, groups = self.open(number)
            n_rows = BATCH_ROWS if max_rows is None else max(1, min(BATCH_ROWS, max_rows))
            for rows in file.iter_batches(n_rows, groups, columns):
                yield self._keep_early(rows).select(self.columns)
        except (pa.ArrowException, OSError) as error:
            # pyarrow's own names no file; in Spark's words, which jobs/runtime/user_errors.py explains
            raise OSError(f"Encountered error while reading file {self.starts[number][0]}: {error}") from error

    def _keep_early(self, rows: pa.RecordBatch) -> pa.RecordBatch:
        if self.before is None:
            return rows
        times = rows.column(rows.schema.names.index(TIMESTAMP)).to_numpy()
        is_early = times < np.datetime64(self.before, "us")
        return rows if is_early.all() else rows.filter(pa.array(is_early))


def stored_rows(frame: DataFrame, before: datetime | None = None) -> StoredRows | DataFrame:
    """The rows of ``frame``, a whole snapshot of a Delta table without deleted rows, as none of ours has.

    As a plain frame where no mount reaches its files: then the JVM must read them.

    Parameters
    ----------
    before : leave out rows of this time or later
    """
    files = frame.inputFiles()
    early = frame if before is None else frame.filter(F.col(TIMESTAMP) < timestamp_literal(before))
    if not all(map(is_mounted, files)):
        return early
    starts = list_parts(sorted(map(plain_path, files)))
    return StoredRows(early, Parts(starts, tuple(early.columns), before))


def timestamp_literal(moment: datetime) -> Column:
    """A time without a zone; ``F.lit(moment)`` would shift it by the zone of the driver's machine."""
    return F.lit(moment.isoformat(sep=" ")).cast("timestamp_ntz")


def list_parts(paths: Iterable[str]) -> tuple[tuple[str, int], ...]:
    """The parts of files: path and first byte of each."""
    sizes = [(path, Path(path).stat().st_size) for path in paths]
    return tuple((path, start) for path, size in sizes for start in range(0, size, PART_BYTES))
