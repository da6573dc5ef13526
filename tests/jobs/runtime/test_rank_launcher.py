"""Ranks that die, stall or raise: a failure within the stated time, a new start, or the error itself."""

import errno
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from optional import NEEDS_HOROVOD
from pyspark.sql import SparkSession

from conf.training import TrainingSettings
from jobs.runtime import rank_launcher
from jobs.runtime.horovod_servers import loopback_interfaces
from jobs.runtime.rank_launcher import (
    RanksLostError,
    choose_launcher,
    count_ranks,
    exchange_interfaces,
    run_ranks,
    sign_watched,
    takes_gpus,
)
from jobs.storage.workspace import Workspace
from ml.files.notes import FolderNotes
from schemas.errors import ConfigError, ModelError, TrainingError

N_STEPS, STALL_SECONDS, GRACE_SECONDS = 20, 4, 4
Call = Callable[..., tuple[int, int]]


def session(master: str = "yarn", n_slots: int = 2, **options: str) -> Any:
    """A session of which only its configuration and its cores are asked."""
    context = SimpleNamespace(master=master, defaultParallelism=n_slots, getConf=lambda: options)
    return SimpleNamespace(sparkContext=context)


WITHOUT_GPUS = session()


def listening_teller(driver_id: int) -> Callable[[Path], None]:
    """A function that writes down at which addresses the driver and all its processes listen."""

    def tell_listening(path: Path) -> None:
        import psutil

        driver = psutil.Process(driver_id)
        # of earlier versions: connections
        name = "net_connections" if hasattr(driver, "net_connections") else "connections"
        all_of_them = (driver, *driver.children(recursive=True))
        connections = [one for each in all_of_them for one in getattr(each, name)("tcp")]
        listening = {one.laddr.ip.removeprefix("::ffff:") for one in connections if one.status == psutil.CONN_LISTEN}
        path.write_text("\n".join(sorted(listening)))

    return tell_listening


def counting_work(faults: tuple[str, ...]) -> Callable[..., tuple[int, int]]:
    """Ranks that count together; at its tenth step rank 1 has the first fault in the first start, and so on.

    Ranks are sent a function by value, so it is no module's.
    """

    def suffer(fault: str) -> None:
        import os
        import signal
        import time

        from schemas.errors import ModelError

        if fault == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if fault == "stopped":
            os.kill(os.getpid(), signal.SIGSTOP)
        if fault == "waiting":
            time.sleep(3600)
        raise ModelError("what rank 1 cannot read")

    tell_listening = listening_teller(os.getpid())

    def work(ranks: Any, watch: Any, starts: Path) -> tuple[int, int]:
        import sys

        assert sys.flags.safe_path, "a module of the working directory would be taken for one of a library"
        if ranks.rank == 0:
            with starts.open("a") as file:
                file.write("x")
        ranks.sum([0])
        n_starts = len(starts.read_text())
        if ranks.rank == 0:
            tell_listening(starts.with_name("listening"))
        ranks.sum([0])
        for step in range(N_STEPS):
            watch.note_progress()
            if step == N_STEPS // 2 and ranks.rank == 1 and n_starts <= len(faults):
                suffer(faults[n_starts - 1])
            total = ranks.sum([1])[0]
        return int(total), n_starts

    return work


