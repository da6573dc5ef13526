"""A stage refuses what earlier ones made from other inputs or with other settings, and takes what does not matter."""

import fnmatch
from pathlib import Path
from typing import Any

import pytest
from no_work import NoWork, leave_out_work

from conf.load import load_config
from conf.pipeline import PipelineConfig
from jobs.pipeline.registry import SETTINGS, STAGE_NAMES, find_stage, settings_of
from jobs.pipeline.runner import run_stages
from jobs.storage.provenance import PROVENANCE, read_records
from jobs.storage.workspace import Workspace
from schemas.blocks import ON_REQUEST
from schemas.errors import OutdatedError, TableError

BEFORE = load_config("demo")


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """A complete run whose stages did nothing."""
    workspace = Workspace(tmp_path / "out", tmp_path)
    workspace.prepare()
    leave_out_work(monkeypatch)
    run_stages(NoWork(), BEFORE, workspace)  # type: ignore[arg-type]
    return workspace


def run(stage: str, workspace: Workspace, config: PipelineConfig = BEFORE, **options: object) -> None:
    find_stage(stage).run(NoWork(), config, workspace, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("stage", "change", "message"),
    [
        ("embed", "model.hidden_size=32", r"train had encoders\.product_buy\.hidden_size=64 \(now 32\)"),
        ("embed", "encoders.page_visit.max_length=9", r"sequences had streams\.page_visit\.max_length=64 \(now 9\)"),
        ("embed", "behaviours.page_visit.min_count=2", r"vocabulary had behaviours\.page_visit\.min_count=5 \(now 2\)"),
        ("embed", "behaviours.product_view.item=sku", r"ingest had behaviours\.product_view\.item=none \(now sku\)"),
        ("embed", "ingest.drop_duplicates=true", r"ingest had ingest\.drop_duplicates=False \(now True\)"),
        ("embed", "windows.mode=entry", r"split had windows\.mode=evaluate \(now entry\).*ubp run --from split"),
        ("embed", "training.epochs=3", r"train had encoders\.product_buy\.training\.epochs=15 \(now 3\)"),
        ("embed", "behaviours.page_visit.keep_rare_as_unk=true", r"sequences had .*_as_unk=False \(now True\)"),
        ("embed", "seed=1", r"sequences had seed=2025 \(now 1\)"),
        ("probe", "inference.pooling=last", r"embed had encoders\.product_buy\.inference\.pooling=mean \(now last\)"),
        ("report", "ensemble.blocks_weight=2", r"report: expected the settings that profile ran with, found others: "
         r"profile had ensemble\.blocks_weight=.* \(now 2\.0\).*give the same, or run again from profile"),
        ("report", "probe.epochs=9", r"expected the settings that probe ran with"),
    ],
)  # fmt: skip
def test_a_setting_that_an_earlier_stage_decided_by_must_be_the_same(
    workspace: Workspace, stage: str, change: str, message: str
) -> None:
    before = {file.name: file.read_bytes() for file in workspace.out.glob("*.*")}
    assert before.keys() >= {"config.yaml", PROVENANCE}
    with pytest.raises(OutdatedError, match=message):
        run(stage, workspace, load_config("demo", [change]))
    assert {file.name: file.read_bytes() for file in workspace.out.glob("*.*")} == before


@pytest.mark.parametrize(
    "change",
    ["training.launcher=torch", "training.log_every_steps=9", "probe.epochs=1", "ensemble.composition=mean",
     "spark.driver_memory=3g", "feed.batches_ahead=1", "inference.tokens_per_batch=9", "ingest.count_duplicates=false"],
)  # fmt: skip
def test_other_settings_may_change(workspace: Workspace, change: str) -> None:
    run("embed", workspace, load_config("demo", [change]))


def test_a_stage_may_itself_run_with_new_settings_and_later_ones_then_need_those(workspace: Workspace) -> None:
    now = load_config("demo", ["model.hidden_size=32"])
    run("train", workspace, now)
    run("embed", workspace, now)
    with pytest.raises(OutdatedError):
        run("embed", workspace, BEFORE)


def test_what_was_made_again_outdates_what_was_made_from_it(workspace: Workspace) -> None:
    run("ingest", workspace)
    message = (
        "embed: expected split made from the newest ingest, found that it was made from an earlier one; out of date "
        "too: vocabulary, sequences; run again from split"
    )
    with pytest.raises(OutdatedError, match=message):
        run("embed", workspace)
    run("split", workspace)
    with pytest.raises(OutdatedError, match="expected vocabulary made from the newest ingest"):
        run("train", workspace)


def test_some_models_are_trained_and_the_others_left_as_they_are(workspace: Workspace) -> None:
    before = read_records(workspace)
    run("train", workspace, only=["page_visit"])
    after = read_records(workspace)
    assert {name for name in after if after[name] != before[name]} == {"models/page_visit"}
    with pytest.raises(OutdatedError, match="expected embed made from the present models/page_visit"):
        run("probe", workspace)
    run("sequences", workspace)
    run("train", workspace, only=["page_visit"])
    others = " ".join(name for name in BEFORE.encoders if name != "page_visit")
    with pytest.raises(OutdatedError, match=f"expected models/.* made from the present sequences.*--only {others}`"):
        run("embed", workspace)


