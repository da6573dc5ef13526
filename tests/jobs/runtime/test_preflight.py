"""What executors that lack a mount are told, without a cluster: what a task does is done here, with folders moved."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from jobs.runtime import preflight
from jobs.runtime.preflight import require_mounts
from schemas.errors import InputError, OutputError

View = Callable[[], AbstractContextManager[None]]


class Cluster:
    """Takes the place of Spark's context: its tasks run while the folders are as ``view`` makes them."""

    master, defaultParallelism = "spark://host:7077", 2  # noqa: N815

    def __init__(self, view: View = nullcontext) -> None:
        self.view, self.n_tasks = view, 0

    def parallelize(self, numbers: range, _: int) -> "Cluster":
        self.numbers = numbers
        return self

    def map(self, function: Callable[[int], Any]) -> "Cluster":
        self.function = function
        return self

    def collect(self) -> list[Any]:
        with self.view():
            self.n_tasks += len(self.numbers)
            return [self.function(number) for number in self.numbers]


@pytest.fixture
def out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("time.sleep", lambda _: None)
    monkeypatch.setattr(preflight.socket, "gethostname", lambda: "worker-7")
    (tmp_path / "out").mkdir()
    (tmp_path / "data").mkdir()
    return tmp_path / "out"


@contextmanager
def hidden(path: Path) -> Iterator[None]:
    """A view without the folder."""
    aside = path.with_name("aside")
    path.rename(aside)
    yield
    aside.rename(path)


@contextmanager
def stale(path: Path) -> Iterator[None]:
    """One in which the driver's file is a former one."""
    (file,) = path.glob(".mount-*/driver")
    file.write_text("former")
    yield


@contextmanager
def lost(path: Path) -> Iterator[None]:
    """One of another folder of the same files, which takes what executors write."""
    yield
    for file in path.glob(".mount-*/executor-*"):
        file.unlink()


def test_executors_with_the_mounts_pass_and_nothing_is_left(out: Path) -> None:
    cluster = Cluster()
    require_mounts(cluster, out, out.parent / "data")  # type: ignore[arg-type]
    assert cluster.n_tasks == 6
    assert list(out.iterdir()) == []


def test_local_mode_has_nothing_to_check(out: Path) -> None:
    cluster = Cluster()
    for cluster.master in ("local", "local[2]"):
        require_mounts(cluster, out, None)  # type: ignore[arg-type]
    assert cluster.n_tasks == 0


@pytest.mark.parametrize(
    ("view", "found"),
    [
        (hidden, "worker-7: No such file or directory"),
        (stale, "worker-7: another file than the driver wrote"),
        (lost, "worker-7: what it writes there, the driver does not find"),
    ],
)
def test_executors_without_the_output_are_named(
    out: Path, view: Callable[[Path], AbstractContextManager[None]], found: str
) -> None:
    with pytest.raises(OutputError, match=rf"^--out {out}: expected one folder .*, found: {found}; mount it there"):
        require_mounts(Cluster(partial(view, out)), out, out.parent / "data")  # type: ignore[arg-type]
    assert list(out.iterdir()) == []


def test_executors_without_the_data_are_named(out: Path) -> None:
    data = out.parent / "data"
    with pytest.raises(
        InputError, match=f"^--data {data}: expected a folder .*, found none on worker-7; mount it there"
    ):
        require_mounts(Cluster(partial(hidden, data)), out, data)  # type: ignore[arg-type]
    require_mounts(Cluster(partial(hidden, data)), out, None)  # type: ignore[arg-type]
