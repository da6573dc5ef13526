"""The ingest stage: every source row ends in one table or in the quarantine."""

import datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession

from conf.load import load_config
from jobs import ingest_events
from jobs.io import read_table
from jobs.workspace import Workspace
from schemas.errors import InputError
from schemas.tables import PRODUCT_PROPERTIES, QUARANTINE

CONFIG = load_config("demo")
CODES = "[" + " ".join(["7"] * 16) + "]"
NOON = "2022-06-01 12:00:00"


def write(path: Path, **columns: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    write(folder / "product_buy.parquet", client_id=[1, None, 2], timestamp=[NOON, NOON, "noon"], sku=[1, 1, 1])
    write(folder / "search_query.parquet", client_id=[1, 1], timestamp=[NOON] * 2, query=[CODES, "[1 2]"])
    for part in range(2):
        write(folder / "page_visit.parquet" / f"part-{part}.parquet", client_id=[1], timestamp=[NOON], url=[part])
    write(
        folder / "product_properties.parquet",
        sku=[1, 2],
        category=pa.array([None, 3], "int64"),
        price=[5, 6],
        name=[CODES, CODES],
    )
    return folder


def ingest(spark: SparkSession, data: Path, workspace: Workspace) -> Workspace:
    place = Workspace(workspace.out, data)
    ingest_events.run(spark, CONFIG, place)
    return place


def test_rows_in_are_rows_kept_plus_rows_quarantined_for_every_source(
    spark: SparkSession, data: Path, workspace: Workspace
) -> None:
    for _ in range(2):  # a second run replaces, it does not append
        place = ingest(spark, data, workspace)
        kept = {name: read_table(spark, place, CONFIG.events_table(name)).count() for name in CONFIG.behaviours}
        assert kept == {
            "product_buy": 1, "add_to_cart": 0, "remove_from_cart": 0, "page_visit": 2, "search_query": 1
        }  # fmt: skip
        rows = read_table(spark, place, QUARANTINE).orderBy("source", "reason").collect()
        assert [(row["source"], row["reason"]) for row in rows] == [
            ("product_buy", "client_id is null"),
            ("product_buy", "timestamp is not yyyy-MM-dd HH:mm:ss"),
            ("search_query", "query is not 16 numbers 0-255 in brackets"),
        ]
        assert read_table(spark, place, PRODUCT_PROPERTIES).count() == 2


def test_events_are_typed_as_their_contract_says(spark: SparkSession, data: Path, workspace: Workspace) -> None:
    place = ingest(spark, data, workspace)
    (row,) = read_table(spark, place, CONFIG.events_table("search_query")).collect()
    assert tuple(row) == (1, datetime.datetime(2022, 6, 1, 12), CODES)


def test_no_good_purchase_is_told_before_any_table_is_written(
    spark: SparkSession, data: Path, workspace: Workspace
) -> None:
    write(data / "product_buy.parquet", client_id=[1], timestamp=["noon"], sku=[1])
    with pytest.raises(InputError, match="expected purchases, found none"):
        ingest(spark, data, workspace)
    assert not (workspace.out / "tables").exists()


def test_a_row_lost_between_source_and_table_is_noticed(
    spark: SparkSession, data: Path, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ingest_events, "count_rows", lambda path: 99)
    with pytest.raises(InputError, match="99 source rows, but 1 kept and 2 quarantined"):
        ingest(spark, data, workspace)
