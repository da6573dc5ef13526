"""What a run remembers of the one before."""

from pathlib import Path

import pytest
from no_work import NoWork, leave_out_work

from conf.load import load_config
from jobs.pipeline import registry
from jobs.pipeline.registry import STAGE_NAMES, run_stage
from jobs.pipeline.runner import RunProgress, run_stages
from jobs.storage.metrics_log import append_metrics, read_metrics
from jobs.storage.workspace import Workspace
from schemas.errors import TrainingError

CONFIG = load_config("demo")


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the stages that ran; their work is left out."""
    names: list[str] = []
    monkeypatch.setattr(registry.Stage, "run", lambda self, *_: names.append(self.name))
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


def fail(*_: object) -> None:
    raise TrainingError("no")


@pytest.mark.parametrize(
    ("alone", "begins_with"),
    [("ingest", "ingest"), ("vocabulary", "vocabulary"), ("baseline", "train"), ("probe", "train")],
)
def test_a_stage_that_is_run_alone_makes_those_that_depend_on_it_unfinished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, alone: str, begins_with: str
) -> None:
    workspace = place(tmp_path)
    leave_out_work(monkeypatch)
    run_stages(NoWork(), CONFIG, workspace, last="sequences")  # type: ignore[arg-type]
    leave_out_work(monkeypatch, fail)
    with pytest.raises(TrainingError):
        run_stages(NoWork(), CONFIG, workspace)  # type: ignore[arg-type]
    leave_out_work(monkeypatch)
    run_stage(alone, NoWork(), CONFIG, workspace)  # type: ignore[arg-type]
    assert STAGE_NAMES[RunProgress.load(workspace, CONFIG).next_stage()] == begins_with


def test_a_complete_run_starts_over_whatever_was_run_alone_since(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace = place(tmp_path)
    leave_out_work(monkeypatch)
    run_stages(NoWork(), CONFIG, workspace)  # type: ignore[arg-type]
    run_stage("report", NoWork(), CONFIG, workspace)  # type: ignore[arg-type]
    assert RunProgress.load(workspace, CONFIG).next_stage() == 0


def test_a_stage_that_is_run_alone_saves_its_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    workspace = place(tmp_path)
    leave_out_work(monkeypatch)
    run_stage("vocabulary", NoWork(), CONFIG, workspace)  # type: ignore[arg-type]
    assert load_config(str(workspace.out / "config.yaml")) == CONFIG


def test_the_rows_of_a_stage_are_not_those_of_another_that_runs_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace = place(tmp_path)

    def write(*_: object) -> None:
        append_metrics(workspace.metrics, {"table": "vocabularies", "table/rows": 3})
        append_metrics(workspace.metrics, {"stage": "targets", "table": "labels", "table/rows": 500})

    leave_out_work(monkeypatch, write)
    run_stage("vocabulary", NoWork(), CONFIG, workspace)  # type: ignore[arg-type]
    written, _, end = read_metrics(workspace.metrics)
    assert written["stage"] == "vocabulary"
    assert end["stage/rows"] == 3
    append_metrics(workspace.metrics, {"x": 1})
    assert "stage" not in read_metrics(workspace.metrics)[-1]
