"""A standalone cluster of four hosts (master, two workers, driver) runs the wheel and gives what local mode gives.

``make test-hosts`` runs this: root on Linux only. Spark talks over ``eth0``, the ranks over ``eth1``.
"""

import json
import os
import shutil
import subprocess
import sys
import time
import zipfile
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pyspark
import pytest
from hosts import Host, hosts_file, made_hosts, why_not
from pyspark.sql import SparkSession
from tiny_run import TinyRun, differences, read_numbers, read_tables

from jobs.runtime.session import find_java_home, s3_jars_folder
from jobs.storage.provenance import changed_records, read_records
from jobs.storage.workspace import Workspace

ROOT = Path(__file__).parents[2]
PACKAGES = ("conf", "jobs", "ml", "schemas")
PORT = 7077
SPARK, RANKS = "eth0", "eth1"

pytestmark = pytest.mark.hosts


class Cluster:
    """A standalone cluster whose hosts do not see this checkout: what runs on them comes from the wheel."""

    def __init__(self, hosts: dict[str, Host], folder: Path, stack: ExitStack) -> None:
        self.hosts, self.folder, self._stack = hosts, folder, stack
        self._names = hosts_file(hosts, folder)
        self.events = folder / "events"
        self.events.mkdir()
        spark_home = Path(pyspark.__file__).parent
        self._spark_class, self._submit = spark_home / "bin" / "spark-class", spark_home / "bin" / "spark-submit"
        self.scratch = folder / "scratch"
        self.scratch.mkdir()
        self._environment = os.environ | {
            "TMPDIR": str(self.scratch),
            "JAVA_HOME": str(find_java_home()),
            "PYSPARK_PYTHON": sys.executable,
            "SPARK_DAEMON_MEMORY": "256m",
            "OMP_NUM_THREADS": "1",
        }

    def start_store(self) -> dict[str, str]:
        """A server of S3's protocol on the master's host, and the environment that names it; from then on all have it.

        To be called before the cluster starts.
        """
        port, host = 5000, self.hosts["master"].addresses[SPARK]
        environment = {
            "AWS_ENDPOINT_URL": f"http://{host}:{port}",
            "AWS_ACCESS_KEY_ID": "key-of-the-test",
            "AWS_SECRET_ACCESS_KEY": "secret-of-the-test",
            "AWS_REGION": "us-east-1",
        }
        self._environment |= environment
        server = [sys.executable, "-m", "moto.server", "-H", host, "-p", str(port)]
        self._run_beside("master", "store", server, "Running on http")
        self.on_driver("import s3fs; s3fs.S3FileSystem().mkdir('shop')")
        return environment

    def on_driver(self, program: str) -> None:
        subprocess.run(self._on("driver", [sys.executable, "-c", program]), env=self._environment, check=True)

    @property
    def master(self) -> str:
        return f"spark://{self.hosts['master'].addresses[SPARK]}:{PORT}"

    def start(self) -> None:
        address = self.hosts["master"].addresses[SPARK]
        self._serve("master", "org.apache.spark.deploy.master.Master", "--host", address, "--port", str(PORT))
        for name in ("worker1", "worker2"):
            flags = ["--cores", "1", "--memory", "1100m", "--work-dir", str(self.folder / "work" / name)]
            flags += ["--host", self.hosts[name].addresses[SPARK]]
            self._serve(name, "org.apache.spark.deploy.worker.Worker", *flags, self.master)

    def submit(self, zipped: Path, script: Path, jars: str, flags: list[str]) -> subprocess.CompletedProcess[str]:
        address = self.hosts["driver"].addresses[SPARK]
        conf = {
            "spark.driver.host": address,
            "spark.driver.bindAddress": address,
            "spark.executor.memory": "900m",
            "spark.executorEnv.PYTHONPATH": zipped.name,  # ranks are no Spark workers: --py-files alone misses them
            "spark.eventLog.enabled": "true",
            "spark.eventLog.dir": f"file:{self.events}",
            "spark.scheduler.minRegisteredResourcesRatio": "1.0",
            "spark.scheduler.maxRegisteredResourcesWaitingTime": "60s",
            "spark.cores.max": "2",
        }
        told = [part for key, value in conf.items() for part in ("--conf", f"{key}={value}")]
        files = ["--jars", jars, "--py-files", str(zipped)]
        command = [str(self._submit), "--master", self.master, "--driver-memory", "1g", *told, *files, str(script)]
        on_driver = self._on("driver", [*command, *flags])
        return subprocess.run(on_driver, env=self._environment, capture_output=True, text=True, timeout=1200)

    def begin(self, name: str, log: str, command: list[str]) -> "subprocess.Popen[bytes]":
        """A command of this checkout on a host, which sees the checkout and a folder for temporary files of its own."""
        log_file = self._stack.enter_context((self.folder / f"{log}.log").open("w"))
        on_host = self.hosts[name].command(command, self._names, [self.scratch])
        process = subprocess.Popen(on_host, env=self._environment, cwd=ROOT, stdout=log_file, stderr=subprocess.STDOUT)
        self._stack.callback(process.wait)
        self._stack.callback(process.kill)
        return process

    def _serve(self, name: str, *command: str) -> None:
        wanted = "I have been elected leader" if name == "master" else "Successfully registered with master"
        self._run_beside(name, name, [str(self._spark_class), *command], wanted)

    def _run_beside(self, name: str, log: str, command: list[str], wanted: str) -> None:
        log_file = self._stack.enter_context((self.folder / f"{log}.log").open("w"))
        on_host = self._on(name, command)
        process = subprocess.Popen(on_host, env=self._environment, stdout=log_file, stderr=subprocess.STDOUT)
        self._stack.callback(process.wait)
        self._stack.callback(process.kill)
        wait_for(Path(log_file.name), wanted)

    def _on(self, name: str, command: list[str]) -> list[str]:
        return self.hosts[name].command(command, self._names, [*(ROOT / package for package in PACKAGES), self.scratch])


