"""Where a run goes on, and what a stage leaves: records, the saved configuration, its rows."""

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from no_work import NoWork, leave_out_work

from conf.load import load_config
from conf.pipeline import PipelineConfig
from jobs.pipeline.registry import STAGE_NAMES, find_stage
from jobs.pipeline.runner import plan_run, run_stages
from jobs.storage.metrics_log import append_metrics, read_metrics
from jobs.storage.provenance import read_records
from jobs.storage.workspace import NEEDED_FILES, Workspace
from schemas.errors import InputError, OutdatedError, TableError, TrainingError

CONFIG = load_config("demo")
AFTER_BLOCKS = ["profile", "probe", "report"]


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the stages that ran; their work is left out."""
    return leave_out_work(monkeypatch)


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    workspace = Workspace(tmp_path / "out", tmp_path)
    workspace.prepare()
    return workspace


def run(workspace: Workspace, config: PipelineConfig = CONFIG, **stages: str) -> None:
    run_stages(NoWork(), config, workspace, **stages)  # type: ignore[arg-type]


def run_alone(stage: str, workspace: Workspace, config: PipelineConfig = CONFIG) -> None:
    find_stage(stage).run(NoWork(), config, workspace)  # type: ignore[arg-type]


def next_stage(workspace: Workspace) -> str:
    return [*(step.stage.name for step in plan_run(CONFIG, workspace) if not step.why_not), "none"][0]


def test_a_run_that_died_goes_on_after_the_last_finished_stage(workspace: Workspace, ran: list[str]) -> None:
    run(workspace, last="sequences")
    run(workspace)
    assert ran == STAGE_NAMES


def test_a_caller_that_names_no_data_changes_nothing_of_a_finished_run(workspace: Workspace, ran: list[str]) -> None:
    run(workspace, last="sequences")
    before = (workspace.out / "config.yaml").read_text(), read_records(workspace)
    with pytest.raises(InputError, match="name it with --data"):
        run(Workspace(workspace.out), load_config("demo", ["ingest.earliest=2022-06-25"]))
    assert ((workspace.out / "config.yaml").read_text(), read_records(workspace)) == before


def test_scores_of_some_tasks_are_made_again_by_a_run_of_all(workspace: Workspace, ran: list[str]) -> None:
    run(workspace)
    run_alone("probe", workspace, load_config("demo", ["probe.tasks=[churn]"]))
    assert next_stage(workspace) == "probe"


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("ingest.unknown_sku=quarantine", STAGE_NAMES),
        ("windows.target_days=7", STAGE_NAMES[1:]),
        ("behaviours.page_visit.min_count=2", ["vocabulary", "sequences", "train", "embed", *AFTER_BLOCKS]),
        ("seed=1", ["sequences", "train", "embed", *AFTER_BLOCKS]),
        ("training.epochs=3", ["train", "embed", *AFTER_BLOCKS]),
        ("feed.shuffle_buffer_mib=1", ["train", "embed", *AFTER_BLOCKS]),
        ("encoders.page_visit.loss.n_negatives=3", ["train", "embed", *AFTER_BLOCKS]),
        ("inference.pooling=last", ["embed", *AFTER_BLOCKS]),
        ("ensemble.activity=false", ["counters", *AFTER_BLOCKS]),
        ("ensemble.blocks=[baseline,counters]", ["counters", *AFTER_BLOCKS]),
        ("ensemble.blocks=[baseline,als_url]", ["factorisation", *AFTER_BLOCKS]),
        ("ensemble.blocks=[baseline,als_url,counters]", ["counters", "factorisation", *AFTER_BLOCKS]),
        ("ensemble.blocks=[baseline,graph]", ["graph", *AFTER_BLOCKS]),
        ("ensemble.blocks=[baseline,interactions]", ["interactions", *AFTER_BLOCKS]),
        ("ensemble.blocks=[]", AFTER_BLOCKS),
        ("ensemble.blocks_weight=2", AFTER_BLOCKS),
        ("probe.epochs=1", ["probe", "report"]),
        ("spark.driver_memory=3g", []),  # nothing is out of date
    ],
)
def test_with_another_configuration_what_depends_on_it_runs_and_nothing_else(
    workspace: Workspace, ran: list[str], caplog: pytest.LogCaptureFixture, change: str, expected: list[str]
) -> None:
    caplog.set_level("INFO")
    blocks = "ensemble.blocks=[baseline]"
    run(workspace, load_config("demo", [blocks]))
    ran.clear()
    run(workspace, load_config("demo", [blocks, change]))
    assert ran == expected
    if ran:
        later = STAGE_NAMES[STAGE_NAMES.index(ran[0]) :]
        assert [name for name in STAGE_NAMES if f"{name}: up to date" in caplog.text] == [
            name for name in later if name not in ran
        ]


def test_an_encoder_that_is_new_or_other_is_trained_and_the_others_are_not(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[object] = []
    leave_out_work(monkeypatch, lambda *_, only=None: trained.append(only))
    run(workspace)
    assert set(trained) == {None}
    second = "encoders.visits_gru={behaviours: [page_visit], architecture: gru, objective: next_item}"
    for changes, name in (([second], "visits_gru"), ([second, "encoders.mixed.training.epochs=2"], "mixed")):
        trained.clear()
        run(workspace, load_config("demo", changes))
        assert [only for only in trained if only] == [[name]]


@pytest.mark.parametrize(
    ("change", "stage"),
    [
        ("factorisation.factors=32", "factorisation"),
        ("graph.epochs=3", "graph"),
        ("interactions.epochs=1", "interactions"),
    ],
)
def test_the_settings_of_a_block_decide_only_where_it_is_asked_for(
    workspace: Workspace, ran: list[str], change: str, stage: str
) -> None:
    for blocks, expected in (("als_category,graph,interactions", [stage, *AFTER_BLOCKS]), ("", [])):
        asked = f"ensemble.blocks=[{blocks}]"
        run(workspace, load_config("demo", [asked]))
        ran.clear()
        run(workspace, load_config("demo", [asked, change]))
        assert ran == expected


def test_a_graph_of_an_encoders_items_is_made_again_with_its_model(workspace: Workspace, ran: list[str]) -> None:
    blocks, mixed = "ensemble.blocks=[graph]", "graph.item_encoder=mixed"
    run(workspace, load_config("demo", [blocks]))
    ran.clear()
    run(workspace, load_config("demo", [blocks, mixed]))
    assert ran == ["graph", *AFTER_BLOCKS]
    for encoder, expected in (("mixed", ["train", "graph", "embed"]), ("product_buy", ["train", "embed"])):
        run(workspace, load_config("demo", [blocks, mixed]))
        ran.clear()
        run(workspace, load_config("demo", [blocks, mixed, f"encoders.{encoder}.training.epochs=2"]))
        assert ran == [*expected, *AFTER_BLOCKS]


def test_another_data_directory_starts_over(workspace: Workspace, ran: list[str], tmp_path: Path) -> None:
    run(workspace, last="split")
    run(Workspace(workspace.out, tmp_path / "other"), last="split")
    assert ran == ["ingest", "split"] * 2


def test_a_mistake_in_a_mapping_changes_nothing_of_a_finished_run(
    workspace: Workspace, ran: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise InputError("inputs.page_visit.item: expected another column")

    run(workspace)
    before = (workspace.out / "config.yaml").read_text(), read_records(workspace)
    leave_out_work(monkeypatch, open_inputs=refuse)
    with pytest.raises(InputError, match="expected another column"):
        run(workspace, load_config("demo", ["ingest.earliest=2022-06-25"]))
    assert ((workspace.out / "config.yaml").read_text(), read_records(workspace)) == before
    assert next_stage(workspace) == "none"


@pytest.mark.parametrize(
    ("change", "begins_with", "found"),
    [
        ("product_buy.parquet", "ingest", "product_buy.parquet replaced"),
        ("page_visit.parquet/1.parquet", "ingest", "page_visit.parquet/1.parquet replaced"),
        ("page_visit.parquet/2.parquet", "ingest", "page_visit.parquet/2.parquet added"),
        ("search_query.parquet", "ingest", "search_query.parquet added"),
        ("input/relevant_clients.npy", "split", "input/relevant_clients.npy added"),
        ("target/popularity_propensity_sku.npy", "targets", "target/popularity_propensity_sku.npy added"),
        ("of_no_behaviour.parquet", "probe", None),
    ],
)
def test_a_run_begins_again_where_files_of_the_data_changed_and_a_stage_alone_is_refused(
    workspace: Workspace,
    ran: list[str],
    caplog: pytest.LogCaptureFixture,
    change: str,
    begins_with: str,
    found: str | None,
) -> None:
    caplog.set_level("INFO")
    for name in ("product_buy.parquet", "product_properties.parquet", "page_visit.parquet/1.parquet"):
        write_file(workspace.data / name)
    run(workspace, last="targets")
    write_file(workspace.data / change)
    assert next_stage(workspace) == begins_with
    probe = find_stage("probe")
    probe.check_inputs(CONFIG, Workspace(workspace.out))
    if found:
        with pytest.raises(OutdatedError, match=f"{begins_with} was made from, found {found}; leave --data out"):
            probe.check_inputs(CONFIG, workspace)
        run(workspace, last="targets")
        assert f"{begins_with} runs again: expected the files of {workspace.data} that" in caplog.text
    probe.check_inputs(CONFIG, workspace)


def test_a_run_begins_again_where_an_entry_from_elsewhere_was_written_anew(
    workspace: Workspace, ran: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    block, oracle = tmp_path / "elsewhere" / "clip", tmp_path / "elsewhere" / "oracle"
    config = load_config("demo", [f"ensemble.blocks=[baseline,'clip={block}']", f"probe.entries=['{oracle}']"])
    for entry in (block, oracle):
        for file in ("client_ids.npy", "embeddings.npy"):
            write_file(entry / file)
    run(workspace, config)
    for entry, expected in ((block, AFTER_BLOCKS), (oracle, ["probe", "report"])):
        write_file(entry / "embeddings.npy")
        ran.clear()
        run(workspace, config)
        assert ran == expected
        found = f"{ran[0]} runs again: expected the files that {ran[0]} was made from, found {entry}/"
        assert found in caplog.text
    (block / "embeddings.npy").unlink()  # an entry that is gone, or on another machine, says nothing
    find_stage("report").check_inputs(config, workspace)


def test_files_that_change_while_a_run_works_do_not_stop_it_and_are_found_by_the_next(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_file(workspace.data / "product_buy.parquet")
    leave_out_work(monkeypatch, lambda *_: write_file(workspace.data / "product_buy.parquet"))
    run(workspace, last="split")
    assert next_stage(workspace) == "ingest"


def write_file(path: Path) -> None:
    """A file of one size, written later than it was before."""
    path.parent.mkdir(parents=True, exist_ok=True)
    before = path.stat().st_mtime_ns if path.exists() else 0
    path.write_bytes(b"PAR1")
    os.utime(path, ns=(before + 1, before + 1))


@pytest.mark.usefixtures("ran")
def test_a_stage_that_runs_again_makes_the_later_ones_unfinished(workspace: Workspace) -> None:
    run(workspace)
    run(workspace, first="train", last="embed")
    assert next_stage(workspace) == "profile"


def test_mode_entry_leaves_out_what_needs_the_target_windows(workspace: Workspace, ran: list[str]) -> None:
    run(workspace, load_config("demo", ["windows.mode=entry"]))
    assert [stage for stage in STAGE_NAMES if stage not in ran] == ["targets", "probe"]
    assert ran[-1] == "report"


def fail(*_: object, **__: object) -> None:
    raise TrainingError("no")


@pytest.mark.parametrize(
    ("alone", "begins_with"),
    [("ingest", "split"), ("vocabulary", "sequences"), ("baseline", "train"), ("targets", "train")],
)
def test_a_stage_that_is_run_alone_makes_those_that_depend_on_it_unfinished(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, alone: str, begins_with: str
) -> None:
    leave_out_work(monkeypatch)
    run(workspace, last="sequences")
    leave_out_work(monkeypatch, fail)
    with pytest.raises(TrainingError):
        run(workspace)
    leave_out_work(monkeypatch)
    run_alone(alone, workspace)
    assert next_stage(workspace) == begins_with


@pytest.mark.usefixtures("ran")
def test_a_stage_of_a_complete_run_that_is_run_alone_makes_only_later_ones_unfinished(workspace: Workspace) -> None:
    run(workspace)
    run_alone("report", workspace)
    assert next_stage(workspace) == "none"
    run_alone("probe", workspace)
    assert next_stage(workspace) == "report"


@pytest.mark.parametrize("last", ["split", None])
def test_a_run_whose_stages_are_up_to_date_up_to_the_last_one_wanted_does_nothing(
    workspace: Workspace, ran: list[str], caplog: pytest.LogCaptureFixture, last: str | None
) -> None:
    caplog.set_level("INFO")
    run(workspace, last=last)
    once = list(ran)
    run(workspace, last=last)
    assert ran == once
    assert f"nothing to do: ingest to {once[-1]} are up to date (--restart begins anew)" in caplog.text


def saved(workspace: Workspace) -> PipelineConfig:
    return load_config(str(workspace.out / "config.yaml"))


@pytest.mark.usefixtures("ran")
def test_the_saved_configuration_shows_settings_that_the_outputs_have(workspace: Workspace) -> None:
    run_alone("ingest", workspace)
    assert saved(workspace) == CONFIG
    run(workspace)
    other = load_config("demo", ["training.epochs=3", "ensemble.blocks_weight=2"])
    run_alone("targets", workspace, other)
    assert saved(workspace) == CONFIG, "the models and profiles stay as they are"
    run(workspace, other)
    assert saved(workspace) == other


@pytest.mark.usefixtures("ran")
def test_blocks_that_were_not_asked_for_can_be_made_stage_by_stage(workspace: Workspace) -> None:
    run(workspace, load_config("demo", ["ensemble.blocks=[]"]))
    other = load_config("demo", ["ensemble.blocks=[graph,interactions]", "graph.epochs=3", "interactions.epochs=1"])
    for stage in ("graph", "interactions"):
        run_alone(stage, workspace, other)
        assert saved(workspace) == other


@pytest.mark.usefixtures("ran")
def test_a_record_tells_what_an_output_was_made_from(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(*_: object, **__: object) -> None:
        written = {"table": "windows", "table/rows": 3, "table/version": 5, "table/ingest": None}
        append_metrics(workspace.metrics, written)
        append_metrics(workspace.metrics, written | {"table/rows": 2, "table/version": 4})  # another part of it
        append_metrics(workspace.metrics, {"read": "product_buy", "read/version": 7, "read/as_of": None})

    run_alone("ingest", workspace)
    leave_out_work(monkeypatch, write)
    run_alone("split", workspace)
    run_alone("vocabulary", workspace)
    records = read_records(workspace)
    split, vocabulary = records["split"], records["vocabulary"]
    assert split.inputs == {"ingest": records["ingest"].id}
    assert (split.data, split.as_of, split.settings) == (
        str(workspace.data),
        None,
        {"windows.mode": "evaluate", "windows.target_days": 14, "windows.end": None},
    )
    assert (split.read, split.written, split.rows) == ({"product_buy": 7}, {"windows": 5}, {"windows": 5})
    assert split.began <= str(split.made)
    assert vocabulary.inputs == {name: records[name].id for name in ("ingest", "split")}
    assert vocabulary.read == {"product_buy": 7, "windows": 5}


@pytest.mark.usefixtures("ran")
def test_an_ingest_that_there_is_not_outdates_nothing(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    ingested = {"table": "product_buy", "table/rows": 3, "table/version": 0, "table/ingest": 0}
    leave_out_work(monkeypatch, lambda *_, **__: append_metrics(workspace.metrics, ingested))
    run(workspace)
    for number in (99, -1):
        with pytest.raises(TableError, match=f"--as-of: expected an ingest from 0 to 0, found {number}; correct it"):
            run_alone("split", replace(workspace, as_of=number))
    assert plan_run(CONFIG, workspace) == []


def test_folders_that_were_removed_are_made_again_and_nothing_reads_on_without_them(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = {"train": ["models/mixed", "models/page_visit"], "profile": ["entries/ensemble"]}

    def write(*_: object, **__: object) -> None:
        own = folders.get(ran[-1], [])
        for folder in own:
            (workspace.out / folder).mkdir(parents=True, exist_ok=True)
            for file in NEEDED_FILES[folder.partition("/")[0]]:
                (workspace.out / folder / file).touch()
        append_metrics(workspace.metrics, {"folders": own})

    ran = leave_out_work(monkeypatch, write)
    run(workspace)
    records = read_records(workspace)
    assert [records[f"models/{name}"].folders for name in ("mixed", "product_buy")] == [["models/mixed"], []]
    assert plan_run(CONFIG, workspace) == []

    shutil.rmtree(workspace.out / "models/mixed")
    with pytest.raises(OutdatedError, match=r"expected models/mixed, which train wrote .*removed.*train --only mixed"):
        find_stage("embed").check_inputs(CONFIG, workspace)
    find_stage("probe").check_inputs(CONFIG, workspace)  # opens entries, and these are there
    ran.clear()
    run(workspace)
    assert ran == ["train", "embed", *AFTER_BLOCKS]

    (workspace.out / "entries/ensemble/embeddings.npy").unlink()
    ran.clear()
    run(workspace)
    assert ran == AFTER_BLOCKS


def test_the_rows_of_a_stage_are_not_those_of_another_that_runs_at_once(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(*_: object) -> None:
        append_metrics(workspace.metrics, {"table": "vocabularies", "table/rows": 3})
        append_metrics(workspace.metrics, {"stage": "targets", "table": "labels", "table/rows": 500})

    leave_out_work(monkeypatch, write)
    run_alone("vocabulary", workspace)
    written, _, end = read_metrics(workspace.metrics)
    assert written["stage"] == "vocabulary"
    assert end["stage/rows"] == 3
    append_metrics(workspace.metrics, {"x": 1})
    assert "stage" not in list(read_metrics(workspace.metrics))[-1]


def test_what_a_stage_goes_on_from_is_removed_once_its_output_is_recorded(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kill between the two costs no training."""
    is_made: list[bool] = []

    def note(*_: object) -> None:
        is_made.append(bool(read_records(workspace)["ingest"].made))

    leave_out_work(monkeypatch, note, clean_up=note)
    run_alone("ingest", workspace)
    assert is_made == [False, True]
