"""``--as-of``: the stages read the tables of an earlier ingest, or say why they cannot."""

import json
import shutil
import time
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from delta_versions import latest_version
from no_work import NoWork, leave_out_work
from pyspark.sql import SparkSession

from conf.load import load_config
from jobs.cli import main
from jobs.commands.upkeep import Retention, compact, vacuum
from jobs.pipeline.registry import STAGES, find_stage
from jobs.pipeline.runner import plan_run, run_stages
from jobs.stages import ingest as ingest_events
from jobs.storage.delta_tables import read_ingested, read_table, write_table
from jobs.storage.metrics_log import read_metrics
from jobs.storage.provenance import read_records
from jobs.storage.table_history import ingest_versions
from jobs.storage.workspace import Workspace
from jobs.transforms.windows import read_windows
from schemas.errors import OutdatedError, TableError
from schemas.tables import PRODUCT_PROPERTIES

ALL = load_config("demo")
CONFIG = ALL.restricted_to("product_buy")
BUYS = CONFIG.events_table("product_buy")
CODES = "[" + " ".join(["7"] * 16) + "]"


def ingest(spark: SparkSession, workspace: Workspace, *days: str) -> None:
    """Ingest one purchase on each day."""
    workspace.data.mkdir(exist_ok=True)
    times = [f"{day} 12:00:00" for day in days]
    buys = {"client_id": list(range(len(days))), "timestamp": times, "sku": [1] * len(days)}
    pq.write_table(pa.table(buys), workspace.data / "product_buy.parquet")
    products = {"sku": [1], "category": [len(days)], "price": [1], "name": [CODES]}
    pq.write_table(pa.table(products), workspace.data / "product_properties.parquet")
    ingest_events.run(spark, CONFIG, workspace)


