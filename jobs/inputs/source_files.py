"""Reads the challenge's Parquet files, each as it is stored, into frames of one form; the only module that does."""

import contextlib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import unquote

from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import StructType

from jobs.inputs.challenge_directory import FileGroup, StoredColumn
from jobs.inputs.listing import parquet_files
from jobs.inputs.timestamps import instant_to_utc, nanos_to_time
from jobs.storage.locations import spark_url
from schemas.errors import InputError

PARQUET_OPTIONS = {
    "parquet.page.verify-checksum.enabled": "true",  # of pages that carry one, as Spark's own do
    # times as they are stored: by default Spark refuses those before 1900, which old writers count by another calendar
    "datetimeRebaseMode": "CORRECTED",
    "int96RebaseMode": "CORRECTED",
}


def read_group(spark: SparkSession, group: FileGroup) -> DataFrame:
    """The contract's columns of a group of files, one row per source row: ids of any width, text, timestamp_ntz.

    No time depends on the zone of the session, the JVM or the machine. The files are named one by one, so that
    Spark reads those whose rows ``count_rows`` counts.
    """
    schema = StructType()
    for column in group.columns:
        if column.form != "nothing":
            schema.add(column.name, column.spark_type)
    files = [escaped_url(path) for path in group.files]
    frame = spark.read.schema(schema).options(**PARQUET_OPTIONS).parquet(*files)
    return frame.select(*(_plain(column).alias(column.name) for column in group.columns))


def escaped_url(path: Path) -> str:
    """What Spark calls a file where it would take brackets, braces and stars in a name as wildcards."""
    return re.sub(r"([\[\]{}*?\\])", r"\\\1", spark_url(path))


@contextlib.contextmanager
def naming_unreadable_files(sources: Sequence[Path]) -> Iterator[None]:
    """Turn what Spark or Python says of a damaged file of these sources into an InputError that names it."""
    files = [path for source in sources for path in parquet_files(source)]
    try:
        yield
    except (OSError, Py4JJavaError, PySparkException) as error:
        message = f"{error}\n{unquote(str(error))}"  # Python names paths, the JVM URLs
        damaged, rest = [], message
        for path in sorted(files, key=lambda path: -len(str(path))):  # the name of one may begin that of another
            rest, n_found = re.subn(rf"{re.escape(str(path))}(?![\w/])", "", rest)
            damaged += [path] if n_found else []
        if not damaged:
            raise
        causes = re.findall(r"^(?:Caused by|OSError): (.+)$", message, re.MULTILINE)  # of the JVM, of a Python task
        cause = (causes[-1] if causes else message.splitlines()[0])[:300]
        # Hadoop compares a file with the checksums that an earlier write by Spark left beside it
        checksums = [path.with_name(f".{path.name}.crc") for path in damaged]
        stale = [str(path) for path in checksums if "ChecksumException" in message and path.exists()]
        if stale:
            raise InputError(
                f"{', '.join(map(str, damaged))}: expected its own checksums beside it, found others ({cause}); "
                f"if another program than Spark wrote the file since, remove {', '.join(stale)}; if not, the file is "
                "damaged: copy it again; then run ingest again"
            ) from error
        raise InputError(
            f"{', '.join(map(str, damaged))}: expected a file that can be read, found damaged or missing data in it "
            f"({cause}); its table is left as it was; copy or write the file again, then run ingest again"
        ) from error


def _plain(column: StoredColumn) -> Column:
    if column.form == "nothing":
        return F.lit(None).cast(column.spark_type)
    if column.form == "plain":
        return F.col(column.name)
    if column.form == "instant":
        return instant_to_utc(F.col(column.name))
    return nanos_to_time(F.col(column.name), is_instant=False)
