"""What docs/adding.md says of a behaviour and of a stage, done with the page's own examples."""

import importlib
import re
import runpy
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from no_work import NoWork, leave_out_work

import jobs.stages
from conf.load import load_config
from conf.pipeline import PipelineConfig
from jobs.blocks.counter_table import list_counters
from jobs.commands import flags
from jobs.inputs.data_files import list_sources
from jobs.pipeline import registry, runner
from jobs.pipeline.registry import SETTINGS, STAGES, Stage, find_stage, settings_of
from jobs.pipeline.runner import run_stages
from jobs.profiles.composition import list_own_blocks
from jobs.storage.provenance import read_records
from jobs.storage.workspace import Workspace
from ml.profiles.composition import fit_composition
from ml.profiles.moments import Moments
from schemas.errors import ConfigError, OutdatedError

PAGE = Path(__file__).parents[3] / "docs" / "adding.md"
DEFAULT = load_config()


def section(heading: str) -> str:
    return PAGE.read_text().split(f"\n## {heading}\n")[1].split("\n## ")[0]


def example(heading: str) -> str:
    """The first block of code of a section."""
    block = re.search(r"(?:^ {4}.*\n|^\n(?= {4}))+", section(heading), re.MULTILINE)
    assert block
    return textwrap.dedent(block[0])


@pytest.fixture
def settings(tmp_path: Path) -> Path:
    """The configuration of the section on behaviours, as a file."""
    path = tmp_path / "own.yaml"
    path.write_text(example("A behaviour"))
    return path


def test_a_behaviour_that_a_configuration_names_gets_a_table_counters_and_a_model(settings: Path) -> None:
    config = load_config(str(settings))
    assert [*config.behaviours] == [*DEFAULT.behaviours, "wishlist"]
    assert list_sources("ingest", config)[-1] == "wishlist.parquet"
    assert config.events_table("wishlist").ddl == "client_id bigint, timestamp timestamp_ntz, sku bigint"
    assert settings_of(["vocabulary"], config)["vocabulary"]["behaviours.wishlist.min_count"] == 2
    assert config.streams()["wishlist"].max_length == 64
    assert find_stage("train").outputs(config)[-1] == "models/wishlist"
    assert list_own_blocks(config, config.encoders) == [*config.encoders, "activity"]
    names, former = ({each.name for each in list_counters(of.behaviours)} for of in (config, DEFAULT))
    assert names > former
    assert all(name.startswith("wishlist/") for name in names - former)


def test_an_encoder_of_a_further_behaviour_is_at_most_as_long_as_the_widest_sequence(settings: Path) -> None:
    widest = DEFAULT.sequences.widths[-1]
    load_config(str(settings), [f"encoders.wishlist.max_length={widest}"])
    with pytest.raises(ConfigError, match=rf"max_length \({widest + 1}\) exceeds the widest of sequences\.widths"):
        load_config(str(settings), [f"encoders.wishlist.max_length={widest + 1}"])


def test_an_encoder_of_a_further_behaviour_and_others_has_a_name_of_its_own(settings: Path) -> None:
    both = "behaviours: [wishlist, product_buy], max_length: 64"
    assert f"wishes: {{{both}}}" in section("A behaviour")
    assert load_config(str(settings), [f"encoders.wishes={{{both}}}"]).streams()["wishes"].is_merged
    with pytest.raises(ConfigError, match="expected another name than a behaviour's"):
        load_config(str(settings), [f"encoders.wishlist={{{both}}}"])


def test_the_widths_of_the_examples_profile_are_those_of_the_page(settings: Path) -> None:
    config = load_config(str(settings))
    blocks = ["counters", "als_category", "als_url"]
    narrow = load_config(str(settings), ["encoders.wishlist.hidden_size=32", f"ensemble.blocks=[{','.join(blocks)}]"])
    widths, least = widths_of_blocks(config), widths_of_blocks(narrow)
    whole, most = sum(widths.values()) + len(widths) + 1, config.ensemble.max_width  # a flag each, and the constant
    assert width_of_profile(config, widths) == most < whole
    assert width_of_profile(narrow, least) == sum(least.values()) + len(least) + 1
    factors = widths["als_category"] + widths["als_url"]
    parts = f"six encoders of {widths['wishlist']}, {widths['activity']} of activity, {widths['counters']} counters"
    parts += f", {factors} factors, {widths['interactions']} interactions, {len(widths)} flags, a constant"
    found = " ".join(section("A behaviour").split())
    assert f"A profile has at most {most:,} columns (`ensemble.max_width`): a wider one is projected" in found
    named = ", ".join(f"`{name}`" for name in blocks)
    narrower = f"`hidden_size: 32` for `wishlist` and no further blocks than {named} make them"
    assert f"up to {whole:,} ({parts}); {narrower} {width_of_profile(narrow, least):,}." in found