def test_settings_that_another_encoders_model_stays_with_are_not_overwritten(workspace: Workspace) -> None:
    epochs = {name: load_config("demo", [f"{name}epochs=3"]) for name in ("training.", "encoders.page_visit.training.")}
    with pytest.raises(OutdatedError, match=r"train had encoders\.product_buy\.training\.epochs=15 \(now 3\)"):
        run("train", workspace, epochs["training."], only=["page_visit"])
    run("train", workspace, epochs["encoders.page_visit.training."], only=["page_visit"])


def test_a_stage_that_did_not_end_well_is_not_read(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise TableError("no")

    leave_out_work(monkeypatch, fail)
    with pytest.raises(TableError):
        run("split", workspace)
    leave_out_work(monkeypatch)
    with pytest.raises(OutdatedError, match=r"expected split, found that split began to make it at .* and did not end"):
        run("vocabulary", workspace)


def test_the_ingest_that_was_asked_for_holds_for_the_stages_after_it(workspace: Workspace) -> None:
    run("ingest", workspace)
    earlier, newest = Workspace(workspace.out, workspace.data, as_of=0), workspace
    run("split", earlier)
    with pytest.raises(OutdatedError, match=r"vocabulary: expected split made from the newest ingest, found ingest 0; "
                       r"give --as-of 0, or run again from split"):  # fmt: skip
        run("vocabulary", newest)
    with pytest.raises(OutdatedError, match=r"expected split made from ingest 1 \(--as-of\), found ingest 0"):
        run("vocabulary", Workspace(workspace.out, workspace.data, as_of=1))
    for stage in ("vocabulary", "sequences", "baseline"):
        run(stage, earlier)
    run("train", newest)
    run("embed", earlier)


@pytest.mark.parametrize("content", ['{"ingest": {"sta', "[]", '{"ingest": {"stage": 1}}', '{"ingest": {"made": "x"}}'])
def test_a_damaged_file_is_told_with_what_to_do(workspace: Workspace, content: str) -> None:
    (workspace.out / PROVENANCE).write_text(content)
    with pytest.raises(TableError, match=r"provenance\.json: expected JSON.*remove it; `ubp run` then begins anew"):
        run("embed", workspace)
    assert (workspace.out / PROVENANCE).read_text() == content


def test_every_pattern_names_a_setting_and_every_stage_exists() -> None:
    assert set(SETTINGS) <= set(STAGE_NAMES)
    # a stage of blocks that nothing asks for has no settings but those that would ask
    everything = load_config("demo", [f"ensemble.blocks=[{', '.join(ON_REQUEST)}]"])
    for stage, patterns in SETTINGS.items():
        output = "models/page_visit" if stage == "train" else stage
        found = settings_of([output], everything)[output]
        for pattern in patterns:
            assert fnmatch.filter(found, pattern.format(encoder="page_visit")), (stage, pattern)
    of_model = settings_of(["models/page_visit"], BEFORE)["models/page_visit"]
    assert "encoders.page_visit.training.epochs" in of_model
    assert [key for key in of_model if "inference" in key or "launcher" in key or "page_visit" not in key] == [
        "feed.shuffle_buffer_mib"  # mixes the rows that every encoder is trained on
    ]


def test_what_a_merged_stream_is_made_of_outdates_its_tables_and_without_it_they_stay() -> None:
    def settings(*overrides: str) -> dict[str, dict[str, Any]]:
        merged = "encoders.mixed={behaviours: [product_buy, page_visit], max_length: 32}"
        return settings_of(["vocabulary", "sequences"], load_config("default", [merged, *overrides]))

    before, alone = settings(), settings_of(["vocabulary", "sequences"], load_config("default"))
    for override, outdated in (
        ("encoders.mixed.behaviours=[page_visit, product_buy]", ["vocabulary", "sequences"]),
        ("encoders.mixed.drop_repeats=false", ["sequences"]),
        ("encoders.mixed.history_chunks=2", ["sequences"]),
        ("encoders.mixed.n_layers=5", []),
    ):
        after = settings(override)
        assert [output for output in after if after[output] != before[output]] == outdated, override
    for output, values in alone.items():
        assert values.items() < before[output].items()
    assert settings("encoders.mixed=null") == alone


def test_a_stage_is_compared_with_what_it_reads_and_nothing_else(workspace: Workspace) -> None:
    now = load_config("demo", ["training.epochs=3"])
    run("targets", workspace, now)
    with pytest.raises(OutdatedError, match=r"probe: .*train had encoders\.product_buy\.training\.epochs=15 \(now 3\)"):
        run("probe", workspace, now)
    before = read_records(workspace)
    with pytest.raises(OutdatedError, match=r"probe: .*train had encoders\.product_buy\.training\.epochs=15 \(now 3\)"):
        run_stages(NoWork(), now, workspace, first="targets")  # type: ignore[arg-type]
    assert read_records(workspace) == before, "a run that cannot end does not begin"
