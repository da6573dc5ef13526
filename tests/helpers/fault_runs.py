"""A tiny shop, runs of `ubp` on it as processes of their own, and what two outputs have in common."""

import contextlib
import hashlib
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar
from urllib.parse import unquote

import psutil
import pyarrow.parquet as pq

from jobs.pipeline.registry import STAGE_NAMES
from jobs.storage.provenance import PROVENANCE, read_records
from jobs.storage.workspace import Workspace

SETTINGS = """
behaviours:
  product_buy: {item: sku}
  page_visit: {item: url}
encoders:
  product_buy: {behaviours: [product_buy], max_length: 8}
  page_visit: {behaviours: [page_visit], max_length: 8}
sequences: {widths: [1, 8], held_out_share: 0.1}
model: {hidden_size: 16, n_layers: 1, n_heads: 2, feed_forward_size: 16}
training: {n_ranks: 1, epochs: 4, tokens_per_batch: 64, checkpoint_every_steps: 3, log_every_steps: 3}
probe: {hidden_size: 16, epochs: 1}
spark: {driver_memory: 1g, shuffle_partitions: 2}
"""
BEHAVIOURS = ("product_buy", "page_visit")
LOGS = ("logs", "metrics.jsonl")
"""What a run may add to although it fails."""
RUN_SECONDS = 500
Found = TypeVar("Found")


def unfinished_copy(undisturbed: Path, out: Path) -> Path:
    """The tables and files of a run without a record of what they were made from."""
    shutil.copytree(undisturbed, out)
    (out / PROVENANCE).unlink()
    return out


@dataclass(frozen=True)
class Shop:
    """The source and the settings of all runs."""

    data: Path
    settings: Path

    def arguments(self, out: Path, command: str = "run", *more: str) -> list[str]:
        """Of a call of `ubp`."""
        return [command, "--data", str(self.data), "--out", str(out), "--config", str(self.settings), *more]

    def command(self, out: Path, command: str = "run", *more: str) -> list[str]:
        """A call of `ubp` as a process of its own."""
        return [sys.executable, "-m", "jobs.cli", *self.arguments(out, command, *more)]

    def run(self, out: Path, command: str = "run", *more: str) -> "subprocess.CompletedProcess[str]":
        """A call of `ubp`, to its end."""
        return subprocess.run(self.command(out, command, *more), capture_output=True, text=True, timeout=RUN_SECONDS)

    def finish(self, out: Path, *more: str) -> None:
        """A run that must succeed."""
        done = self.run(out, "run", *more)
        assert done.returncode == 0, done.stderr[-3000:]


@contextlib.contextmanager
def started(command: list[str], log: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """A process group, killed at the end of the block with all that is left of it."""
    with log.open("wb") as stream:
        process = subprocess.Popen(command, start_new_session=True, stdout=stream, stderr=stream)
        try:
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def wait_until(
    is_now: Callable[[], Found], process: "subprocess.Popen[bytes]", log: Path, pause: float = 0.003
) -> Found:
    """What the function gives first that is not empty or false; the run must still go on then."""
    deadline = time.monotonic() + RUN_SECONDS
    while not (found := is_now()):
        assert process.poll() is None, f"the run ended before the moment came:\n{log.read_text()[-3000:]}"
        assert time.monotonic() < deadline, f"the moment did not come:\n{log.read_text()[-3000:]}"
        time.sleep(pause)
    return found


def kill_driver_when(command: list[str], is_now: Callable[[], bool], log: Path) -> None:
    """Start a run and kill its driver, and only it, as soon as the moment has come."""
    with log.open("wb") as stream:
        process = subprocess.Popen(command, stdout=stream, stderr=stream)
        try:
            wait_until(is_now, process, log)
        finally:
            process.kill()
            process.wait()


def ranks_below(pid: int, launcher: str) -> list[psutil.Process]:
    """The ranks that a driver has started and that run, by number."""
    numbered = {}
    for process in psutil.Process(pid).children(recursive=True):
        with contextlib.suppress(psutil.Error):  # ended meanwhile
            if is_rank(process.cmdline(), launcher):
                numbered[process] = int(process.environ()["HOROVOD_RANK" if launcher == "horovod" else "RANK"])
    return sorted(numbered, key=lambda process: numbered[process])


def is_rank(command: list[str], launcher: str) -> bool:
    """Whether the command line is that of a process that trains."""
    if launcher == "torch":
        return command[-1:] != [] and command[-1].endswith("/train.py") and "-m" not in command
    return "horovod.spark.task.gloo_exec_fn" in command


def newest(paths: Iterator[Path]) -> int:
    """When the latest of the files was written, nanoseconds since 1970; 0 where there is none."""
    times = [0]
    for path in paths:
        with contextlib.suppress(FileNotFoundError):  # replaced meanwhile
            times.append(path.stat().st_mtime_ns)
    return max(times)


def finished_stages(out: Path) -> list[str]:
    """The first stages, whose output is recorded as made."""
    records = read_records(Workspace(out)).values()
    made = {record.stage for record in records} - {record.stage for record in records if not record.made}
    return list(itertools.takewhile(made.__contains__, STAGE_NAMES))


def table_rows(out: Path, table: str) -> list[str]:
    """The rows of a table's newest version, sorted, as text; read without Spark."""
    folder, files = out / "tables" / table, {}
    for commit in sorted((folder / "_delta_log").glob("[0-9]*.json")):
        for action in map(json.loads, commit.read_text().splitlines()):
            if "add" in action:
                files[action["add"]["path"]] = action["add"]["partitionValues"]
            if "remove" in action:
                files.pop(action["remove"]["path"], None)
    rows = []
    for name, partition in files.items():
        rows += [str({**row, **partition}) for row in pq.ParquetFile(folder / unquote(name)).read().to_pylist()]
    return sorted(rows)


def outcome(out: Path) -> dict[str, object]:
    """All that a run is for: tables, models, entries, scores."""
    tables = {path.name: table_rows(out, path.name) for path in sorted((out / "tables").iterdir())}
    cards = {str(path.relative_to(out)): _card(path) for path in (out / "models").glob("*/config.json")}
    files = [*(out / "models").rglob("*.*"), *(out / "entries").rglob("*.*")]
    names = {str(path.relative_to(out)): digest(path) for path in files}
    return {**tables, **names, **cards, "scores.json": json.loads((out / "scores.json").read_text())}


def _card(path: Path) -> dict[str, object]:
    """Of a model, without its table's version: a stage that runs again writes the same rows as a next one."""
    return {name: value for name, value in json.loads(path.read_text()).items() if name != "sequences_version"}


def assert_same_outcome(out: Path, undisturbed: Path) -> None:
    """Each table, file and score."""
    found, expected = outcome(out), outcome(undisturbed)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name] == value, name


def tell(text: str) -> None:
    """What was seen, for `pytest -rP`."""
    sys.stdout.write(f"{text}\n")


def digest(path: Path) -> str:
    """Of a file's bytes."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def contents(out: Path) -> dict[str, str]:
    """Every file but logs, and its digest; of the records, which tell of a stage that began, the settings."""
    files = [path for path in out.rglob("*") if path.is_file()]
    names = {str(path.relative_to(out)): path for path in files}
    found = {name: digest(path) for name, path in names.items() if not name.startswith(LOGS)}
    if PROVENANCE in found:
        settings = {output: record.settings for output, record in read_records(Workspace(out)).items()}
        found[PROVENANCE] = json.dumps(settings)
    return found
