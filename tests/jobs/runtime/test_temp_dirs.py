"""Temporary files are private, go with their process, and those of a killed one with the next."""

import fcntl
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import pytest
from pyspark.sql import SparkSession

from jobs.runtime import temp_dirs
from jobs.runtime.temp_dirs import LOCK, remove_abandoned, scratch_folder

HOLDER = """
import sys, time
from jobs.runtime.temp_dirs import scratch_folder
print(scratch_folder(), flush=True)
time.sleep(float(sys.argv[1]))
"""


def holder(folder: Path, seconds: float) -> "subprocess.Popen[str]":
    """A process with a folder of its own among the temporary ones of ``folder``."""
    command = [sys.executable, "-c", HOLDER, str(seconds)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={"TMPDIR": str(folder)})


def made_by(process: "subprocess.Popen[str]") -> Path:
    assert process.stdout is not None
    return Path(process.stdout.readline().strip())


def test_a_folder_ends_with_its_process_and_one_of_a_killed_process_with_the_next(tmp_path: Path) -> None:
    with holder(tmp_path, 60) as living, holder(tmp_path, 60) as killed:
        of_living, of_killed = made_by(living), made_by(killed)
        assert {of_living, of_killed} == set(tmp_path.iterdir())
        assert stat.S_IMODE(of_living.stat().st_mode) == 0o700
        (of_killed / "blockmgr-1").mkdir()
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        assert of_killed.is_dir()
        with holder(tmp_path, 0) as third:
            assert made_by(third).parent == tmp_path
        assert list(tmp_path.iterdir()) == [of_living], "the killed one's is gone, the third's went with it"
        living.kill()


def test_a_process_that_starts_before_another_has_its_lock_leaves_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    n_starts = 0

    def start_another(function: Callable[..., Any]) -> Callable[..., Any]:
        def act(*values: Any, **named: Any) -> Any:
            nonlocal n_starts
            n_starts += 1
            remove_abandoned()
            result = function(*values, **named)
            remove_abandoned()
            return result

        return act

    def lock(file: IO[str], operation: int) -> None:
        (lock_only if operation & fcntl.LOCK_NB else start_another(lock_only))(file, operation)

    lock_only = fcntl.flock
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(temp_dirs.fcntl, "flock", lock)
    monkeypatch.setattr(temp_dirs.tempfile, "mkdtemp", start_another(tempfile.mkdtemp))
    monkeypatch.setattr(Path, "rename", start_another(Path.rename))
    folder = scratch_folder.__wrapped__()
    remove_abandoned()
    assert n_starts == 3, "at each step that others can see"
    assert [path.name for path in folder.iterdir()] == [LOCK]


def test_spark_and_its_jvm_keep_their_files_in_it(spark: SparkSession) -> None:
    folder = scratch_folder()
    assert spark.sparkContext.getConf().get("spark.local.dir") == str(folder)
    assert spark.sparkContext._jvm.System.getProperty("java.io.tmpdir") == str(folder)
    assert any(path.name.startswith("blockmgr-") for path in folder.iterdir())
    assert (folder / LOCK).exists()
    (of_worker,) = spark.sparkContext.parallelize([0], 1).map(lambda _: __import__("tempfile").gettempdir()).collect()
    assert of_worker == str(folder)
