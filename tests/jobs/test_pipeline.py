"""What a run remembers of the one before."""

from pathlib import Path

import pytest

from conf.load import load_config
from jobs import pipeline
from jobs.pipeline import STAGE_NAMES, RunProgress, run_stages
from jobs.workspace import Workspace

CONFIG = load_config("demo")


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the stages that ran; their work is left out."""
    names: list[str] = []
    monkeypatch.setattr(pipeline.Stage, "run", lambda self, *_: names.append(self.name))
    return names


def place(tmp_path: Path) -> Workspace:
    workspace = Workspace(tmp_path / "out", tmp_path)
    workspace.prepare()
    return workspace


def test_a_run_that_died_goes_on_after_the_last_finished_stage(tmp_path: Path, ran: list[str]) -> None:
    run_stages(None, CONFIG, place(tmp_path), last="sequences")  # type: ignore[arg-type]
    run_stages(None, CONFIG, place(tmp_path))  # type: ignore[arg-type]
    assert ran == STAGE_NAMES


def test_a_complete_run_starts_over(tmp_path: Path, ran: list[str]) -> None:
    for _ in range(2):
        run_stages(None, CONFIG, place(tmp_path))  # type: ignore[arg-type]
    assert ran == STAGE_NAMES * 2


def test_another_configuration_starts_over(tmp_path: Path, ran: list[str]) -> None:
    run_stages(None, CONFIG, place(tmp_path), last="split")  # type: ignore[arg-type]
    run_stages(None, load_config("demo", ["seed=1"]), place(tmp_path), last="split")  # type: ignore[arg-type]
    assert ran == ["ingest", "split"] * 2


def test_a_stage_that_runs_again_makes_the_later_ones_unfinished(tmp_path: Path, ran: list[str]) -> None:
    workspace = place(tmp_path)
    run_stages(None, CONFIG, workspace)  # type: ignore[arg-type]
    run_stages(None, CONFIG, workspace, first="train", last="embed")  # type: ignore[arg-type]
    progress = RunProgress.load(workspace, CONFIG)
    assert progress.next_stage() == STAGE_NAMES.index("embed") + 1


def test_mode_entry_leaves_out_what_needs_the_target_windows(tmp_path: Path, ran: list[str]) -> None:
    run_stages(None, load_config("demo", ["windows.mode=entry"]), place(tmp_path))  # type: ignore[arg-type]
    assert "targets" not in ran
    assert "probe" not in ran
    assert ran[-1] == "report"
