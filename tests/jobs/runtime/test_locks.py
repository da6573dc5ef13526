"""Two runs on one output directory: one works, the other is refused; a dead one's lock is taken over."""

import json
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from jobs.cli import main
from jobs.runtime.locks import Holder, locked
from schemas.errors import OutputError

HOLDER = """
import sys, time
from pathlib import Path
from jobs.runtime.locks import locked
with locked(Path(sys.argv[1]), "ubp run"):
    print("holds", flush=True)
    time.sleep(float(sys.argv[2]))
"""


def holder(path: Path, seconds: float) -> "subprocess.Popen[str]":
    """Another process that works there; it has begun."""
    command = [sys.executable, "-c", HOLDER, str(path), str(seconds)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "holds\n"
    return process


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "out" / "logs").mkdir(parents=True)
    return tmp_path / "out" / "logs" / "lock-sequences.json"


def test_the_second_run_is_told_who_works_there_and_may_when_that_one_ended(path: Path) -> None:
    with holder(path, 60) as other:
        with (
            pytest.raises(OutputError, match=rf"`ubp run` there since .*, process {other.pid} on "),
            locked(path, "x"),
        ):
            pass
        assert json.loads(path.read_text())["pid"] == other.pid
        other.terminate()
        other.wait()
    with locked(path, "x"):
        assert json.loads(path.read_text())["pid"] == os.getpid()
    assert path.read_text() == ""


def test_the_lock_of_a_killed_process_is_taken_over(path: Path) -> None:
    with holder(path, 60) as other:
        other.send_signal(signal.SIGKILL)
        other.wait()
    assert json.loads(path.read_text())["pid"] == other.pid
    with locked(path, "x"):
        assert json.loads(path.read_text())["pid"] == os.getpid()


@pytest.mark.parametrize(
    ("change", "is_free"),
    [
        ({}, False), ({"started": 1.0}, True), ({"machine": "another"}, False),
        ({"machine": "another", "pid": 2**22 + 1}, False),
    ],
    ids=["alive", "number used again", "another machine", "perhaps dead on another machine"],
)  # fmt: skip
def test_only_a_holder_of_this_machine_that_is_surely_gone_is_replaced(
    path: Path, change: dict[str, object], is_free: bool
) -> None:
    other = replace(Holder.this("ubp run"), **change)
    path.write_text(json.dumps(asdict(other)))
    if is_free:
        with locked(path, "x"):
            pass
        return
    with pytest.raises(OutputError, match="if it surely runs no more, remove"), locked(path, "x"):
        pass
    assert json.loads(path.read_text()) == asdict(other), "another's lock is left as it was"


def test_a_lock_file_cut_short_by_a_kill_holds_nobody_up(path: Path) -> None:
    path.write_text('{"host": "some')
    with locked(path, "x"):
        pass


def test_of_many_that_begin_at_once_one_gets_it(path: Path) -> None:
    command = [sys.executable, "-c", HOLDER, str(path), "8"]
    with ThreadPoolExecutor(4) as pool:
        runs = list(pool.map(lambda _: subprocess.run(command, capture_output=True, text=True), range(4)))
    assert sorted(run.returncode for run in runs) == [0, 1, 1, 1]
    assert all("OutputError" in run.stderr for run in runs if run.returncode)


@pytest.mark.parametrize("command", ["vacuum", "compact"])
def test_upkeep_is_refused_while_a_stage_works(path: Path, caplog: pytest.LogCaptureFixture, command: str) -> None:
    commit = path.parents[1] / "tables" / "sequences" / "_delta_log" / "00000000000000000000.json"
    commit.parent.mkdir(parents=True)
    commit.touch()
    with holder(path, 60) as other:
        assert main([command, "--out", str(path.parents[1])]) == 2
        assert f"process {other.pid}" in caplog.text
        other.kill()


@pytest.mark.parametrize("call", [["sequences"], ["run", "--from", "sequences"]])
def test_the_command_line_refuses_before_spark_starts(
    path: Path, caplog: pytest.LogCaptureFixture, call: list[str]
) -> None:
    with holder(path, 60) as other:
        out = path.parents[1]
        assert main([*call, "--out", str(out)]) == 2
        assert f"process {other.pid}" in caplog.text
        assert {file.name for file in out.iterdir()} == {"logs"}
        assert all(file.name.startswith("lock-") for file in (out / "logs").iterdir())
        other.kill()