@pytest.fixture
def call(spark: SparkSession, workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> Call:
    monkeypatch.setattr(rank_launcher, "GRACE_SECONDS", GRACE_SECONDS)

    def run(launcher: Any, *faults: str, max_restarts: int) -> tuple[int, int]:
        settings = TrainingSettings(
            n_ranks=2, launcher=launcher, stall_seconds=STALL_SECONDS, max_restarts=max_restarts
        )
        meeting, starts = FolderNotes(workspace.logs.resolve()), workspace.out.resolve() / "starts"
        work = counting_work(faults)
        ranks_log, checkpoints = workspace.logs / "ranks.log", workspace.checkpoints("")
        value: tuple[int, int] = run_ranks(spark, settings, work, (starts,), meeting, ranks_log, "train", checkpoints)
        return value

    return run


@pytest.mark.slow
@pytest.mark.parametrize(
    ("launcher", "fault"),
    [
        pytest.param("horovod", "stopped", marks=NEEDS_HOROVOD),
        pytest.param("torch", "killed", marks=pytest.mark.faults),
        pytest.param("horovod", "killed", marks=[pytest.mark.faults, NEEDS_HOROVOD]),
        pytest.param("horovod", "waiting", marks=[pytest.mark.faults, NEEDS_HOROVOD]),
        pytest.param("torch", "stopped", marks=pytest.mark.faults),
        pytest.param("torch", "waiting", marks=pytest.mark.faults),
    ],
)
def test_ranks_that_fail_are_started_again(
    call: Call, workspace: Workspace, caplog: pytest.LogCaptureFixture, launcher: str, fault: str
) -> None:
    assert call(launcher, fault, max_restarts=1) == (2, 2)
    assert caplog.text.count("starting them again from the last checkpoint, 1 of 1") == 1
    check_what_listened(launcher, workspace)


def check_what_listened(launcher: str, workspace: Workspace) -> None:
    servers = [getattr(thread, "_target", None) for thread in threading.enumerate()]
    assert not [server for server in servers if "RendezvousHTTPServer" in str(server)], "Horovod left a port open"
    assert not [server for server in servers if "process_request_thread" in str(server)], "the process would not end"
    # torch's store listens on all interfaces, see docs/threat-model.md
    listening = set((workspace.out / "listening").read_text().split())
    assert listening - ({"::", "0.0.0.0"} if launcher == "torch" else set()) == {"127.0.0.1"}


@pytest.mark.slow
def test_a_killed_rank_is_started_again_and_an_error_of_one_is_raised_as_itself_and_not_tried_again(
    call: Call, caplog: pytest.LogCaptureFixture, workspace: Workspace
) -> None:
    with pytest.raises(ModelError, match="what rank 1 cannot read"):
        call("torch", "killed", "raising", max_restarts=3)
    assert (workspace.out / "starts").read_text() == "xx"
    assert "starting them again from the last checkpoint, 1 of 3" in caplog.text
    assert caplog.text.count("starting them again") == 1
    check_what_listened("torch", workspace)


@pytest.mark.parametrize(
    ("max_restarts", "checkpoints", "again", "kept"),
    [
        (0, "checkpoints", "", "kept in checkpoints: run train again to go on from there"),
        (2, "checkpoints", "from the last checkpoint, 2 of 2", "kept in checkpoints: run train again to go on"),
        (2, None, "from the beginning, 2 of 2", "train keeps no checkpoints: run it again, and it begins anew"),
    ],
)
def test_ranks_that_fail_too_often_are_told_with_where_checkpoints_are_if_there_are_any(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
    max_restarts: int, checkpoints: str | None, again: str, kept: str,
) -> None:  # fmt: skip
    starts = []

    def fail(*_: object) -> None:
        starts.append(1)
        raise RuntimeError("process 1 ended\nwith status 137")

    monkeypatch.setattr(rank_launcher, "_start_torch", fail)
    settings = TrainingSettings(launcher="torch", max_restarts=max_restarts)
    message = rf"failed {max_restarts + 1} times .*at last: process 1 ended; .*ranks\.log.*{kept}"
    place: Any = (FolderNotes(workspace.logs), workspace.logs / "ranks.log", "train", checkpoints)
    with pytest.raises(TrainingError, match=message):
        run_ranks(WITHOUT_GPUS, settings, print, (), *place)
    assert len(starts) == max_restarts + 1
    assert again in caplog.text


@pytest.mark.parametrize(
    ("horovod", "sees_gpu", "settings", "gpus_per_task", "expected"),
    [
        ("none", False, {}, "0", "torch"),
        ("of CPUs", False, {}, "0", "horovod"),
        ("of CPUs", True, {}, "0", "horovod, GPU idle"),
        ("of CPUs", True, {"device": "cpu"}, "1", "horovod"),
        ("of CPUs", False, {}, "1", "torch"),
        ("of CPUs", False, {"launcher": "horovod"}, "1", "horovod, GPU idle"),
        ("of CPUs", True, {"launcher": "torch"}, "0.5", "torch, GPU idle"),
        ("with CUDA", True, {}, "0", "horovod"),
        ("with CUDA", True, {}, "1", "horovod"),
        ("with CUDA", True, {"launcher": "torch"}, "1", "torch"),
    ],
)
def test_the_launcher_is_one_that_can_use_the_gpus_that_there_are(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    horovod: str,
    sees_gpu: bool,
    settings: dict[str, Any],
    gpus_per_task: str,
    expected: str,
) -> None:
    monkeypatch.setattr(rank_launcher, "find_spec", lambda name: None if horovod == "none" else name)
    monkeypatch.setattr(rank_launcher, "horovod_has_cuda", lambda: horovod == "with CUDA")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: sees_gpu)
    found = choose_launcher(TrainingSettings(**settings), gpus_per_task)
    idle = ", GPU idle" if "there is a GPU, and the ranks train on CPUs: set training.n_ranks=1" in caplog.text else ""
    assert found + idle == expected