def wait_for(log_file: Path, text: str, seconds: float = 300) -> None:
    deadline = time.monotonic() + seconds
    while text not in log_file.read_text():
        assert time.monotonic() < deadline, log_file.read_text()[-3000:]
        time.sleep(0.2)


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    if reason := why_not():
        pytest.skip(reason)
    with ExitStack() as stack:
        hosts = stack.enter_context(made_hosts("master", "worker1", "worker2", "driver"))
        yield Cluster(hosts, tmp_path, stack)


@pytest.fixture
def zipped_wheel(tmp_path: Path) -> Path:
    """The wheel under the name that ``--py-files`` takes."""
    source = tmp_path / "source"
    source.mkdir()
    subprocess.run(["cp", "-r", *PACKAGES, "setup.py", "pyproject.toml", str(source)], cwd=ROOT, check=True)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir"]
    subprocess.run([*command, str(tmp_path / "dist"), str(source)], check=True)
    (wheel,) = (tmp_path / "dist").iterdir()
    return Path(shutil.copy(wheel, tmp_path / "ubp.zip"))


def test_the_wheel_on_four_hosts_gives_what_local_mode_gives(
    spark: SparkSession, tiny_run: TinyRun, cluster: Cluster, zipped_wheel: Path, tmp_path: Path
) -> None:
    cluster.start()
    local, remote = tiny_run.workspace, Workspace(tmp_path / "remote")
    script = tmp_path / "ubp_cli.py"
    script.write_bytes(zipfile.ZipFile(zipped_wheel).read("jobs/cli.py"))
    jars = spark.sparkContext.getConf().get("spark.jars")
    workers = [cluster.hosts["worker1"], cluster.hosts["worker2"]]

    def submit(stages: list[str], launcher: str) -> list[int]:
        """What each worker sent over the ranks' network meanwhile."""
        before = [host.bytes_sent(RANKS) for host in workers]
        told = ["--set", f"training.network_interfaces=[{RANKS}]", f"training.launcher={launcher}"]
        result = cluster.submit(zipped_wheel, script, str(jars), ["run", *stages, *tiny_run.flags(remote.out), *told])
        assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-3000:]
        return [host.bytes_sent(RANKS) - former for host, former in zip(workers, before, strict=True)]

    sent = {"horovod": submit([], "horovod")}
    assert differences(read_tables(spark, remote), read_tables(spark, local)) == []
    assert differences(read_numbers(remote.out), read_numbers(local.out), tolerance=1e-6) == []
    addresses = {host.addresses[SPARK] for host in workers}
    seen = task_hosts(cluster.events)
    for stage in ("ingest", "sequences", "train", "embed"):
        assert seen[stage] == addresses, f"{stage}: tasks ran on {seen[stage]}, the workers are {addresses}"

    sent["torch"] = submit(["--from", "train", "--to", "train"], "torch")
    assert differences(read_numbers(remote.out), read_numbers(local.out), tolerance=1e-6) == []
    expected = exchanged_bytes(remote.out)
    sys.stdout.write(f"tasks on {dict(seen)}; bytes over {RANKS}: {sent}, gradients alone are {expected}\n")
    for launcher, n_bytes in sent.items():
        assert min(n_bytes) > expected, f"{launcher}: the workers sent {n_bytes} bytes over {RANKS}, not {expected}"


