"""Source files -> files of typed events, by Python tasks: no row passes through the JVM on its way.

For sources whose ids are integers and whose times are text, as the challenge's are, and only for their good rows.
The others, and the reasons of all rejects, are the work of ``jobs/inputs/event_rules.py``, which gives the same rows;
ingest's count of rows shows where the two differ. The second way is worth its lines by its speed: 18 million page
visits took 20 s on two cores, and 46 s by the JVM. All that others know of it is a ``FileWriter`` of
``jobs/storage/delta_commit.py``: a write without one takes the JVM's way.
"""

import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from itertools import chain
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyspark.sql import SparkSession

from conf.inputs import IngestSettings
from jobs.inputs.challenge_directory import FileGroup
from jobs.inputs.page_checksums import PageError, check_pages, longest_lent_text
from jobs.inputs.timestamps import TIME_TYPE, parse_times
from jobs.storage.delta_commit import WrittenFile
from jobs.storage.stored_rows import Parts, list_parts
from schemas.behaviours import ItemKind
from schemas.columns import CLIENT_ID, TIMESTAMP

MAX_BATCH_BYTES = 2**26
"""Of a column, as it is decoded: fewer rows are read at once where their texts are longer than any time."""
# without decimal(20,0), of uint64: one id beyond int64 would fail the cast of its whole batch
_IDS = ("byte", "short", "integer", "long")


@dataclass(frozen=True)
class TypedFiles:
    """The good events of source files.

    Attributes
    ----------
    parts : of the source files, one for each task; their columns are client_id, timestamp and the item
    earliest, latest : times before the one, and from the other on, are left out
    """

    parts: Parts
    earliest: datetime
    latest: datetime

    def write(self, spark: SparkSession, folder: Path) -> list[WrittenFile]:
        """Write the events into the folder, a file for each part that has any; their order is the parts'."""
        folder.mkdir(parents=True, exist_ok=True)
        n_parts = len(self.parts.starts)
        numbers = spark.range(0, n_parts, 1, max(1, n_parts))

        def write_parts(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
            for batch in batches:
                for number in batch.column(0).to_pylist():
                    if written := self._write_part(number, folder):
                        yield pa.RecordBatch.from_pylist([asdict(written)])

        rows = numbers.mapInArrow(write_parts, "name string, n_bytes bigint, n_rows bigint").collect()
        return [WrittenFile(*row) for row in rows]

    def _type_rows(self, rows: pa.RecordBatch) -> pa.RecordBatch:
        client, time, item = rows.columns
        columns = [client.cast(pa.int64()), parse_times(time), item.cast(pa.int64())]
        bounds = [pa.scalar(bound, TIME_TYPE) for bound in (self.earliest, self.latest)]
        within = pc.and_(pc.greater_equal(columns[1], bounds[0]), pc.less(columns[1], bounds[1])).fill_null(False)
        is_good = pc.and_(within, pc.and_(client.is_valid(), item.is_valid()))
        typed = pa.RecordBatch.from_arrays(columns, names=rows.schema.names)
        # nearly every batch is good: filtering one would copy it
        return typed if pc.all(is_good, min_count=0).as_py() else typed.filter(is_good)

    def _write_part(self, number: int, folder: Path) -> WrittenFile | None:
        # a task that is run again writes another file; what is not committed, a vacuum removes
        path = folder / f"part-{number:05d}-{uuid.uuid4()}.snappy.parquet"
        batches = self.type_part(number)
        first = next(batches, None)
        # no row group starts in some parts, and in others no row is good
        if first is None:
            return None
        n_rows = 0
        # without a dictionary, as write_table's is_log: ids and times hardly repeat within a file
        with pq.ParquetWriter(path, first.schema, compression="snappy", use_dictionary=False) as writer:
            for rows in chain([first], batches):
                writer.write_batch(rows)
                n_rows += rows.num_rows
        return WrittenFile(path.name, path.stat().st_size, n_rows)

    def type_part(self, number: int) -> Iterator[pa.RecordBatch]:
        """The good events of one part, in batches that are the row groups of its file; none is empty."""
        path, _ = self.parts.starts[number]
        try:
            file, groups = self.parts.open(number)
            row_bytes = check_pages(file, path, groups, self.parts.columns)
            row_bytes = max(row_bytes, longest_lent_text(path, groups, [TIMESTAMP]))
            for rows in self.parts.read_part(number, MAX_BATCH_BYTES // max(1, row_bytes)):
                typed = self._type_rows(rows)
                if typed.num_rows:
                    yield typed
        except (OSError, pa.ArrowInvalid, PageError) as error:
            raise OSError(f"{path}: {error}") from error


def typed_files(groups: Sequence[FileGroup], item: str, kind: ItemKind, settings: IngestSettings) -> TypedFiles | None:
    """The good events of a source; None where its files store them in another way than ids and texts."""
    is_usual = all(group.is_plain for group in groups) and all(
        column.form == "plain" and column.spark_type in (("string",) if column.name == TIMESTAMP else _IDS)
        for group in groups
        for column in group.columns
    )
    if kind is not ItemKind.ID or not is_usual:
        return None
    starts = list_parts([str(path) for group in groups for path in group.files])
    bounds = (datetime.fromisoformat(text) for text in (settings.earliest, settings.latest))
    return TypedFiles(Parts(starts, (CLIENT_ID, TIMESTAMP, item), None), *bounds)
