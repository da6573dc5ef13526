"""A full disk, a read-only folder and a damaged table file get messages that say what to do; our own defects do not."""

import errno
import os
from pathlib import Path

import pytest

from jobs.runtime.user_errors import explain
from schemas.errors import ConfigError, InputError, OutputError, TableError

JAVA = """An error occurred while calling o61.save.
: org.apache.spark.SparkException: Job aborted due to stage failure: Task 0 in stage 3.0 failed 1 times
Caused by: {0}
	at java.base/java.io.FileOutputStream.writeBytes(Native Method)
"""


@pytest.mark.parametrize(
    ("number", "what_to_do"),
    [
        (errno.ENOSPC, "a full disk: make room"),
        (errno.EROFS, "a read-only file system: mount it for writing"),
        (errno.EACCES, "a file or folder that may not be read or written: fix its permissions"),
        (errno.EDQUOT, "a used-up disk quota: make room"),
        (errno.EFBIG, "a limit on the size of files (`ulimit -f`): raise it"),
    ],
)
def test_what_the_system_refuses_to_write_is_an_output_error(number: int, what_to_do: str) -> None:
    error = OSError(number, os.strerror(number), "/somewhere/run.safetensors")
    found = explain(error)
    assert isinstance(found, OutputError)
    assert f"found {what_to_do}, then run again" in str(found)
    outer = RuntimeError("training stopped")
    outer.__cause__ = error
    assert "run.safetensors" in str(explain(outer))


def test_a_name_that_no_file_can_have_is_a_mistake_of_who_gave_it() -> None:
    with pytest.raises(OSError, match="too long") as error:
        Path("x" * 300).stat()
    found = explain(error.value)
    assert isinstance(found, ConfigError)
    assert "expected names of files and folders of at most 255 bytes each" in str(found)


@pytest.mark.parametrize(
    "cause",
    [
        "java.io.EOFException: Unexpected end of input stream",
        "java.io.IOException: gzip stream CRC failure",
        "java.io.IOException: not a gzip file",
    ],
)
def test_a_compressed_file_that_ends_early_or_is_damaged_is_an_input_error(cause: str) -> None:
    found = explain(RuntimeError(JAVA.format(cause)))
    assert isinstance(found, InputError)
    assert f"found one that ends early or is damaged (Caused by: {cause}); find it by `gzip -t FILE...`" in str(found)


def test_a_full_disk_below_java_is_found_among_the_causes() -> None:
    found = explain(RuntimeError(JAVA.format("java.io.IOException: No space left on device")))
    assert isinstance(found, OutputError)
    assert "make room" in str(found)


@pytest.mark.parametrize(
    "cause",
    [
        "java.lang.RuntimeException: FILE is not a Parquet file. Expected magic number at tail",
        "java.io.IOException: Could not read footer for file: FILE: not a file",
        "org.apache.hadoop.fs.ChecksumException: Checksum error: FILE at 1536 exp: -1532284627 got: 1531579653",
    ],
)
def test_a_damaged_file_of_a_table_is_named(cause: str) -> None:
    file = "file:/out/tables/sequences/behaviour=page_visit/part-00000-1a.c000.zstd.parquet"
    found = explain(RuntimeError(JAVA.format(cause.replace("FILE", file))))
    assert isinstance(found, TableError)
    assert f"found {file} damaged or gone; run the stage that writes it again" in str(found)


@pytest.mark.parametrize(
    "cause",
    [
        "java.lang.ClassNotFoundException: Class org.apache.hadoop.fs.s3a.S3AFileSystem not found",
        'org.apache.hadoop.fs.UnsupportedFileSystemException: No FileSystem for scheme "gs"',
    ],
)
def test_a_store_that_spark_has_no_connector_of_is_told_with_what_to_do(cause: str) -> None:
    found = explain(RuntimeError(JAVA.format(cause)))
    assert isinstance(found, OutputError)
    assert "make setup-s3" in str(found)


@pytest.mark.parametrize("error", [ValueError("a tensor of the wrong shape"), KeyError("labels"), ZeroDivisionError()])
def test_a_defect_of_ours_is_not_explained_away(error: Exception) -> None:
    assert explain(error) is None


def test_an_error_of_any_length_is_explained() -> None:
    """A search that begins at each character of a long name would take hours."""
    found = explain(RuntimeError("FAILED_READ_FILE " + "a/" * 500_000))
    assert isinstance(found, TableError)
    assert "found one of a table that the stage reads damaged" in str(found)
