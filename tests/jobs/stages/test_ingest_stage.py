"""The ingest stage: every source row ends in one table or in the quarantine."""

import datetime
import re
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from damage import damage_pages
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from conf.inputs import IngestSettings
from conf.load import load_config
from jobs.cli import main
from jobs.inputs.sources import Source
from jobs.stages import ingest as ingest_events
from jobs.stages.ingest import Counts
from jobs.storage.delta_tables import read_table, write_table
from jobs.storage.metrics_log import read_metrics
from jobs.storage.provenance import read_records
from jobs.storage.workspace import Workspace
from jobs.transforms import duplicates
from schemas.errors import ConfigError, InputError
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


def ingest(spark: SparkSession, data: Path, workspace: Workspace, *overrides: str) -> Workspace:
    place = Workspace(workspace.out, data)
    ingest_events.run(spark, load_config("demo", ["ingest.max_quarantined_share=1", *overrides]), place)
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
    (query,) = read_table(spark, place, CONFIG.events_table("search_query")).collect()
    assert tuple(query) == (1, datetime.datetime(2022, 6, 1, 12), CODES)
    assert figures(place, "search_query") == {"rows_in": 2, "rows_kept": 1, "rows_quarantined": 1, "duplicates": 0}
    assert figures(place, "product_properties") == {"rows_in": 2, "rows_kept": 2, "rows_quarantined": 0}


def test_no_good_purchase_is_told_before_any_table_is_written(
    spark: SparkSession, data: Path, workspace: Workspace
) -> None:
    write(data / "product_buy.parquet", client_id=[1], timestamp=["noon"], sku=[1])
    expected = r"none that keeps the contract: 1 timestamp is not .*without T, Z, .*; for example .*timestamp='noon'"
    with pytest.raises(InputError, match=expected):
        ingest(spark, data, workspace)
    assert not (workspace.out / "tables").exists()


def test_purchases_of_which_a_mapping_selects_no_row_are_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    nothing: Any = SimpleNamespace(isEmpty=lambda: True)
    table = CONFIG.events_table("product_buy")
    purchases = Source("inputs.product_buy (orders)", table, lambda: 0, lambda: nothing, lambda: nothing)
    monkeypatch.setattr(ingest_events, "collect_reasons", lambda _: {})
    with pytest.raises(InputError, match=r"^inputs\.product_buy \(orders\): expected purchases, found no row; "):
        ingest_events.check_any_purchase(purchases)


def test_a_configuration_without_purchases_is_told_before_any_table_is_written(
    spark: SparkSession, data: Path, workspace: Workspace
) -> None:
    visits = CONFIG.restricted_to("page_visit")
    with pytest.raises(ConfigError, match="expected the behaviour product_buy"):
        ingest_events.run(spark, visits, Workspace(workspace.out, data))
    assert not (workspace.out / "tables").exists()


def test_purchases_of_unknown_skus_alone_are_told_and_found_in_the_quarantine(
    spark: SparkSession, data: Path, workspace: Workspace
) -> None:
    write(data / "product_buy.parquet", client_id=[1, 2], timestamp=[NOON] * 2, sku=[8, 9])
    expected = r"expected purchases, found none .*: 2 sku is not in product_properties \(.*ingest.unknown_sku=keep\)"
    with pytest.raises(InputError, match=expected):
        ingest(spark, data, workspace, "ingest.unknown_sku=quarantine")
    rows = read_table(spark, workspace, QUARANTINE).filter("source = 'product_buy'").collect()
    assert [row["reason"] for row in rows] == ["sku is not in product_properties"] * 2


