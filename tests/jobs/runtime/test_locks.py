"""Two runs on one output directory: one works, the other is refused; a dead one's lock is taken over."""

import errno
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from jobs.cli import main
from jobs.runtime import locks
from jobs.runtime.locks import LEASE_SECONDS, Holder, taking_turns
from jobs.storage.provenance import Record, changed_records, read_records
from jobs.storage.workspace import Workspace
from ml.files import store as stores
from ml.files.notes import FolderNotes, StoreNotes
from ml.files.store import Store
from schemas.errors import OutputError

HOLDER = """
import sys
from pathlib import Path
from jobs.runtime.locks import locked
from ml.files.notes import FolderNotes
with locked(FolderNotes(Path(sys.argv[1])), ["sequences", "train"], "ubp run", "out"):
    print("holds", flush=True)
    sys.stdin.read()
"""


def begin_holder(logs: Path, stderr: int | None = None) -> "subprocess.Popen[str]":
    """Another process that works there, or is refused, until its input ends."""
    command = [sys.executable, "-c", HOLDER, str(logs)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr, text=True)


def said(process: "subprocess.Popen[str]") -> str:
    """What it says when it has the lock; nothing if it ends without."""
    assert process.stdout is not None
    return process.stdout.readline()


def holder(logs: Path) -> "subprocess.Popen[str]":
    """Another process that works there; it has begun."""
    process = begin_holder(logs)
    assert said(process) == "holds\n"
    return process


@pytest.fixture
def logs(tmp_path: Path) -> Path:
    (tmp_path / "out" / "logs").mkdir(parents=True)
    return tmp_path / "out" / "logs"


def locked(logs: Path, names: Sequence[str], command: str) -> AbstractContextManager[None]:
    return locks.locked(FolderNotes(logs), names, command, "OUT")


def holders(logs: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted(logs.glob("lock-*.json"))]


def lost_on_another_host(logs: Path, *names: str) -> Path:
    """The lock of a process that nobody here can ask for, as it was just renewed."""
    path = logs / f"lock-{names[0]}.json"
    path.write_text(json.dumps(asdict(replace(Holder.this("ubp run", names), machine="another", host="worker-7"))))
    return path


def test_the_second_run_is_told_who_works_there_and_takes_its_lock_over_when_that_one_was_killed(logs: Path) -> None:
    with holder(logs) as other:
        told = rf"`ubp run` there since .*, process {other.pid} on .*, remove \S+lock-\w+\.json$"
        with pytest.raises(OutputError, match=told), locked(logs, ["vocabulary", "sequences"], "x"):
            pass
        assert [each["pid"] for each in holders(logs)] == [other.pid]
        other.kill()
        other.wait()
    assert [each["pid"] for each in holders(logs)] == [other.pid]
    with locked(logs, ["sequences"], "x"):
        assert [each["pid"] for each in holders(logs)] == [os.getpid()]
    assert list(logs.iterdir()) == []


def test_stages_that_share_nothing_may_run_at_once(logs: Path) -> None:
    with locked(logs, ["train"], "ubp train"), locked(logs, ["baseline"], "ubp baseline"):
        assert sorted(each["names"] for each in holders(logs)) == [["baseline"], ["train"]]


@pytest.mark.parametrize(
    ("change", "is_free"),
    [
        ({}, False), ({"started": 1.0}, True), ({"machine": "another"}, False),
        ({"machine": "another", "pid": 2**22 + 1}, False),
    ],
    ids=["alive", "number used again", "another machine", "perhaps dead on another machine"],
)  # fmt: skip
def test_only_a_holder_of_this_machine_that_is_surely_gone_is_replaced(
    logs: Path, change: dict[str, Any], is_free: bool
) -> None:
    other, path = replace(Holder.this("ubp run", ["train"]), **change), logs / "lock-1.json"
    path.write_text(json.dumps(asdict(other)))
    if is_free:
        with locked(logs, ["train"], "x"):
            assert not path.exists()
        return
    with pytest.raises(OutputError, match=f"if it surely runs no more, remove {path}$"), locked(logs, ["train"], "x"):
        pass
    assert json.loads(path.read_text()) == asdict(other), "another's lock is left as it was"


def test_a_clock_that_was_set_makes_no_live_process_a_dead_one(monkeypatch: pytest.MonkeyPatch) -> None:
    this, boot_time = Holder.this("ubp run"), psutil.boot_time()
    monkeypatch.setattr(psutil._psplatform, "boot_time", lambda: boot_time + 3600.0)
    monkeypatch.setattr(psutil._psplatform, "BOOT_TIME", boot_time + 3600.0, raising=False)  # of earlier versions
    assert not this.is_gone()


