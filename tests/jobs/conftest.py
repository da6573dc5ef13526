"""What several tests of jobs need besides a session."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from pyspark.sql import SparkSession


@pytest.fixture
def cached() -> Iterator[ExitStack]:
    """What a test's frames keep in Spark, until the test ends."""
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def other_file_system(spark: SparkSession, tmp_path: Path) -> Iterator[None]:
    """Spark takes a path without a scheme for one of another file system, as on a cluster whose default is HDFS."""
    hadoop = spark.sparkContext._jsc.hadoopConfiguration()
    before = hadoop.get("fs.defaultFS")
    hadoop.set("fs.viewfs.mounttable.other.link./only", f"file://{tmp_path}")
    hadoop.set("fs.defaultFS", "viewfs://other/")
    yield
    hadoop.set("fs.defaultFS", before)