def test_sources_with_too_many_rejects_stop_the_stage_with_their_reasons(
    spark: SparkSession, data: Path, workspace: Workspace, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="jobs")
    times = ["2022-06-01T12:00:00Z"] * 3 + [NOON, NOON]
    write(data / "page_visit.parquet" / "part-0.parquet", client_id=[1] * 5, timestamp=times, url=[1, 2, 3, 4, None])
    arguments = ["ingest", "--data", str(data), "--out", str(workspace.out), "--config", "demo", "--verbose"]
    assert main([*arguments, "--set", "ingest.max_quarantined_share=0.5"]) == 2
    (message,) = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert re.search(r"product_buy\.parquet: expected at most 50.0% .* found 2 of 3 \(66.7%\): 1 client_id is", message)
    assert re.search(r"page_visit\.parquet: .* found 4 of 6 \(66.7%\): 3 timestamp is not .*, 1 url is null", message)
    assert message.count("for example client_id=1 timestamp='2022-06-01T12:00:00Z' url=1; client_id=1 ") == 1
    assert "search_query" not in message, "half of its rows are as many as may be"
    assert read_records(workspace)["ingest"].made is None
    assert "search_query: quarantined: 1 query is not 16 numbers" in caplog.text


def test_as_many_rejects_as_the_share_allows_are_fine(tmp_path: Path) -> None:
    settings = IngestSettings(max_quarantined_share=0.29)  # of 100 rows, 28.999999999999996 as a product
    source = Source(str(tmp_path), CONFIG.events_table("page_visit"), count=None, good=None, bad=None)
    ingest_events.check_few_rejected([source], [Counts(100, 71, None, 0)], {}, None, settings)
    ingest_events.check_few_rejected([source], [Counts(0, 0, None, 0)], {}, None, settings)


def test_settings_remove_duplicates_and_quarantine_events_of_unknown_skus(
    spark: SparkSession, data: Path, workspace: Workspace, caplog: pytest.LogCaptureFixture
) -> None:
    write(data / "product_buy.parquet", client_id=[1, 1, 1, 2, None], timestamp=[NOON] * 5, sku=[1, 1, 1, 9, 1])
    with caplog.at_level("INFO", logger="jobs"):
        place = ingest(spark, data, workspace, "ingest.drop_duplicates=true", "ingest.unknown_sku=quarantine")
    assert [row["sku"] for row in read_table(spark, place, CONFIG.events_table("product_buy")).collect()] == [1]
    rows = read_table(spark, place, QUARANTINE).filter("source = 'product_buy'").collect()
    assert {row["reason"] for row in rows} == {"client_id is null", "sku is not in product_properties"}
    assert figures(place, "product_buy") == {"rows_in": 5, "rows_kept": 1, "rows_quarantined": 2, "duplicates": 2}
    assert "product_buy: 5 rows = 1 kept + 2 quarantined + 2 exact duplicates removed" in caplog.text


@pytest.fixture
def buys(spark: SparkSession, data: Path) -> Source:
    """Three equal purchases, and rejects that fail when they are read."""
    write(data / "product_buy.parquet", client_id=[1, 1, 1], timestamp=[NOON] * 3, sku=[1, 1, 1])
    good = spark.createDataFrame([(1, NOON, 1)] * 3, "client_id bigint, timestamp string, sku bigint")
    bad = spark.range(1).select(
        F.lit("product_buy").alias("source"), F.raise_error(F.lit("read again")).cast("string").alias("reason"),
        F.lit("").alias("row"),
    )  # fmt: skip
    typed = good.withColumn("timestamp", F.col("timestamp").cast("timestamp_ntz"))
    table = CONFIG.events_table("product_buy")
    return Source(str(data / "product_buy.parquet"), table, lambda: 3, lambda: typed, lambda: bad)