def test_the_lock_of_a_lost_host_ends_with_its_lease_and_all_of_them_are_named_until_then(
    logs: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lost = [lost_on_another_host(logs, name) for name in ("baseline", "train")]
    told = ".*on worker-7, .*on worker-7; .* remove " + ", ".join(map(str, lost))
    with pytest.raises(OutputError, match=told), locked(logs, ["baseline", "train"], "x"):
        pass
    for path in lost:
        before = path.stat().st_mtime - LEASE_SECONDS - 5
        os.utime(path, (before, before))
    with locked(logs, ["baseline", "train"], "x"):
        assert [each["pid"] for each in holders(logs)] == [os.getpid()]
    assert caplog.text.count("the lock of `ubp run` on worker-7 is taken over") == 2


def test_a_lock_is_renewed_while_its_holder_runs(logs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "RENEW_SECONDS", 0.01)
    with locked(logs, ["train"], "x"):
        (path,) = logs.glob("lock-*.json")
        os.utime(path, (1.0, 1.0))
        wait_until(lambda: path.stat().st_mtime > 1.0)
        assert holders(logs)[0]["pid"] == os.getpid()


def test_a_run_whose_lock_was_taken_over_ends(logs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "RENEW_SECONDS", 0.01)

    def remove() -> bool:
        for lock in logs.glob("lock-*.json"):
            lock.unlink(missing_ok=True)
        return False  # again: a renewal may write it meanwhile

    def work() -> None:
        wait_until(remove)

    with pytest.raises(KeyboardInterrupt), locked(logs, ["train"], "x"):
        work()


TERMINATED = """
import signal, sys, time
from jobs import cli
from jobs.commands import calls
signal.signal(signal.SIGINT, signal.SIG_IGN)  # as a shell starts what it runs in the background
def work(arguments):
    workspace = calls.open_workspace(arguments)
    calls._lock(arguments, workspace)
    print("holds", flush=True)
    time.sleep(60)
cli._COMMANDS["status"] = work
sys.exit(cli.main(["status", "--out", sys.argv[1]]))
"""


def test_a_run_that_a_scheduler_ends_releases_its_lock(logs: Path) -> None:
    command = [sys.executable, "-c", TERMINATED, str(logs.parent)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        assert run.stderr is not None
        assert run.stdout.readline() == "holds\n"
        assert len(holders(logs)) == 1
        run.terminate()
        assert run.wait() == 143
        assert "terminated (SIGTERM); `ubp run` with the same flags goes on" in run.stderr.read()
    assert list(logs.iterdir()) == []


def test_a_run_that_ends_while_its_store_is_away_does_not_wait_for_its_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object) -> None:
        nonlocal n_calls
        n_calls += 1
        raise TimeoutError("503")

    n_calls, store = 0, Store(str(tmp_path))
    clock = SimpleNamespace(monotonic=time.monotonic, sleep=lambda _: pytest.fail("it waits"))
    monkeypatch.setattr(locks, "RENEW_SECONDS", 0.01)

    def work() -> None:
        for name in ("info", "rm_file"):
            monkeypatch.setattr(store.system, name, away)
        monkeypatch.setattr(stores, "time", clock)
        wait_until(lambda: n_calls > 0)  # a renewal
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), locks.locked(StoreNotes(store, "logs"), ["train"], "x", "OUT"):
        work()


def wait_until(is_so: Callable[[], bool]) -> None:
    for _ in range(1000):
        if is_so():
            return
        time.sleep(0.02)
    pytest.fail("it did not come")


@pytest.mark.parametrize("text", ['{"host": "some', '{"host": "old", "machine": "m", "pid": 1, "x": 2}', "[]"])
def test_a_lock_that_does_not_say_whose_it_is_is_somebodys_until_its_lease_ends(logs: Path, text: str) -> None:
    path = logs / "lock-1.json"
    path.write_text(text)
    told = "lock-1.json: expected a lock of this version, found another text, written . s ago; .* or remove it$"
    with pytest.raises(OutputError, match=told), locked(logs, ["train"], "x"):
        pass
    assert path.read_text() == text
    os.utime(path, (path.stat().st_mtime - LEASE_SECONDS - 5,) * 2)
    with locked(logs, ["train"], "x"):
        assert len(holders(logs)) == 1


def test_a_lock_of_a_later_version_that_tells_more_is_a_lock(logs: Path) -> None:
    path = lost_on_another_host(logs, "train")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"more": 1}))
    with pytest.raises(OutputError, match="found `ubp run` there"), locked(logs, ["train"], "x"):
        pass
    assert path.exists()


