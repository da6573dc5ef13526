"""The output directory of a run."""

import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from jobs.storage.workspace import Workspace
from schemas.errors import OutputError


@pytest.fixture
def hasty_threads() -> Iterator[ThreadPoolExecutor]:
    """Threads that take turns after each step, as stages on several machines do."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    with ThreadPoolExecutor(8) as pool:
        yield pool
    sys.setswitchinterval(before)


def test_stages_that_start_at_once_all_find_the_output_directory_writable(
    hasty_threads: ThreadPoolExecutor, tmp_path: Path
) -> None:
    list(hasty_threads.map(Workspace.prepare, [Workspace(tmp_path / "out")] * 800))
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["logs"]


def test_an_output_is_made_for_its_user_alone_unless_it_is_there(tmp_path: Path) -> None:
    Workspace(tmp_path / "made" / "out").prepare()
    assert (tmp_path / "made" / "out").stat().st_mode & 0o777 == 0o700
    (tmp_path / "shared").mkdir(mode=0o775)
    (tmp_path / "shared").chmod(0o775)
    Workspace(tmp_path / "shared").prepare()
    assert (tmp_path / "shared").stat().st_mode & 0o777 == 0o775


def test_what_a_killed_run_left_in_a_folder_for_spark_is_not_taken_for_rows_of_this_one(tmp_path: Path) -> None:
    left = tmp_path / ".graph" / "vectors" / "3.parquet"  # of a fourth rank, where now there are two
    left.parent.mkdir(parents=True)
    left.touch()
    with Workspace(tmp_path).spark_folder(".graph"):
        assert not left.exists()


def test_a_folder_for_spark_that_another_user_left_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".graph").mkdir()
    monkeypatch.setattr("jobs.storage.workspace.shutil.rmtree", lambda *_, **__: None)  # as if it might not
    with (
        pytest.raises(OutputError, match=r"expected to remove .*\.graph, which an earlier run left"),
        Workspace(tmp_path).spark_folder(".graph"),
    ):
        raise AssertionError("files of an earlier run would be read")
