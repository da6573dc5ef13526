"""Where a run goes on, and what a stage leaves: records, the saved configuration, its rows."""

from pathlib import Path

import pytest
from no_work import NoWork, leave_out_work

from conf.load import load_config
from conf.pipeline import PipelineConfig
from jobs.pipeline.registry import STAGE_NAMES, run_stage
from jobs.pipeline.runner import find_start, run_stages
from jobs.storage.metrics_log import append_metrics, read_metrics
from jobs.storage.provenance import read_records
from jobs.storage.workspace import Workspace
from schemas.errors import TrainingError

CONFIG = load_config("demo")


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the stages that ran; their work is left out."""
    return leave_out_work(monkeypatch)


@pytest.fixture
def place(tmp_path: Path) -> Workspace:
    workspace = Workspace(tmp_path / "out", tmp_path)
    workspace.prepare()
    return workspace


def run(place: Workspace, config: PipelineConfig = CONFIG, **stages: str) -> None:
    run_stages(NoWork(), config, place, **stages)  # type: ignore[arg-type]


def run_alone(stage: str, place: Workspace, config: PipelineConfig = CONFIG) -> None:
    run_stage(stage, NoWork(), config, place)  # type: ignore[arg-type]


def next_stage(place: Workspace, config: PipelineConfig = CONFIG) -> str:
    return STAGE_NAMES[find_start(config, place)]


def test_a_run_that_died_goes_on_after_the_last_finished_stage(place: Workspace, ran: list[str]) -> None:
    run(place, last="sequences")
    run(place)
    assert ran == STAGE_NAMES


def test_a_complete_run_starts_over(place: Workspace, ran: list[str]) -> None:
    for _ in range(2):
        run(place)
    assert ran == STAGE_NAMES * 2


@pytest.mark.parametrize(
    ("change", "begins_with"),
    [
        ("ingest.unknown_sku=quarantine", "ingest"),
        ("windows.target_days=7", "split"),
        ("behaviours.page_visit.min_count=2", "vocabulary"),
        ("seed=1", "sequences"),
        ("training.epochs=3", "train"),
        ("encoders.page_visit.loss.n_negatives=3", "train"),
        ("inference.pooling=last", "embed"),
        ("ensemble.activity=false", "counters"),
        ("ensemble.blocks_weight=2", "profile"),
        ("probe.epochs=1", "probe"),
        ("spark.driver_memory=3g", "ingest"),  # nothing is out of date: the run begins anew
    ],
)
def test_another_configuration_goes_on_where_it_differs(
    place: Workspace, ran: list[str], change: str, begins_with: str
) -> None:
    run(place)
    ran.clear()
    run(place, load_config("demo", [change]))
    assert ran == STAGE_NAMES[STAGE_NAMES.index(begins_with) :]


def test_another_data_directory_starts_over(place: Workspace, ran: list[str], tmp_path: Path) -> None:
    run(place, last="split")
    run(Workspace(place.out, tmp_path / "other"), last="split")
    assert ran == ["ingest", "split"] * 2


@pytest.mark.usefixtures("ran")
def test_a_stage_that_runs_again_makes_the_later_ones_unfinished(place: Workspace) -> None:
    run(place)
    run(place, first="train", last="embed")
    assert next_stage(place) == "profile"


def test_mode_entry_leaves_out_what_needs_the_target_windows(place: Workspace, ran: list[str]) -> None:
    run(place, load_config("demo", ["windows.mode=entry"]))
    assert [stage for stage in STAGE_NAMES if stage not in ran] == ["targets", "probe"]
    assert ran[-1] == "report"


def fail(*_: object, **__: object) -> None:
    raise TrainingError("no")


@pytest.mark.parametrize(
    ("alone", "begins_with"),
    [("ingest", "split"), ("vocabulary", "sequences"), ("baseline", "train"), ("targets", "train")],
)
def test_a_stage_that_is_run_alone_makes_those_that_depend_on_it_unfinished(
    place: Workspace, monkeypatch: pytest.MonkeyPatch, alone: str, begins_with: str
) -> None:
    leave_out_work(monkeypatch)
    run(place, last="sequences")
    leave_out_work(monkeypatch, fail)
    with pytest.raises(TrainingError):
        run(place)
    leave_out_work(monkeypatch)
    run_alone(alone, place)
    assert next_stage(place) == begins_with


def test_a_complete_run_starts_over_whatever_was_run_alone_since(place: Workspace, ran: list[str]) -> None:
    run(place)
    run_alone("report", place)
    assert ran[-1] == "report"
    assert next_stage(place) == "ingest"
    run_alone("probe", place)
    assert next_stage(place) == "report"


def test_a_run_whose_stages_are_up_to_date_up_to_the_last_one_wanted_does_nothing(
    place: Workspace, ran: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    run(place, last="split")
    run(place, last="split")
    assert ran == ["ingest", "split"]
    assert "nothing to do: ingest to split are up to date (--restart begins anew)" in caplog.text


@pytest.mark.usefixtures("ran")
def test_a_stage_that_is_run_alone_saves_its_settings(place: Workspace) -> None:
    run_alone("ingest", place)
    assert load_config(str(place.out / "config.yaml")) == CONFIG


def saved(place: Workspace) -> PipelineConfig:
    return load_config(str(place.out / "config.yaml"))


@pytest.mark.usefixtures("ran")
def test_the_saved_configuration_shows_settings_that_the_outputs_have(place: Workspace) -> None:
    run(place)
    other = load_config("demo", ["training.epochs=3", "ensemble.blocks_weight=2"])
    run_alone("targets", place, other)
    assert saved(place) == CONFIG, "the models and profiles stay as they are"
    run(place, other)
    assert saved(place) == other


@pytest.mark.usefixtures("ran")
def test_a_record_tells_what_an_output_was_made_from(place: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(*_: object, **__: object) -> None:
        written = {"table": "windows", "table/rows": 3, "table/version": 5, "table/ingest": None}
        append_metrics(place.metrics, written)
        append_metrics(place.metrics, {"read": "product_buy", "read/version": 7, "read/as_of": None})

    run_alone("ingest", place)
    leave_out_work(monkeypatch, write)
    run_alone("split", place)
    run_alone("vocabulary", place)
    records = read_records(place)
    split, vocabulary = records["split"], records["vocabulary"]
    assert split.inputs == {"ingest": records["ingest"].id}
    assert (split.data, split.as_of, split.settings) == (
        str(place.data),
        None,
        {"windows.mode": "evaluate", "windows.target_days": 14},
    )
    assert (split.read, split.written, split.rows) == ({"product_buy": 7}, {"windows": 5}, {"windows": 3})
    assert split.began <= str(split.made)
    assert vocabulary.inputs == {name: records[name].id for name in ("ingest", "split")}
    assert vocabulary.read == {"product_buy": 7, "windows": 5}


def test_the_rows_of_a_stage_are_not_those_of_another_that_runs_at_once(
    place: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(*_: object) -> None:
        append_metrics(place.metrics, {"table": "vocabularies", "table/rows": 3})
        append_metrics(place.metrics, {"stage": "targets", "table": "labels", "table/rows": 500})

    leave_out_work(monkeypatch, write)
    run_alone("vocabulary", place)
    written, _, end = read_metrics(place.metrics)
    assert written["stage"] == "vocabulary"
    assert end["stage/rows"] == 3
    append_metrics(place.metrics, {"x": 1})
    assert "stage" not in read_metrics(place.metrics)[-1]