def test_a_lock_that_cannot_be_read_is_not_taken_for_a_dead_ones(logs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = lost_on_another_host(logs, "train")

    def fail(*_: object) -> str:
        raise OSError(errno.ESTALE, "Stale file handle", str(path))

    monkeypatch.setattr(FolderNotes, "read", fail)
    found = "lock-train.json: expected a lock that can be read, found: .*Stale file handle"
    with pytest.raises(OutputError, match=found), locked(logs, ["train"], "x"):
        pass
    assert path.exists()


def test_of_many_that_begin_at_once_one_gets_it(logs: Path) -> None:
    runs = [begin_holder(logs, stderr=subprocess.PIPE) for _ in range(4)]
    having_it = [said(run) for run in runs]  # it is held until all have begun, and one has it or none
    errors = [run.communicate()[1] for run in runs]
    assert sorted(having_it) == ["", "", "", "holds\n"]
    assert sorted(run.returncode for run in runs) == [0, 1, 1, 1]
    assert all("OutputError" in error for run, error in zip(runs, errors, strict=True) if run.returncode)


COUNTER = """
import fcntl, sys
from pathlib import Path
from jobs.storage.provenance import Record, changed_records
from jobs.storage.workspace import Workspace
fcntl.flock = lambda *_: None  # as between hosts: there a lock of the file system holds on one of them alone
for number in range(40):
    with changed_records(Workspace(Path(sys.argv[1]))) as records:
        records[f"{sys.argv[2]}-{number}"] = Record(sys.argv[2])
"""


def test_stages_on_two_hosts_lose_none_of_each_others_records(logs: Path) -> None:
    (logs.parent / ".provenance.json.0123abcd.partial").write_text("of a killed run")
    commands = [[sys.executable, "-c", COUNTER, str(logs.parent), stage] for stage in ("train", "baseline")]
    runs = [subprocess.Popen(command) for command in commands]
    assert [run.wait() for run in runs] == [0, 0]
    assert len(read_records(Workspace(logs.parent))) == 80
    assert [path.name for path in logs.parent.iterdir() if path.name != "logs"] == ["provenance.json"]
    assert list(logs.iterdir()) == []


@pytest.mark.parametrize("is_ours", [True, False])
def test_a_turn_that_was_lost_with_its_process_or_host_is_not_waited_for(
    logs: Path, monkeypatch: pytest.MonkeyPatch, is_ours: bool
) -> None:
    monkeypatch.setattr(locks, "TURN_SECONDS", 60.0 if is_ours else 0.05)
    lost = replace(Holder.this("lock.turn"), **({"started": 1.0} if is_ours else {"machine": "another"}))
    (logs / "lock.turn").write_text(json.dumps(asdict(lost)))
    with taking_turns(FolderNotes(logs), "lock.turn"):
        assert json.loads((logs / "lock.turn").read_text())["pid"] == os.getpid()
    assert list(logs.iterdir()) == []


def test_what_took_longer_than_a_turn_is_not_written_over_what_another_wrote_meanwhile(logs: Path) -> None:
    workspace = Workspace(logs.parent)

    def work() -> None:
        with changed_records(workspace) as slow:
            slow["train"] = Record("train")
            (logs / "provenance.lock").unlink()  # as after ``TURN_SECONDS``
            with changed_records(workspace) as other:
                other["baseline"] = Record("baseline")

    with pytest.raises(OutputError, match=r"provenance\.lock: expected to be done within 60 s, found"):
        work()
    assert read_records(workspace).keys() == {"baseline"}
    assert list(logs.iterdir()) == []


def test_a_turn_of_another_that_was_first_to_end_a_lost_one_is_put_back(logs: Path) -> None:
    turn = logs / "lock.turn"
    turn.write_text("of another, just begun")
    FolderNotes(logs).remove_if("lock.turn", (0, 0))
    assert [path.read_text() for path in logs.iterdir()] == ["of another, just begun"]


@pytest.mark.parametrize("command", ["vacuum", "compact"])
def test_upkeep_is_refused_while_a_stage_works(logs: Path, caplog: pytest.LogCaptureFixture, command: str) -> None:
    commit = logs.parent / "tables" / "sequences" / "_delta_log" / "00000000000000000000.json"
    commit.parent.mkdir(parents=True)
    commit.touch()
    with holder(logs) as other:
        assert main([command, "--out", str(logs.parent)]) == 2
        assert f"process {other.pid}" in caplog.text
        other.kill()


@pytest.mark.parametrize("call", [["sequences"], ["run", "--from", "sequences"]])
def test_the_command_line_refuses_before_spark_starts(
    logs: Path, caplog: pytest.LogCaptureFixture, call: list[str]
) -> None:
    with holder(logs) as other:
        out = logs.parent
        assert main([*call, "--out", str(out)]) == 2
        assert f"process {other.pid}" in caplog.text
        assert {file.name for file in out.iterdir()} == {"logs"}
        assert all(file.name.startswith("lock-") for file in (out / "logs").iterdir())
        other.kill()
