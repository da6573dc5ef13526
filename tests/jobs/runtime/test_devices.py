"""Tasks have the GPU that Spark gave them; where it gives none, each has one of its own or waits."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from jobs.runtime import devices
from jobs.runtime.devices import release_device, task_device
from schemas.errors import ConfigError

FIRST, SECOND = (f"{os.getpid()}{number}" for number in (0, 1))
"""Numbers of GPUs that no other process of this host, such as another run of these tests, takes meanwhile."""
NEIGHBOUR = """
import sys
from jobs.runtime import devices
devices.torch.cuda.is_available, devices.torch.cuda.device_count = lambda: True, lambda: int(sys.argv[1])
print(devices.task_device(), flush=True)
sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", f"{FIRST},{SECOND}")
    monkeypatch.setattr(devices.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(devices.torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(devices, "WAIT_SECONDS", 0.01)
    yield
    release_device()


def be_task_with(monkeypatch: pytest.MonkeyPatch, *addresses: str) -> None:
    resources = {"gpu": SimpleNamespace(addresses=list(addresses))} if addresses else {}
    context = SimpleNamespace(resources=lambda: resources)
    monkeypatch.setattr(devices, "TaskContext", SimpleNamespace(get=lambda: context))


def neighbour(n_gpus: int = 2) -> "subprocess.Popen[str]":
    """Another process of this host, which keeps its device until its input ends."""
    command = [sys.executable, "-c", NEIGHBOUR, str(n_gpus)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def device_of(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_a_task_has_the_gpu_that_spark_assigned_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    be_task_with(monkeypatch, "1")
    assert task_device() == "cuda:1"


@pytest.mark.parametrize("address", ["2", "GPU-5f3c"])
def test_a_gpu_that_pytorch_does_not_see_is_refused(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    be_task_with(monkeypatch, address)
    with pytest.raises(ConfigError, match=rf"0 to 1 here, found '{address}' on .*discoveryScript"):
        task_device()


def test_without_a_gpu_a_task_works_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    be_task_with(monkeypatch, "0")
    monkeypatch.setattr(devices.torch.cuda, "is_available", lambda: False)
    assert task_device() == "cpu"


def test_tasks_to_which_spark_assigns_none_never_share_one(monkeypatch: pytest.MonkeyPatch) -> None:
    be_task_with(monkeypatch)
    with neighbour() as first, neighbour() as second:
        assert {device_of(first), device_of(second)} == {"cuda:0", "cuda:1"}
        found: list[str] = []
        waiting = threading.Thread(target=lambda: found.append(task_device()))
        waiting.start()
        waiting.join(0.5)
        assert found == [], "both are taken"
        first.kill()
        waiting.join(60)
        second.kill()
    assert len(found) == 1
    assert task_device() == found[0], "a process keeps its own"


def test_a_device_that_was_given_back_is_another_processes() -> None:
    assert task_device() == "cuda:0"
    release_device()
    with neighbour(n_gpus=1) as other:
        assert device_of(other) == "cuda:0"
        assert task_device() == "cuda:1"
        other.kill()


def test_processes_that_see_other_gpus_do_not_wait_for_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    with neighbour() as other:
        assert device_of(other) == "cuda:0"
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", f"{SECOND},{FIRST}")
        assert task_device() == "cuda:0"
        release_device()
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", f"{FIRST},{SECOND}")
        assert task_device() == "cuda:1"
        other.kill()
