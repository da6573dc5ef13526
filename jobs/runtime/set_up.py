"""The last step of the set-up: keeps Delta's jars and Spark's classes beside the installation.

With the jars no session needs the network or a home to start; with the classes it starts some seconds sooner.
``make setup-s3`` gives the argument ``s3``: then the jars of the connector of S3 are kept instead.
"""

import hashlib
import logging
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

import pyspark
from pyspark.sql import functions as F

from conf.spark import SparkSettings
from jobs.runtime.session import (
    S3_PACKAGE,
    build_session,
    class_archive,
    delta_package,
    find_java_home,
    jars_folder,
    s3_jars_folder,
)
from schemas.errors import PipelineError

JARS = {
    "3.2.0": {
        "io.delta_delta-spark_2.12-3.2.0.jar": "51d473537d1bc10c81f48b03d8e2a6b604e1b421a70835ec12e917a4245a31d5",
        "io.delta_delta-storage-3.2.0.jar": "58aab63eba7736fea9e03eafb0dde6704a34a70f570c1a69ab8e4012c25a95d4",
        "org.antlr_antlr4-runtime-4.9.3.jar": "131a6594969bc4f321d652ea2a33bc0e378ca312685ef87791b2c60b29d01ea5",
    },
    "3.3.2": {
        "io.delta_delta-spark_2.12-3.3.2.jar": "4e92085d5d794cf949c50bb665b91384857cad58680c2d0bfc9c7ad353e98e85",
        "io.delta_delta-storage-3.3.2.jar": "c096975a2ca97ccc9b4005aa5cce16c9ac3903139d340da6665b66ace67d7c36",
        "org.antlr_antlr4-runtime-4.9.3.jar": "131a6594969bc4f321d652ea2a33bc0e378ca312685ef87791b2c60b29d01ea5",
    },
    "4.0.0": {
        "io.delta_delta-spark_2.13-4.0.0.jar": "538511702aae0ef6973a6a70af3d4543c9009f8edbed786a00737e2d3cd7f04e",
        "io.delta_delta-storage-4.0.0.jar": "9bdb9fb450f1e119eba53feb427f331b0d09072d26485b8273883ad72c9a2e1d",
        "org.antlr_antlr4-runtime-4.13.1.jar": "54665d2838cc66458343468efc539e454fc95b46a8a04b13c6ac43fc9be63505",
    },
}
"""SHA-256 of the jars of each delta-spark: of requirements-dbr.lock, requirements.lock and requirements-next.lock."""
S3_JARS = {
    "com.amazonaws_aws-java-sdk-bundle-1.12.262.jar": "873fe7cf495126619997bec21c44de5d992544aea7e632fdc77adb1a0915bae5",  # noqa: E501
    "org.apache.hadoop_hadoop-aws-3.3.4.jar": "53f9ae03c681a30a50aa17524bd9790ab596b28481858e54efd989a826ed3a4a",
    "org.wildfly.openssl_wildfly-openssl-1.0.7.Final.jar": "9f7058778978ec2ad90c7224401a4b0013d93e0dd3fa0f72b25244ffa3507ca8",  # noqa: E501
}
"""Of ``S3_PACKAGE``."""

log = logging.getLogger(__name__)


def keep_jars(package: str, folder: Path, expected: Mapping[str, str]) -> None:
    """Fetch a package's jars by Spark's own Ivy, and keep them beside the installation if their checksums are ours.

    No class of them is loaded until then: what Spark runs meanwhile is a program that does nothing.

    Raises
    ------
    PipelineError
        If they cannot be fetched, or are others.
    """
    with tempfile.TemporaryDirectory() as scratch:
        program = Path(scratch) / "nothing.py"
        program.touch()
        submit = Path(os.environ.get("SPARK_HOME") or Path(pyspark.__file__).parent, "bin", "spark-submit")
        options = ["--master", "local[1]", "--packages", package, "--conf", f"spark.jars.ivy={scratch}"]
        environment = {**os.environ, "JAVA_HOME": str(find_java_home()), "PYSPARK_PYTHON": sys.executable}
        done = subprocess.run([submit, *options, program], env=environment, capture_output=True, text=True)
        if done.returncode:
            raise PipelineError(f"expected to fetch {package}, found: {done.stderr.strip()[-1000:]}")
        made = folder.with_name(f"{folder.name}.{os.getpid()}.new")
        shutil.copytree(Path(scratch) / "jars", made)
    found = {jar.name: hashlib.sha256(jar.read_bytes()).hexdigest() for jar in sorted(made.iterdir())}
    if found != expected:
        shutil.rmtree(made)
        raise PipelineError(f"{package}: expected jars of these sha256, {expected}, found {found}; they are not kept")
    made.rename(folder)  # whole or not at all


def keep_classes() -> None:
    """Keep the classes that Spark and Delta load to write and read a table: a run then starts some seconds sooner.

    Where Java comes without ``jcmd``, as some packages of it do, a line says so.
    """
    archive = class_archive()
    archive.unlink(missing_ok=True)  # it may be of other jars, and a JVM adds to none
    # jcmd writes an archive only of a JVM that was started with it
    os.environ["SPARK_SUBMIT_OPTS"] = "-XX:+RecordDynamicDumpInfo"
    with tempfile.TemporaryDirectory() as folder:
        spark = build_session(SparkSettings(shuffle_partitions=2), Path(folder) / "spark.log", is_small=True)
        rows = spark.range(100).select("id", F.pmod("id", F.lit(7)).alias("part"))
        rows = rows.mapInArrow(lambda batches: batches, rows.schema)
        rows.write.format("delta").partitionBy("part").save(f"{folder}/table")
        written = spark.read.format("delta").load(f"{folder}/table")
        written.join(written.groupBy("part").agg(F.max("id").alias("last")), on="part").orderBy("id").collect()
        log.info("Spark %s with %s starts", spark.version, delta_package())
        jvm = spark.sparkContext._jvm
        assert jvm is not None
        made = archive.with_name(f"{archive.name}.{os.getpid()}.new")
        jcmd = Path(os.environ["JAVA_HOME"], "bin", "jcmd")
        command: list[str | Path] = [jcmd, str(jvm.java.lang.ProcessHandle.current().pid())]
        try:
            subprocess.run([*command, "VM.cds", "dynamic_dump", made], check=True, capture_output=True, text=True)
            made.rename(archive)  # a JVM that maps a part of a file dies of it
        except (OSError, subprocess.CalledProcessError) as error:
            log.info("its classes are not kept, so that each start takes some seconds more: %s", error)
        spark.stop()


def main() -> None:
    """Keep the jars that are not kept yet, and the classes anew: those that are kept may be of other jars."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("py4j").setLevel(logging.WARNING)
    if "s3" in sys.argv[1:]:
        if not any(s3_jars_folder().glob("*.jar")):
            keep_jars(S3_PACKAGE, s3_jars_folder(), S3_JARS)
        return
    if not any(jars_folder().glob("*.jar")):
        keep_jars(delta_package(), jars_folder(), JARS.get(metadata.version("delta-spark"), {}))
    keep_classes()


if __name__ == "__main__":
    main()
