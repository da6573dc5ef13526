"""A stage refuses what earlier ones made with other settings, and takes what does not concern it."""

from pathlib import Path

import pytest

from conf.load import load_config
from jobs import pipeline
from jobs.pipeline import STAGE_NAMES, STAGES, run_stages
from jobs.stage_settings import DECIDED_BY, check_settings, note_settings, settings_of
from jobs.workspace import Workspace
from schemas.errors import ConfigError, TableError

BEFORE = load_config("demo")


@pytest.fixture
def progress(tmp_path: Path) -> Path:
    for stage in STAGE_NAMES[:5]:
        note_settings(tmp_path / "progress.json", stage, BEFORE)
    return tmp_path / "progress.json"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("model.hidden_size=32", r"embed: .*train had model\.hidden_size=64 \(now 32\)"),
        ("behaviours.page_visit.max_sequence_length=9", r"sequences had .*visit\.max_sequence_length=64"),
        ("behaviours.page_visit.min_count=2", r"vocabulary had behaviours\.page_visit\.min_count=5 \(now 2\)"),
        ("behaviours.product_view.item=sku", r"ingest had behaviours\.product_view\.item=none \(now sku\)"),
        ("windows.mode=entry", r"split had windows\.mode=evaluate \(now entry\).*ubp run --from split"),
        ("training.epochs=3", r"train had training\.epochs=25 \(now 3\)"),
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
    note_settings(progress, "train", now)
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
    monkeypatch.setattr(pipeline.importlib, "import_module", lambda _: NoWork)
    monkeypatch.setattr(pipeline, "spark_progress", lambda *_: NoWork())
    run_stages(NoWork(), BEFORE, workspace)  # type: ignore[arg-type]
    before = {file.name: file.read_bytes() for file in workspace.out.glob("*.*")}
    assert "config.yaml" in before
    with pytest.raises(ConfigError, match="train had model"):
        run_stages(NoWork(), load_config("demo", ["model.hidden_size=32"]), workspace, first="embed")  # type: ignore[arg-type]
    assert {file.name: file.read_bytes() for file in workspace.out.glob("*.*")} == before
    assert len(STAGES) == len(STAGE_NAMES)


class NoWork:
    """A session, a progress bar and a stage's module, none of which does anything."""

    sparkContext = None  # noqa: N815

    @staticmethod
    def run(*_: object) -> None:
        pass

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        pass
