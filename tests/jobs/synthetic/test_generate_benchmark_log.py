import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession

from conf.load import load_config
from conf.synthetic import BenchmarkLogSettings
from jobs import cli
from jobs.commands.generate import generate_benchmark_log
from jobs.inputs.challenge_directory import check_challenge
from jobs.stages.ingest import run
from jobs.storage.delta_tables import read_table
from jobs.storage.workspace import Workspace
from jobs.synthetic.benchmark_log.files import behaviour_rows, product_rows
from jobs.synthetic.benchmark_log.marginals import BEHAVIOURS
from jobs.synthetic.blocks import ITEM_COLUMNS
from schemas.behaviours import PAGE_VISIT, SEARCH_QUERY
from schemas.errors import OutputError
from schemas.tables import QUARANTINE

pytestmark = pytest.mark.spark

SETTINGS = BenchmarkLogSettings(n_events=200_000, clients_per_block=5_000)
GROWS_WITH_SIZE = "events per user, maximum (at full size)"
AS_STATED = "events per user, mean (as stated)"


@pytest.fixture(scope="module")
def log_folder(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("generated") / "log_folder"
    generate_benchmark_log(spark, directory, SETTINGS)
    return directory


def test_files_have_the_columns_of_the_challenge(log_folder: Path):
    check_challenge(log_folder, load_config("demo"))
    event = {"client_id": "int64", "timestamp": "string"}
    expected = {
        name: {**event, column: "string" if column == "query" else "int64"} for name, column in ITEM_COLUMNS.items()
    }
    expected["product_properties"] = {"sku": "int64", "category": "int64", "price": "int64", "name": "string"}
    schemas = {path.stem: pq.read_schema(next(path.glob("part-*"))) for path in log_folder.glob("*.parquet")}
    found = {name: {field.name: str(field.type) for field in schema} for name, schema in schemas.items()}
    assert found == expected


def test_the_events_are_as_many_as_asked_for(log_folder: Path):
    assert sum(len(pd.read_parquet(log_folder / f"{name}.parquet")) for name in BEHAVIOURS) == SETTINGS.n_events


def test_the_statistics_are_the_published_ones(log_folder: Path):
    statistics = {row.pop("name"): row for row in json.loads((log_folder / "statistics.json").read_text())}
    assert statistics.pop(GROWS_WITH_SIZE)["made"] > 2_000
    assert statistics.pop(AS_STATED)["made"] == pytest.approx(8.94, abs=0.01)
    assert statistics.pop("relevant clients")["ratio"] == pytest.approx(1.0, abs=0.1)
    for name, row in statistics.items():
        assert row["ratio"] == pytest.approx(1.0, abs=0.005), name


def test_the_statistics_are_those_of_the_files(log_folder: Path):
    made = {row["name"]: row["made"] for row in json.loads((log_folder / "statistics.json").read_text())}
    ids = pd.concat([pd.read_parquet(log_folder / f"{name}.parquet", columns=["client_id"]) for name in BEHAVIOURS])
    counts = ids["client_id"].value_counts()
    assert made["users"] == len(counts)
    assert made["events per user, p99"] == np.quantile(counts, 0.99, method="inverted_cdf")
    assert made[GROWS_WITH_SIZE] == counts.max()
    urls = pd.read_parquet(log_folder / "page_visit.parquet")["url"].value_counts()
    assert made["urls visited >= 5 times"] == (urls >= 5).sum()


def test_every_sku_has_one_row_of_properties(log_folder: Path):
    products = pd.read_parquet(log_folder / "product_properties.parquet")
    assert products["sku"].is_unique
    assert products["name"].is_unique
    assert set(products["price"]) == set(range(100))
    for name in BEHAVIOURS[:3]:
        assert pd.read_parquet(log_folder / f"{name}.parquet")["sku"].isin(products["sku"]).all()


def test_a_run_accepts_every_row(spark: SparkSession, log_folder: Path, tmp_path: Path):
    workspace = Workspace(tmp_path / "out", log_folder)
    workspace.prepare()
    run(spark, load_config("demo"), workspace)
    assert read_table(spark, workspace, QUARANTINE).isEmpty()


def test_relevant_clients_are_a_share_of_all_and_the_active_ones_are_of_them(log_folder: Path):
    relevant = np.load(log_folder / "input" / "relevant_clients.npy")
    active = np.load(log_folder / "target" / "active_clients.npy")
    assert len(np.unique(relevant)) == len(relevant)
    assert 0 < len(active) < len(relevant)
    assert np.isin(active, relevant).all()


@pytest.mark.parametrize("n_tasks", [1, 3])
def test_rows_are_the_same_for_any_number_of_tasks(
    spark: SparkSession, log_folder: Path, monkeypatch: pytest.MonkeyPatch, n_tasks: int
):
    monkeypatch.setattr("jobs.synthetic.blocks._count_tasks", lambda *_: n_tasks)
    frames = {name: behaviour_rows(spark, name, SETTINGS) for name in (PAGE_VISIT, SEARCH_QUERY)}
    frames["product_properties"] = product_rows(spark, SETTINGS)
    for name, frame in frames.items():
        assert frame.rdd.getNumPartitions() == n_tasks
        expected = pd.read_parquet(log_folder / f"{name}.parquet")
        pd.testing.assert_frame_equal(_sorted(frame.toPandas()), _sorted(expected))


def _sorted(rows: pd.DataFrame) -> pd.DataFrame:
    return rows.sort_values(list(rows.columns)).reset_index(drop=True)


def test_nothing_is_left_beside_the_finished_log(log_folder: Path):
    assert [path.name for path in log_folder.parent.iterdir()] == ["log_folder"]


def test_a_folder_that_holds_something_is_refused_and_left_alone(spark: SparkSession, tmp_path: Path):
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(OutputError, match="empty"):
        generate_benchmark_log(spark, tmp_path, SETTINGS)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (
            ["--events", "20e3", "--clients", "5"],
            "expected --events, which makes a benchmark log, or --clients and --days",
        ),
        (
            ["--events", "20e3", "--days", "60"],
            "expected --events, which makes a benchmark log, or --clients and --days",
        ),
        (["--events", "5"], "n_events: expected 10000 or more, found 5"),
    ],
)
def test_wrong_flags_are_refused(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, flags: list[str], expected: str
) -> None:
    assert cli.main(["generate", "--out", str(tmp_path / "out"), *flags]) == cli.BAD_INPUT
    assert expected in caplog.text


def test_a_number_of_events_is_whole(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["generate", "--out", str(tmp_path / "out"), "--events", "1.5"])
    assert "whole number" in capsys.readouterr().err
