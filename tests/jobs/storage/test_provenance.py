"""A stage refuses what earlier ones made with other settings, and takes what does not concern it."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from no_work import NoWork, leave_out_work

from conf.load import load_config
from jobs.pipeline.registry import STAGE_NAMES, STAGES, run_stage
from jobs.pipeline.runner import run_stages
from jobs.storage.provenance import DECIDED_BY, check_settings, note_end, read_progress, settings_of
from jobs.storage.workspace import Workspace
from schemas.errors import ConfigError, TableError

BEFORE = load_config("demo")


@pytest.fixture
def progress(tmp_path: Path) -> Path:
    for stage in STAGE_NAMES[:5]:
        note_end(Workspace(tmp_path), stage, BEFORE)
    return tmp_path / "progress.json"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("model.hidden_size=32", r"embed: .*train had model\.hidden_size=64 \(now 32\)"),
        ("encoders.page_visit.max_length=9", r"sequences had .*visit\.max_length=64"),
        ("behaviours.page_visit.min_count=2", r"vocabulary had behaviours\.page_visit\.min_count=5 \(now 2\)"),
        ("behaviours.product_view.item=sku", r"ingest had behaviours\.product_view\.item=none \(now sku\)"),
        ("windows.mode=entry", r"split had windows\.mode=evaluate \(now entry\).*ubp run --from split"),
        ("training.epochs=3", r"train had training\.epochs=25 \(now 3\)"),
        ("behaviours.page_visit.keep_rare_as_unk=true", r"sequences had .*keep_rare_as_unk=False \(now True\)"),
        ("seed=1", r"sequences had seed=2025 \(now 1\)"),
    ],
)  # fmt: skip
def test_a_setting_that_an_earlier_stage_decided_by_must_be_the_same(progress: Path, change: str, told: str) -> None:
    now = load_config("demo", [change])
    with pytest.raises(ConfigError, match=told):
        check_settings(progress, STAGE_NAMES[:5], "embed", now)


@pytest.mark.parametrize(
    "change",
    ["training.launcher=torch", "training.log_every_steps=9", "probe.epochs=1", "ensemble.composition=mean",
     "spark.driver_memory=3g", "feed.batches_ahead=1"],
)  # fmt: skip
def test_other_settings_may_change(progress: Path, change: str) -> None:
    check_settings(progress, STAGE_NAMES[:5], "embed", load_config("demo", [change]))


def test_a_stage_may_itself_run_with_new_settings_and_later_ones_then_need_those(progress: Path) -> None:
    now = load_config("demo", ["model.hidden_size=32"])
    check_settings(progress, STAGE_NAMES[:4], "train", now)
    note_end(Workspace(progress.parent), "train", now)
    check_settings(progress, STAGE_NAMES[:5], "embed", now)
    with pytest.raises(ConfigError):
        check_settings(progress, STAGE_NAMES[:5], "embed", BEFORE)


@pytest.mark.parametrize(
    "content", ['{"finished": ["ing', "[]", '{"finished": "ingest"}', '{"settings": {"train": 1}}']
)
def test_a_damaged_progress_is_told_with_what_to_do(tmp_path: Path, content: str) -> None:
    path = tmp_path / "progress.json"
    path.write_text(content)
    with pytest.raises(TableError, match=r"progress\.json: expected JSON.*remove it; `ubp run` then begins anew"):
        check_settings(path, STAGE_NAMES[:5], "embed", BEFORE)


def test_every_pattern_names_a_setting_and_every_stage_exists() -> None:
    assert set(DECIDED_BY) <= set(STAGE_NAMES)
    for stage, patterns in DECIDED_BY.items():
        assert len(settings_of(stage, BEFORE)) >= len(patterns)


def test_a_refused_run_leaves_the_saved_configuration_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace = Workspace(tmp_path / "out", tmp_path)
    workspace.prepare()
    leave_out_work(monkeypatch)
    run_stages(NoWork(), BEFORE, workspace)  # type: ignore[arg-type]
    before = {file.name: file.read_bytes() for file in workspace.out.glob("*.*")}
    assert "config.yaml" in before
    with pytest.raises(ConfigError, match="train had model"):
        run_stages(NoWork(), load_config("demo", ["model.hidden_size=32"]), workspace, first="embed")  # type: ignore[arg-type]
    assert {file.name: file.read_bytes() for file in workspace.out.glob("*.*")} == before
    assert len(STAGES) == len(STAGE_NAMES)


def test_a_stage_is_compared_with_those_that_it_needs_and_no_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace = Workspace(tmp_path / "out", tmp_path)
    workspace.prepare()
    ran = leave_out_work(monkeypatch)
    run_stages(NoWork(), load_config("demo", ["training.epochs=3"]), workspace)  # type: ignore[arg-type]
    ran.clear()
    run_stage("targets", NoWork(), BEFORE, workspace)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"probe: .*train had training\.epochs=3 \(now 25\)"):
        run_stage("probe", NoWork(), BEFORE, workspace)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"probe: .*train had training\.epochs=3 \(now 25\)"):
        run_stages(NoWork(), BEFORE, workspace, first="targets")  # type: ignore[arg-type]
    assert ran == ["build_targets"], "a run that cannot end does not begin"


def test_a_stage_needs_also_what_its_needs_do() -> None:
    needs = {stage.name: stage.all_needs for stage in STAGES}
    assert needs["baseline"] == needs["targets"] == ["ingest", "split"]
    assert needs["embed"] == ["ingest", "split", "vocabulary", "sequences", "train", "baseline"]
    assert needs["probe"] == STAGE_NAMES[:8]


def test_stages_that_end_at_once_are_all_noted(tmp_path: Path) -> None:
    path, stages = tmp_path / "progress.json", list(DECIDED_BY)
    for number in range(5):
        now = load_config("demo", [f"seed={number}"])
        with ThreadPoolExecutor(len(stages)) as pool:
            list(pool.map(lambda stage: note_end(Workspace(tmp_path), stage, now), stages))  # noqa: B023
        expected = {stage: settings_of(stage, now) for stage in stages}
        assert read_progress(path)["settings"].keys() == expected.keys()
        assert read_progress(path)["settings"]["sequences"]["seed"] == number
        path.unlink()
