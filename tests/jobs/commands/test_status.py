"""``ubp status``: what records tell of each output, without Spark."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from conf.load import load_config
from jobs.cli import main
from jobs.commands.status import describe_outputs
from jobs.pipeline.registry import settings_of
from jobs.storage.provenance import Record, changed_records
from jobs.storage.workspace import Workspace

CONFIG = load_config("demo")
ENCODERS = ("page_visit", "product_buy")


@pytest.fixture
def place(tmp_path: Path) -> Workspace:
    """A run to its models; ``page_visit`` was trained again, and another ingest is in the making."""
    workspace = Workspace(tmp_path / "out", tables_url="s3://bucket/x")
    with changed_records(workspace) as records:

        def add(
            output: str, stage: str, inputs: tuple[str, ...], read: tuple[str, ...], *tables: str, **more: object
        ) -> None:
            records[output] = Record(
                stage, made="2026-01-02T03:04:05+00:00", tables=workspace.named_tables,
                settings=settings_of([output], CONFIG)[output], inputs={name: records[name].id for name in inputs},
                read=dict.fromkeys(read, 3), written=dict.fromkeys(tables, 4), rows=dict.fromkeys(tables, 1000),
                **more,  # type: ignore[arg-type]
            )  # fmt: skip

        add("ingest", "ingest", (), (), "product_buy", "page_visit", data="/shop", ingest=7)
        add("split", "split", ("ingest",), ("product_buy",), "windows", "clients", data="/shop", ingest=7)
        add("vocabulary", "vocabulary", ("split",), ("product_buy", "windows"), "vocabularies", ingest=5, as_of=5)
        add(
            "sequences",
            "sequences",
            ("ingest", "split", "vocabulary"),
            ("windows", "vocabularies"),
            "sequences",
            ingest=7,
        )
        for name in ENCODERS:
            add(f"models/{name}", "train", ("vocabulary", "sequences"), ("vocabularies", "sequences"))
    return workspace


def table(place: Workspace, *more: str) -> dict[str, str]:
    """Output -> the rest of its line, with single spaces."""
    lines = describe_outputs(place, load_config("demo", more) if more else None).splitlines()[1:]
    return {name: rest for name, _, rest in (" ".join(line.split()).partition(" ") for line in lines)}


MADE = "2026-01-02T03:04:05"


def test_each_output_is_told_with_what_it_was_made_from(place: Workspace) -> None:
    assert table(place) == {
        "ingest": f"{MADE} 2,000 up to date /shop",
        "split": f"{MADE} 2,000 up to date /shop, ingest 7",
        "vocabulary": f"{MADE} 1,000 up to date ingest 5 (--as-of), split (windows 3)",
        "sequences": f"{MADE} 1,000 up to date ingest 7, split (windows 3), vocabulary (vocabularies 3)",
        **{
            f"models/{name}": f"{MADE} up to date vocabulary (vocabularies 3), sequences (sequences 3)"
            for name in ENCODERS
        },
        **dict.fromkeys(
            (
                "baseline",
                "counters",
                "factorisation",
                "graph",
                "interactions",
                "embed",
                "profile",
                "targets",
                "probe",
                "report",
            ),
            "not made",
        ),
    }


def test_what_is_outdated_is_told_with_its_cause(place: Workspace) -> None:
    with changed_records(place) as records:
        records["split"] = replace(records["split"], id="another", made=None, rows={})
    now = table(place, "training.epochs=3", "windows.mode=entry")
    assert now["split"].startswith("not finished")
    assert "outdated by split, vocabulary " in now["sequences"]
    assert "outdated by encoders.page_visit.training.epochs, split, vocabulary, sequences" in now["models/page_visit"]
    assert now["models/search_query"] == "not made"
    assert "outdated by split, vocabulary, sequences" in table(place)["models/page_visit"]


def test_files_that_were_replaced_since_are_noticed_where_the_data_can_be_reached(
    place: Workspace, tmp_path: Path
) -> None:
    buys = tmp_path / "shop" / "product_buy.parquet"
    files = {buys.name: {buys.name: [1, 1]}}
    with changed_records(place) as records:
        records["ingest"] = replace(records["ingest"], data=str(buys.parent), files=files)
    assert "up to date" in table(place)["ingest"], "as on a machine that does not mount the data"
    buys.parent.mkdir()
    buys.touch()
    assert "outdated by other files in --data" in table(place)["ingest"]
    assert "outdated by ingest" in table(place)["split"]


def test_the_command_answers_without_spark_or_torch_and_exits_with_0(place: Workspace) -> None:
    code = """
import sys
from jobs.cli import main
code = main(sys.argv[1:])
sys.exit(str(found) if (found := {"pyspark", "torch", "delta"} & set(sys.modules)) else code)
"""
    call = [sys.executable, "-c", code, "status", "--out", str(place.out), "--set", "windows.target_days=3"]
    done = subprocess.run(call, capture_output=True, text=True)
    assert "outdated by windows.target_days" in done.stdout
    assert (done.returncode, done.stderr) == (0, "")


def test_without_records_or_a_directory_it_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture, caplog: pytest.LogCaptureFixture
) -> None:
    assert main(["status", "--out", str(tmp_path)]) == 0
    assert "has no provenance.json" in capsys.readouterr().out
    assert main(["status", "--out", str(tmp_path / "none")]) == 2
    assert "expected the output directory of a run, found none" in caplog.text