def widths_of_blocks(config: PipelineConfig) -> dict[str, int]:
    """Block -> its columns, of all that the profile has."""
    return {
        **{name: encoder.hidden_size for name, encoder in config.encoders.items()},
        # of all events and of some last days: tests/jobs/blocks/test_activity.py
        "activity": len(config.behaviours) * (1 + len(config.ensemble.activity_days)),
        "counters": len([*list_counters(config.behaviours)]),
        **dict.fromkeys(("als_category", "als_url"), config.factorisation.factors),
        **({"interactions": sum(config.interactions.ranks)} if "interactions" in config.ensemble.blocks else {}),
    }


def width_of_profile(config: PipelineConfig, widths: dict[str, int]) -> int:
    moments = {name: Moments.of(np.eye(2, width)) for name, width in widths.items()}
    return fit_composition(moments, config.ensemble).width


STAGE_FILE = """
from jobs.storage.metrics_log import append_metrics


def run(spark, config, workspace):
    append_metrics(workspace.metrics, {"table": "returns", "table/rows": 3, "table/version": 0})


"""


@pytest.fixture
def stage_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """A file that ends as the page says, and is found in ``jobs/stages``; the stage that it is of is registered."""
    path = tmp_path / "stages" / "returns.py"
    path.parent.mkdir()
    path.write_text(STAGE_FILE + example("A stage").replace("<name>", "returns"))
    monkeypatch.setattr(jobs.stages, "__path__", [*jobs.stages.__path__, str(path.parent)])
    monkeypatch.setitem(SETTINGS, "returns", ("graph.epochs",))  # of no other stage, where the graph is not asked for
    stage = Stage("returns", "what clients sent back", needs=("ingest", "split"), reads_ingested=True)
    first = registry.STAGE_NAMES.index("train")
    later = [
        replace(each, needs=(*each.needs, "returns")) if each.name in ("profile", "report") else each
        for each in STAGES[first:]
    ]
    stages = (*STAGES[:first], stage, *later)
    for module in (registry, runner, flags):
        monkeypatch.setattr(module, "STAGES", stages)
        monkeypatch.setattr(module, "STAGE_NAMES", [each.name for each in stages])
    yield path
    sys.modules.pop("jobs.stages.returns", None)


def test_a_registered_stage_runs_in_its_place_and_outdates_what_needs_it(
    workspace: Workspace, stage_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = leave_out_work(monkeypatch)
    leave_out = registry.importlib.import_module

    def load(module: str) -> object:
        left_out = leave_out(module)  # which notes that it ran
        return importlib.import_module(module) if module == "jobs.stages.returns" else left_out

    monkeypatch.setattr(registry, "importlib", SimpleNamespace(import_module=load))

    def run(config: PipelineConfig) -> list[str]:
        ran.clear()
        run_stages(NoWork(), config, replace(workspace, challenge=workspace.out))  # type: ignore[arg-type]
        return ran

    names = registry.STAGE_NAMES
    asked, other = load_config("demo"), load_config("demo", ["graph.epochs=3"])
    assert run(asked) == names
    assert names[names.index("returns") - 1 :][:3] == ["sequences", "returns", "train"]
    record = read_records(workspace)["returns"]
    assert (record.rows, record.settings) == ({"returns": 3}, {"graph.epochs": asked.graph.epochs})
    assert [*record.inputs] == ["ingest", "split"]
    find_stage("returns").run(NoWork(), asked, workspace)  # type: ignore[arg-type]
    assert run(asked) == ["profile", "probe", "report"]
    with pytest.raises(OutdatedError, match=r"^report: expected the settings that returns ran with, .*graph\.epochs"):
        find_stage("report").run(NoWork(), other, workspace)  # type: ignore[arg-type]
    assert run(other) == ["returns", "profile", "probe", "report"]


def test_the_file_of_a_registered_stage_is_a_program_with_the_flags_of_its_command(
    stage_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["returns.py", "--help"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(stage_file), run_name="__main__")
    assert ended.value.code == 0
    assert "ubp returns" in capsys.readouterr().out