def test_hosts_that_share_nothing_but_a_store_run_all_stages(
    spark: SparkSession, tiny_run: TinyRun, cluster: Cluster, zipped_wheel: Path, tmp_path: Path
) -> None:
    """Each process has a folder for temporary files of its own: none sees the driver's copy of ``--out``."""
    pytest.importorskip("moto")
    if not any(s3_jars_folder().glob("*.jar")):
        pytest.skip("make setup-s3 fetches the connector")
    cluster.start_store()
    cluster.start()
    script = tmp_path / "ubp_cli.py"
    script.write_bytes(zipfile.ZipFile(zipped_wheel).read("jobs/cli.py"))
    jars = ",".join([str(spark.sparkContext.getConf().get("spark.jars")), *map(str, s3_jars_folder().glob("*.jar"))])
    told = ["--set", f"training.network_interfaces=[{RANKS}]", "training.checkpoint_every_steps=2"]
    flags = [*tiny_run.flags(tmp_path / "unused")[:2], "--out", "s3://shop/run", "--config", str(tiny_run.settings)]
    result = cluster.submit(zipped_wheel, script, jars, ["run", *flags, *told])
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-3000:]
    seen = task_hosts(cluster.events)
    addresses = {cluster.hosts[name].addresses[SPARK] for name in ("worker1", "worker2")}
    for stage in ("train", "embed", "probe"):
        assert seen[stage] == addresses, f"{stage}: tasks ran on {seen[stage]}, the workers are {addresses}"
    here = tmp_path / "fetched"
    cluster.on_driver(f"import s3fs; s3fs.S3FileSystem().get('shop/run', {str(here)!r}, recursive=True)")
    found, expected = read_numbers(here), read_numbers(tiny_run.workspace.out)
    assert found.keys() == expected.keys()
    exact = [name for name in expected if name.startswith("baseline/") or name.endswith("client_ids.npy")]
    assert differences({name: found[name] for name in exact}, {name: expected[name] for name in exact}) == []
    lines = [json.loads(line) for line in (here / "metrics.jsonl").read_text().splitlines()]
    assert {line["behaviour"] for line in lines if "train/loss" in line} >= {"product_buy", "mixed"}


def test_two_stages_on_two_hosts_at_once_lose_nothing_of_each_other(
    tiny_run: TinyRun, cluster: Cluster, tmp_path: Path
) -> None:
    """Two clusters of one host each, as the Databricks job starts train beside baseline; a third host is kept out."""
    out = Path(shutil.copytree(tiny_run.workspace.out, tmp_path / "out"))
    hosts = {"train": "worker1", "baseline": "worker2"}

    def command(stage: str) -> list[str]:
        return [sys.executable, "-m", "jobs.cli", stage, *tiny_run.flags(out)[2:]]

    with changed_records(Workspace(out)) as records:
        made = {output: record for output, record in records.items() if record.stage in hosts}
        records |= {output: replace(record, made=None) for output, record in made.items()}
    began = {stage: cluster.begin(name, stage, command(stage)) for stage, name in hosts.items()}
    while not [lock for lock in (out / "logs").glob("lock-*.json") if "worker1" in lock.read_text()]:
        assert began["train"].poll() is None, (tmp_path / "train.log").read_text()[-3000:]
        time.sleep(0.1)
    assert cluster.begin("driver", "second", command("train")).wait(300) == 2
    assert "`ubp train` there since" in (told := (tmp_path / "second.log").read_text())
    assert f"process {began['train'].pid} on worker1" in told
    for stage, process in began.items():
        assert process.wait(900) == 0, (tmp_path / f"{stage}.log").read_text()[-5000:]
    found = read_records(Workspace(out))
    assert [output for output in made if not found[output].made] == []
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [sum("stage/seconds" in line for line in lines if line.get("stage") == stage) for stage in hosts] == [2, 2]
    assert differences(read_numbers(out), read_numbers(tiny_run.workspace.out)) == []
    assert list((out / "logs").glob("lock*")) == []


def task_hosts(events: Path) -> dict[str, set[str]]:
    """Pipeline stage (the description of its Spark jobs) -> hosts that ran its tasks, from Spark's event log."""
    described: dict[int, str] = {}
    hosts: dict[str, set[str]] = defaultdict(set)
    (log,) = [path for path in events.iterdir() if not path.name.startswith(".")]
    for line in log.read_text().splitlines():
        event = json.loads(line)
        if event["Event"] == "SparkListenerJobStart":
            name = event["Properties"].get("spark.job.description", "")
            described |= dict.fromkeys(event["Stage IDs"], name)
        elif event["Event"] == "SparkListenerTaskEnd":
            hosts[described.get(event["Stage ID"], "")].add(event["Task Info"]["Host"])
    return hosts


def exchanged_bytes(out: Path) -> int:
    """The least that a rank of two sends: the dense gradients, float32, of every step.

    An allreduce of n bytes sends at least n/2 x 2 from each of two ranks.
    """
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    steps: dict[str, int] = {}
    for line in lines:
        if "train/loss" in line:
            steps[line["behaviour"]] = max(steps.get(line["behaviour"], 0), int(line["step"]))
    encoder = 4 * (4 * 16 * 16 + 2 * 16 * 16)  # attention and feed-forward matrices of one block, 16 wide
    return sum(steps.values()) * encoder