def test_rows_that_share_a_hash_do_not_disturb_the_balance_of_rows(
    spark: SparkSession,
    data: Path,
    workspace: Workspace,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    monkeypatch.setattr(duplicates, "F", SimpleNamespace(**vars(F) | {"xxhash64": lambda *_: F.lit(7).cast("bigint")}))
    write(data / "product_buy.parquet", client_id=[1, 2, 3, 3], timestamp=[NOON] * 4, sku=[1] * 4)
    ingest(spark, data, workspace, "ingest.drop_duplicates=true")
    assert "product_buy: 4 rows = 3 kept + 0 quarantined + 1 exact duplicates removed" in caplog.text


@pytest.mark.parametrize(
    ("settings", "counts"),
    [
        (IngestSettings(), Counts(3, 3, n_duplicates=None, n_dropped=0)),  # counted later, all behaviours at once
        (IngestSettings(drop_duplicates=True, count_duplicates=False), Counts(3, 1, n_duplicates=2, n_dropped=2)),
    ],
)
def test_exact_duplicates_are_kept_unless_the_settings_say_otherwise(
    buys: Source, workspace: Workspace, settings: IngestSettings, counts: Counts
) -> None:
    found = ingest_events.write_source(buys, settings, partial(write_table, workspace=workspace))
    assert found == counts
    assert found.n_missing == 0


def test_a_clean_source_is_not_read_for_rejects(spark: SparkSession, buys: Source, workspace: Workspace) -> None:
    ingest_events.write_quarantine(spark, [buys], [Counts(3, 3, None, 0)], workspace, ingest=0)
    assert read_table(spark, workspace, QUARANTINE).count() == 0
    with pytest.raises(Exception, match="read again"):
        ingest_events.write_quarantine(spark, [buys], [Counts(3, 2, None, 0)], workspace, ingest=0)


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        (Counts(99, 1, None, 0), "its 99 source rows in the tables, found 1 kept, 1 quarantined and 0 removed"),
        (Counts(2, 2, None, 0), "its 2 source rows in the tables, found 2 kept, 1 quarantined and 0 removed"),
        (Counts(5, 3, 2, 2), "its 5 source rows in the tables, found 3 kept, 1 quarantined and 2 removed"),
    ],
    ids=["lost", "twice", "dropped_and_quarantined"],
)
def test_a_row_that_goes_nowhere_or_to_two_places_is_noticed(
    buys: Source, workspace: Workspace, counts: Counts, expected: str
) -> None:
    reasons = {"product_buy": {"timestamp is null": 1}}
    with pytest.raises(InputError, match=rf"product_buy\.parquet: expected {expected}.*Run ingest again"):
        ingest_events.check_no_row_lost([buys], [counts], reasons, workspace)


def test_a_damaged_file_is_named_and_its_former_table_stays(
    spark: SparkSession, data: Path, workspace: Workspace, caplog: pytest.LogCaptureFixture
) -> None:
    table = CONFIG.events_table("page_visit")
    write_table(spark.createDataFrame([(1, None, 1)], table.ddl), workspace, table)
    damage_pages(data / "page_visit.parquet" / "part-1.parquet")
    assert main(["ingest", "--data", str(data), "--out", str(workspace.out), "--config", "demo", "--verbose"]) == 2
    (record,) = [record for record in caplog.records if record.levelname == "ERROR"]
    assert "page_visit.parquet/part-1.parquet: expected a file that can be read" in record.getMessage()
    assert "copy or write the file again" in record.getMessage()
    assert [tuple(row) for row in read_table(spark, workspace, table).collect()] == [(1, None, 1)]


def test_damaged_purchases_are_told_before_any_table_is_written(
    spark: SparkSession, data: Path, workspace: Workspace
) -> None:
    damage_pages(data / "product_buy.parquet")
    with pytest.raises(InputError, match=r"product_buy\.parquet: expected a file that can be read"):
        ingest(spark, data, workspace)
    assert not (workspace.out / "tables").exists()


def figures(place: Workspace, name: str) -> dict[str, int]:
    """The newest counts of a source in ``metrics.jsonl``."""
    *_, line = [line for line in read_metrics(place.metrics) if line.get("source") == name]
    return {key.removeprefix("ingest/"): value for key, value in line.items() if key.startswith("ingest/")}