@pytest.fixture(scope="module")
def made(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    workspace = Workspace(folder / "out", folder / "data")
    workspace.prepare()
    ingest(spark, workspace, "2022-08-31", "2022-09-28")
    write_table(read_table(spark, workspace, BUYS).repartition(2), workspace, BUYS, keep_partitions=True, ingest=0)
    compact(spark, workspace, [BUYS.name])
    ingest(spark, workspace, "2022-08-31", "2022-09-28", "2022-10-26")
    workspace.metrics.unlink()
    return folder


@pytest.fixture
def ingested(made: Path, tmp_path: Path) -> Workspace:
    """Ingest 0 has two purchases, ingest 1 three; the purchases were compacted in between."""
    folder = Path(shutil.copytree(made, tmp_path / "made#1%20b"))
    return Workspace(folder / "out", folder / "data")


@pytest.mark.slow
def test_a_stage_reads_the_ingest_it_is_told_whatever_the_versions_and_records_it(
    spark: SparkSession, ingested: Workspace
) -> None:
    assert latest_version(ingested.table(BUYS.name)) != latest_version(ingested.table(PRODUCT_PROPERTIES.name))
    for number, end, n_buys in ((1, datetime(2022, 10, 26, 12), 3), (0, datetime(2022, 9, 28, 12), 2)):
        workspace = replace(ingested, as_of=number)
        assert read_ingested(spark, workspace, BUYS).count() == n_buys
        assert [row["category"] for row in read_ingested(spark, workspace, PRODUCT_PROPERTIES).collect()] == [n_buys]
        find_stage("split").run(spark, CONFIG, workspace)
        assert read_windows(spark, workspace).end == end
    assert read_ingested(spark, ingested, BUYS).count() == 3

    find_stage("ingest").run(spark, CONFIG, ingested)
    find_stage("baseline").run(spark, CONFIG, workspace)
    records = read_records(ingested)
    split, ingest = records["split"], records["ingest"]
    assert (split.as_of, split.ingest, split.read) == (0, 0, {"product_buy": 2})
    assert split.written == {"windows": 1, "clients": 1}
    assert split.rows["windows"] == 1
    assert (ingest.ingest, ingest.written["product_buy"]) == (2, 4)
    assert records["baseline"].read == {"product_buy": 2, "product_properties": 0, "windows": 1, "clients": 1}
    with pytest.raises(
        OutdatedError, match="expected split made from the newest ingest, found ingest 0; give --as-of 0"
    ):
        find_stage("targets").run(spark, CONFIG, ingested)


def test_the_versions_read_are_noted(
    spark: SparkSession, ingested: Workspace, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO"):
        read_ingested(spark, replace(ingested, as_of=0), BUYS)
    read_ingested(spark, ingested, BUYS)
    assert "product_buy: read as of ingest 0, Delta version 2" in caplog.text
    lines = [json.loads(line) for line in ingested.metrics.read_text().splitlines()]
    read = [(line["read"], line["read/version"], line["read/as_of"]) for line in lines if "read" in line]
    assert read == [("product_buy", 2, 0), ("product_buy", 3, None)]


def test_the_version_that_is_noted_is_the_one_that_is_read_whatever_is_written_since(
    spark: SparkSession, ingested: Workspace
) -> None:
    rows = read_ingested(spark, ingested, BUYS)
    write_table(read_table(spark, ingested, BUYS).limit(1), ingested, BUYS, ingest=2)
    (version,) = [line["read/version"] for line in read_metrics(ingested.metrics) if "read" in line]
    assert (version, rows.count()) == (3, 3)


def test_an_ingest_that_a_table_lacks_is_refused_with_those_it_has(spark: SparkSession, ingested: Workspace) -> None:
    """Ingest 2 died after the purchases; its number is never used again."""
    write_table(read_table(spark, ingested, BUYS), ingested, BUYS, ingest=2)
    with pytest.raises(TableError, match=r"'product_properties': expected ingest 2 \(--as-of\), found 0, 1 in"):
        read_ingested(spark, replace(ingested, as_of=2), PRODUCT_PROPERTIES)
    ingest(spark, ingested, "2022-09-28")
    for table in (BUYS, PRODUCT_PROPERTIES):
        assert read_ingested(spark, replace(ingested, as_of=3), table).count() == 1


def test_an_ingest_whose_files_were_vacuumed_is_refused_before_anything_reads_them(
    spark: SparkSession, ingested: Workspace
) -> None:
    shutil.rmtree(ingested.table(BUYS.name))  # one table less to vacuum
    time.sleep(1.1)  # Delta dates commits in whole seconds
    vacuum(spark, ingested, Retention(0, is_idle=True))
    with pytest.raises(TableError, match=r"files of ingest 0 \(--as-of\), found .* removed by a vacuum"):
        read_ingested(spark, replace(ingested, as_of=0), PRODUCT_PROPERTIES)
    assert read_ingested(spark, replace(ingested, as_of=1), PRODUCT_PROPERTIES).count() == 1


def commits(*operations: tuple[str, str | None]) -> list[dict]:
    return [{"version": version, "operation": name, "note": note} for version, (name, note) in enumerate(operations)]


def test_a_write_without_a_number_counts_by_its_version_and_upkeep_does_not_count() -> None:
    history = commits(("WRITE", None), ("OPTIMIZE", None), ("WRITE", "ingest 7"), ("VACUUM END", None), ("WRITE", None))
    assert ingest_versions(history) == {0: 1, 7: 3, 4: 4}  # type: ignore[arg-type]


def test_a_table_that_was_made_anew_has_rows_of_no_ingest_until_it_is_written() -> None:
    made, kept, properties = "CREATE OR REPLACE TABLE", ("OPTIMIZE", None), ("SET TBLPROPERTIES", None)
    history = commits((made, None), ("WRITE", "ingest 0"), kept, (made, None), properties, ("WRITE", "ingest 1"), kept)
    assert ingest_versions(history) == {0: 2, 1: 6}  # type: ignore[arg-type]
    assert ingest_versions(history[:5]) == {0: 2}  # type: ignore[arg-type]
    assert ingest_versions(commits(("CREATE TABLE AS SELECT", "ingest 0"))) == {0: 0}  # type: ignore[arg-type]


def test_a_run_as_of_leaves_ingest_out_and_is_a_run_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = leave_out_work(monkeypatch)
    newest = Workspace(tmp_path / "out", tmp_path)
    newest.prepare()
    earlier = replace(newest, as_of=0)
    run_stages(NoWork(), CONFIG, earlier, last="vocabulary")  # type: ignore[arg-type]
    assert names == ["split", "vocabulary"]
    assert plan_run(CONFIG, earlier)[0].stage.name == "sequences"
    assert plan_run(CONFIG, newest)[0].stage.name == "ingest"
    find_stage("ingest").run(NoWork(), CONFIG, newest)  # type: ignore[arg-type]
    assert plan_run(CONFIG, newest)[0].stage.name == "split", "it was asked to read an earlier ingest"
    assert plan_run(CONFIG, earlier)[0].stage.name == "sequences"


def test_only_the_stages_that_read_what_ingest_wrote_take_the_flag(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    taking = {stage.name for stage in STAGES if stage.reads_ingested}
    assert taking == {
        "split",
        "vocabulary",
        "sequences",
        "baseline",
        "counters",
        "factorisation",
        "graph",
        "interactions",
        "targets",
    }
    for stage in STAGES:
        with pytest.raises(SystemExit):
            main([stage.name, "--help"])
        assert ("--as-of" in capsys.readouterr().out) == (stage.name in taking)
