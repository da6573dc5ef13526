"""One local Spark session for all tests that ask for it; those of ``ml`` need no Spark at all."""

import fcntl
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from pyspark.sql import SparkSession
    from s3_server import S3Server
    from tiny_run import TinyRun

    from jobs.storage.workspace import Workspace


# how long an example takes says nothing on a busy machine
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")


def pytest_configure(config: pytest.Config) -> None:
    config.option.loadscopereorder = False  # else xdist begins with the files of the most tests


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whatever asks for a session is marked, so that ``-m 'not spark'`` starts none.

    Files with slow tests come first: at the end of two processes neither is left alone with a long one.
    """
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)
    for item in items:
        if "spark" in getattr(item, "fixturenames", ()):
            item.add_marker("spark")


SHARED = Path(__file__).parents[2] / "shared"
SHUFFLE_PARTITIONS = 2


@pytest.fixture(scope="session")
def spark(tmp_path_factory: pytest.TempPathFactory) -> "Iterator[SparkSession]":
    from conf.spark import SparkSettings
    from jobs.runtime.session import build_session

    log_file = tmp_path_factory.mktemp("spark") / "spark.log"
    settings = SparkSettings(master="local[2]", driver_memory="2g", shuffle_partitions=SHUFFLE_PARTITIONS)
    session = build_session(settings, log_file, is_small=True)
    # of a few rows: Spark interprets its expressions in less time than it compiles them; runs that tests start compile
    session.conf.set("spark.sql.codegen.wholeStage", "false")
    session.conf.set("spark.sql.codegen.factoryMode", "NO_CODEGEN")
    yield session
    session.stop()


@pytest.fixture(scope="module", autouse=True)
def forgotten_tables() -> Iterator[None]:
    """Delta keeps the snapshot of every table for an hour: of a suite's hundreds of tables, more than the heap.

    Frames that a test persisted and its stage did not give back go too, and the shuffles of a command that it ran.
    """
    yield
    sql = sys.modules.get("pyspark.sql")
    if sql and (session := sql.SparkSession.getActiveSession()):
        session.catalog.clearCache()
        session._jvm.org.apache.spark.sql.delta.DeltaLog.clearCache()
        session.conf.set("spark.sql.shuffle.partitions", str(SHUFFLE_PARTITIONS))


@pytest.fixture(scope="session")
def tiny_run(spark: "SparkSession", tmp_path_factory: pytest.TempPathFactory) -> "TinyRun":
    """Made once for all processes of the suite: the first that asks for it makes it, others wait; read it only."""
    from tiny_run import TinyRun

    own = tmp_path_factory.getbasetemp()
    run = TinyRun((own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "tiny-run")
    with run.folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not run.is_made.exists():
            run.make(spark)
            run.is_made.touch()
    return run


@pytest.fixture(scope="module")
def server() -> "Iterator[S3Server]":
    """A server of S3, which the environment names for as long as a file's tests run."""
    from s3_server import s3_server

    with s3_server() as server:
        yield server


@pytest.fixture
def workspace(tmp_path: Path) -> "Workspace":
    return _prepared(tmp_path)


@pytest.fixture(scope="module")
def shared_workspace(tmp_path_factory: pytest.TempPathFactory) -> "Workspace":
    """For what all tests of a file start from: made once, then read, or copied into the ``workspace`` of each."""
    return _prepared(tmp_path_factory.mktemp("shared"))


def _prepared(folder: Path) -> "Workspace":
    from jobs.storage.workspace import Workspace

    place = Workspace(folder / "out")
    place.prepare()
    return place


@pytest.fixture(scope="session")
def golden() -> Path:
    return _shared("golden")


@pytest.fixture(scope="session")
def completejourney() -> Path:
    return _shared("data/completejourney")


def _shared(name: str) -> Path:
    if not (SHARED / name).exists():
        pytest.skip(f"the reference data {name} does not lie beside this checkout")
    return SHARED / name
