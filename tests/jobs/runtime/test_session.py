"""What a session of our own is started with, whatever surrounds it."""

import os
import pwd
import shlex
import socket
import struct
import sys
import threading
from pathlib import Path

import pyspark
import pytest
from pyspark.sql import SparkSession

from conf.spark import SparkSettings
from jobs.runtime import session
from schemas.errors import ConfigError, PipelineError


@pytest.fixture(autouse=True)
def own_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", dict(os.environ) | {"HOME": str(tmp_path)})
    os.environ.pop("PYTHONSAFEPATH", None)
    monkeypatch.setattr(session, "find_java_home", lambda: Path("/java"))


def test_a_local_session_takes_its_own_python_and_spark() -> None:
    before = {*os.environ}
    os.environ |= {"PYSPARK_PYTHON": "/other", "PYSPARK_DRIVER_PYTHON": "/other", "SPARK_HOME": "/other"}
    os.environ["SPARK_REMOTE"] = "sc://elsewhere"
    values = session._own_jvm(SparkSettings(master="local[2]"))
    assert os.environ["PYSPARK_PYTHON"] == os.environ["PYSPARK_DRIVER_PYTHON"] == sys.executable
    assert os.environ["SPARK_HOME"] == str(Path(pyspark.__file__).parent)
    assert "SPARK_REMOTE" not in os.environ
    assert values["spark.executorEnv.PYTHONSAFEPATH"] == "1"
    assert {"PYTHONPATH", "PYTHONSAFEPATH"} & {*os.environ} == {
        "PYTHONPATH"
    } & before  # children of the driver keep theirs


def test_submit_arguments_of_the_environment_end_as_pyspark_asks() -> None:
    for given in ("--conf spark.ui.port=1", "--conf spark.ui.port=1 pyspark-shell"):
        os.environ["PYSPARK_SUBMIT_ARGS"] = given
        session._own_jvm(SparkSettings(master="local[2]"))
        assert os.environ["PYSPARK_SUBMIT_ARGS"] == "--conf spark.ui.port=1 pyspark-shell"


def test_a_user_without_a_name_and_a_home_gets_a_folder_for_ivy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_user(_: int) -> None:
        raise KeyError

    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    monkeypatch.setattr(pwd, "getpwuid", no_user)
    os.environ.pop("HOME", None)
    assert session._own_jvm(SparkSettings(master="local[2]"))["spark.jars.ivy"].startswith(
        str(session.scratch_folder())
    )


def test_a_session_that_does_not_start_names_what_may_be_of_other_work(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: object) -> None:
        raise RuntimeError("no gateway")

    monkeypatch.setattr(SparkSession.Builder, "getOrCreate", fail)
    os.environ["SPARK_CONF_DIR"] = "/other"
    with pytest.raises(
        PipelineError, match=r"found: no gateway; .*; SPARK_CONF_DIR of the environment may be of other"
    ):
        session.build_session(SparkSettings(master="local[2]"))


def test_new_tables_have_no_properties_of_a_clusters_choice(spark: SparkSession) -> None:
    defaults = "spark.databricks.delta.properties.defaults."
    spark.conf.set(f"{defaults}columnMapping.mode", "name")  # physical names, which our Python tasks do not write
    spark.conf.set(f"{defaults}appendOnly", "true")
    kept = int(str(spark.conf.get("spark.sql.shuffle.partitions")))
    session.build_session(SparkSettings(shuffle_partitions=kept))
    assert [spark.conf.get(defaults + name) for name in ("columnMapping.mode", "appendOnly")] == ["none", "false"]


def test_a_session_of_another_thread_is_not_taken_for_none(
    spark: SparkSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, str]] = []
    monkeypatch.setattr(SparkSession.Builder, "getOrCreate", lambda self: asked.append(self._options))
    thread = threading.Thread(target=session.build_session, args=(SparkSettings(),))
    thread.start()
    thread.join()
    assert "spark.sql.session.timeZone" in asked[0]
    assert "spark.sql.catalog.spark_catalog" not in asked[0]


def test_a_spark_home_that_is_none_is_refused_for_a_cluster(tmp_path: Path) -> None:
    os.environ["SPARK_HOME"] = str(tmp_path)
    with pytest.raises(ConfigError, match="SPARK_HOME: expected a folder with bin/spark-submit"):
        session._own_jvm(SparkSettings(master="spark://host:7077"))


def test_the_jars_that_the_set_up_kept_are_taken_without_ivy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    settings = SparkSettings(master="local[2]")
    assert "spark.jars.ivy" not in session._own_jvm(settings)
    monkeypatch.setenv("HOME", str(tmp_path / "nowhere"))
    assert session._own_jvm(settings)["spark.jars.ivy"].startswith(str(session.scratch_folder()))
    session.jars_folder().mkdir(parents=True)
    jar = session.jars_folder() / "delta.jar"
    jar.touch()
    values = session._own_jvm(settings)
    assert values["spark.jars"] == str(jar)
    assert "spark.jars.packages" not in values