@pytest.mark.parametrize(
    ("master", "n_slots", "sees_gpu", "settings", "gpus_per_task", "expected"),
    [
        ("local[2]", 2, False, {}, "0", 2),
        ("local[1]", 1, False, {}, "0", 1),
        ("local[8]", 8, True, {}, "0", 1),
        ("local[8]", 8, True, {"device": "cpu"}, "0", 2),
        ("yarn", 1, False, {}, "0", 2),  # executors come when tasks wait for them
        ("yarn", 8, True, {}, "0", 1),
        ("yarn", 8, True, {}, "1", 2),
        ("yarn", 8, True, {"n_ranks": 4}, "0", 4),
        ("local[1]", 1, True, {"n_ranks": 2}, "0", "n_ranks=2 needs as many cores at once, found 1 in local"),
    ],
)
def test_as_many_ranks_train_as_have_a_processor(
    monkeypatch: pytest.MonkeyPatch,
    master: str,
    n_slots: int,
    sees_gpu: bool,
    settings: dict[str, Any],
    gpus_per_task: str,
    expected: int | str,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: sees_gpu)
    spark = session(master, n_slots, **{"spark.task.resource.gpu.amount": gpus_per_task})
    if isinstance(expected, str):
        with pytest.raises(ConfigError, match=expected):
            count_ranks(spark, TrainingSettings(**settings))
    else:
        assert count_ranks(spark, TrainingSettings(**settings)) == expected


def test_horovod_is_refused_by_name_where_it_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rank_launcher, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="launcher=horovod: expected Horovod to be installed"):
        choose_launcher(TrainingSettings(launcher="horovod"), "0")


def test_an_error_of_the_start_itself_is_not_tried_again(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    starts = []

    def refuse(*_: object) -> None:
        starts.append(1)
        raise ConfigError("what the cluster does not lend")

    monkeypatch.setattr(rank_launcher, "_start_torch", refuse)
    settings, notes = TrainingSettings(launcher="torch"), FolderNotes(workspace.logs)
    with pytest.raises(ConfigError, match="does not lend"):
        run_ranks(WITHOUT_GPUS, settings, print, (), notes, workspace.logs / "x", "train")
    assert starts == [1]


@pytest.mark.parametrize(
    ("device", "gpus_per_task", "expected"),
    [("auto", "0", False), ("auto", "1", True), ("auto", "0.5", False), ("cuda", "2", True), ("cpu", "1", False)],
)
def test_torchs_ranks_take_gpus_that_spark_lends_whole(device: str, gpus_per_task: str, expected: bool) -> None:
    assert takes_gpus(device, gpus_per_task) is expected


@pytest.mark.parametrize("gpus_per_task", ["0", "0.5"])
def test_gpus_that_torchs_ranks_would_not_get_are_refused_with_what_to_set(gpus_per_task: str) -> None:
    with pytest.raises(ConfigError, match=f"needs spark.task.resource.gpu.amount .*found {gpus_per_task}"):
        takes_gpus("cuda", gpus_per_task)


def test_a_silent_start_is_interrupted_whatever_it_waits_for(monkeypatch: pytest.MonkeyPatch) -> None:
    checks: list[str] = []

    def sign(name: str) -> int:
        checks.append(name)
        return min(len(checks), 5)

    monkeypatch.setattr(rank_launcher, "CHECK_SECONDS", 0.05)
    monkeypatch.setattr(rank_launcher, "START_SECONDS", 90)
    monkeypatch.setattr(rank_launcher, "GRACE_SECONDS", 30)
    # a minute from one check to the next, however long it took
    monkeypatch.setattr(rank_launcher, "time", SimpleNamespace(monotonic=lambda: 60 * len(checks)))
    notes: Any = SimpleNamespace(identity=sign)
    with pytest.raises(RanksLostError), sign_watched(notes, stall_seconds=60):
        threading.Event().wait(600)
    assert len(checks) >= 7, "it waits while there is progress, and 90 s longer"
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_a_mount_that_is_away_for_a_while_is_no_stall(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rank_launcher, "CHECK_SECONDS", 0.05)
    checked = []

    def stat(*_: object, **__: object) -> None:
        checked.append(1)
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

    with monkeypatch.context() as away, sign_watched(FolderNotes(tmp_path), stall_seconds=60):
        away.setattr(Path, "stat", stat)
        time.sleep(0.3)
    assert checked


def test_ranks_of_one_host_exchange_where_no_other_host_reaches_them() -> None:
    (loopback,) = loopback_interfaces()
    assert exchange_interfaces((), "local[2]") == exchange_interfaces((), "local-cluster[2,1,1024]") == (loopback,)
    assert exchange_interfaces(("eth1",), "local[2]") == ("eth1",)
    assert exchange_interfaces((), "yarn") == ()


def test_one_rank_works_here_with_the_threads_that_it_may_take(workspace: Workspace) -> None:
    before = torch.get_num_threads()
    place: Any = (FolderNotes(workspace.logs), workspace.logs / "x", "train")
    settings = TrainingSettings(n_ranks=1, threads_per_rank=before + 2)
    n_threads = run_ranks(None, settings, lambda *_: torch.get_num_threads(), (), *place)  # type: ignore[arg-type]
    assert (n_threads, torch.get_num_threads()) == (before + 2, before)