def test_what_ranks_compiled_is_kept_where_the_user_has_a_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    variable, settings = "TORCHINDUCTOR_CACHE_DIR", SparkSettings(master="local[2]")
    monkeypatch.delenv(variable, raising=False)
    for home, expected in ((tmp_path, str(tmp_path / ".cache/ubp/torchinductor")), (tmp_path / "nowhere", None)):
        monkeypatch.setenv("HOME", str(home))
        assert session._own_jvm(settings).get(f"spark.executorEnv.{variable}") == expected
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv(variable, "/fast/disk")
    assert session._own_jvm(settings)[f"spark.executorEnv.{variable}"] == "/fast/disk"


def test_a_space_or_a_quote_in_the_folder_of_temporary_files_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / 'a "b c'
    monkeypatch.setattr(session, "scratch_folder", lambda: folder)
    options = session._own_jvm(SparkSettings(master="local[2]"))["spark.driver.extraJavaOptions"]
    assert f"-Djava.io.tmpdir={folder}" in shlex.split(options)


def test_only_small_data_is_worked_on_without_the_optimising_compiler() -> None:
    for is_small in (True, False):
        options = session._own_jvm(SparkSettings(master="local[2]"), is_small)["spark.driver.extraJavaOptions"]
        assert ("-XX:TieredStopAtLevel=1" in shlex.split(options)) == is_small


def test_the_jvm_maps_the_classes_that_the_set_up_kept(spark: SparkSession) -> None:
    jvm = spark.sparkContext._jvm
    assert jvm is not None
    if not session.class_archive().exists():
        pytest.skip("the set-up kept no classes: there is no jcmd beside Java")
    maps = Path(f"/proc/{jvm.java.lang.ProcessHandle.current().pid()}/maps").read_text()
    assert str(session.class_archive()) in maps


def test_a_jvm_without_kept_classes_starts_all_the_same(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(session, "class_archive", lambda: tmp_path / "a b.jsa")
    options = "spark.driver.extraJavaOptions"
    assert "SharedArchiveFile" not in session._own_jvm(SparkSettings(master="local[2]"))[options]
    session.class_archive().touch()
    values = shlex.split(session._own_jvm(SparkSettings(master="local[2]"))[options])
    assert f"-XX:SharedArchiveFile={tmp_path / 'a b.jsa'}" in values


@pytest.mark.parametrize(("locale", "expected"), [("C", "C.UTF-8"), ("de_DE.UTF-8", "de_DE.UTF-8")])
def test_the_jvm_starts_with_a_utf_8_locale(locale: str, expected: str) -> None:
    os.environ["LC_ALL"] = locale
    session._own_jvm(SparkSettings(master="local[2]"))
    assert os.environ["LC_ALL"] == expected


def test_a_host_name_that_nothing_resolves_is_not_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: str) -> str:
        raise socket.gaierror

    monkeypatch.setattr(socket, "gethostbyname", fail)
    session._own_jvm(SparkSettings(master="local[2]"))
    assert os.environ["SPARK_LOCAL_IP"] == "127.0.0.1"
    assert os.environ["SPARK_LOCAL_HOSTNAME"] == "localhost"


@pytest.mark.parametrize(
    ("master", "is_ours"),
    [("local", True), ("local[*]", True), ("local[2, 3]", True), ("local-cluster[1,1,1024]", False)],
)
def test_a_local_session_draws_a_secret_that_is_on_no_command_line(master: str, is_ours: bool) -> None:
    values = session._own_jvm(SparkSettings(master=master))
    assert values.get("spark.authenticate") == ("true" if is_ours else None)
    assert "authenticate.secret" not in str(values)  # nor among the options of the JVM


def test_no_other_user_of_the_host_is_answered_by_spark(spark: SparkSession) -> None:
    jvm = spark.sparkContext._jvm
    assert jvm is not None
    block_manager = jvm.org.apache.spark.SparkEnv.get().blockManager().blockManagerId().port()
    ports = [int(spark.sparkContext.getConf().get("spark.driver.port") or 0), int(block_manager)]
    body = b"OpenBlocks"
    request = struct.pack(">bqi", 3, 1, len(body)) + body  # an RpcRequest of Spark's network protocol
    for port in ports:
        with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
            connection.sendall(struct.pack(">q", 8 + len(request)) + request)
            answer = connection.recv(65536)
        assert b"Expected SaslMessage" in answer, port
