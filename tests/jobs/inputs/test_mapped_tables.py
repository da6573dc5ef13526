"""A user's own tables, by a mapping, become the typed tables of the challenge's files."""

import gzip
import json
import re
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from frames import rows_of
from no_work import leave_out_work
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from conf.load import load_config
from conf.mappings import InputSettings
from jobs.inputs import mapped_tables
from jobs.inputs.ids import refuse_alike
from jobs.inputs.mapped_tables import MappedInputs
from jobs.pipeline.runner import run_stages
from jobs.profiles.composition import with_keys
from jobs.stages import ingest as ingest_events
from jobs.storage.delta_tables import read_table
from jobs.storage.metrics_log import append_metrics, read_metrics
from jobs.storage.workspace import Workspace
from schemas.errors import InputError
from schemas.tables import IDS, PRODUCT_PROPERTIES, QUARANTINE

NOON = datetime(2022, 6, 1, 12)


SPREADSHEETS = """
shared: {path: buys.csv, delimiter: ";"}
inputs:
  product_buy: {client_id: User ID, timestamp: TIME, item: Sku}
  product_properties: {sku: Sku, price: {expression: "replace(Price, ',', '.')", as: amount}}
  page_visit: {path: visits.csv.gz, delimiter: ",", client_id: user, timestamp: at, item: page}
"""


def test_csv_of_spreadsheets_and_other_encodings_is_read_or_has_a_reason(spark: SparkSession, tmp_path: Path) -> None:
    bought = ["User ID;TIME;Sku;Price", '0012;2022-06-01T14:00:00+02:00;007;"12,50"', "12;2022-06-01 12:00;07;9"]
    (tmp_path / "buys.csv").write_text("\ufeff" + "\r\n".join(bought), newline="")
    visits = ["user,at,page", '0012,2022-06-01,"a, ""b"""', "Grün,2022-06-01,a", '12,2022-06-01,"a', 'b"', "null,,a"]
    (tmp_path / "visits.csv.gz").write_bytes(gzip.compress("\n".join(visits).encode("latin-1")))
    (tmp_path / "own.yaml").write_text(SPREADSHEETS)
    config = load_config("demo", inputs=str(tmp_path / "own.yaml"))
    inputs = MappedInputs(spark, config, Workspace(tmp_path / "out", tmp_path))
    assert rows_of(inputs.events("product_buy").good()) == [("0012", NOON, "007"), ("12", NOON, "07")]
    assert rows_of(inputs.products().good(), "sku", "price") == [("007", 99), ("07", 0)]
    visit = inputs.events("page_visit")
    day = datetime(2022, 6, 1)
    assert rows_of(visit.good()) == [("0012", day, 'a, "b"'), ("12", day, "a")]
    reasons = sorted((row["reason"], json.loads(row["row"])["user"]) for row in visit.bad().collect())
    assert reasons == [
        ("client_id is not UTF-8", "Gr\ufffdn"), ("the line is not as the format has it", 'b"'),
        ("timestamp is null", "null"),
    ]  # fmt: skip


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """Orders with text ids as JSON lines, and products with amounts as Parquet."""
    folder = tmp_path / "shop"
    folder.mkdir()
    write_orders(folder, ("bob", "fan"), ("amy", "bed"))
    products = {"code": ["fan", "bed", "cup"], "group": ["home", "home", None], "cost": [10.0, 20.0, 30.0]}
    pq.write_table(pa.table(products | {"title": ["Blue fan", "", None]}), folder / "products.parquet")
    return folder


def write_orders(folder: Path, *pairs: tuple[str | None, str]) -> None:
    lines = [json.dumps({"who": who, "at": "2022-06-01T14:00", "what": what}) for who, what in pairs]
    (folder / "orders.jsonl").write_text("\n".join(lines))


def mapping(folder: Path, **inputs: dict[str, Any]) -> str:
    buys = {"path": "orders.jsonl", "client_id": "who", "timestamp": "at", "item": "what"}
    products = {"path": "products.parquet", "sku": "code", "category": "group",
                "price": {"column": "cost", "as": "amount"}, "name": {"column": "title", "as": "text"}}  # fmt: skip
    own = {"product_buy": buys | inputs.pop("product_buy", {}), "product_properties": products} | inputs
    path = folder / "shop.yaml"
    path.write_text(yaml.safe_dump({"inputs": own, "timezone": "Europe/Warsaw"}))
    return str(path)


def ingest(spark: SparkSession, folder: Path, workspace: Workspace, *settings: str, **inputs: Any) -> Workspace:
    place = Workspace(workspace.out, folder)
    settings = ("ingest.max_quarantined_share=1", *settings)
    ingest_events.run(spark, load_config("demo", settings, mapping(folder, **inputs)), place)
    return place


def ids_of(spark: SparkSession, place: Workspace, kind: str) -> dict[str, int]:
    ids = read_table(spark, place, IDS).filter(F.col("kind") == kind)
    return {row["key"]: row["id"] for row in ids.collect()}


@pytest.mark.slow
def test_texts_get_integers_that_stay_when_more_data_comes(
    spark: SparkSession, shop: Path, workspace: Workspace
) -> None:
    place = ingest(spark, shop, workspace)
    assert ids_of(spark, place, "client_id") == {"amy": 1, "bob": 2}
    assert ids_of(spark, place, "sku") == {"bed": 1, "cup": 2, "fan": 3}
    buys = load_config("demo").events_table("product_buy")
    assert rows_of(read_table(spark, place, buys)) == [(1, NOON, 1), (2, NOON, 3)]
    products = read_table(spark, place, PRODUCT_PROPERTIES)
    assert rows_of(products.drop("name"))[:2] == [(1, 1, 49), (2, None, 99)]
    names = {row["sku"]: row["name"] for row in products.collect()}
    assert names[3].count(" ") == 15
    assert names[1] is names[2] is None

    write_orders(shop, ("bob", "fan"), ("abe", "ant"), (None, "fan"))
    for _ in range(2):  # run again without new texts, it gives the same
        ingest(spark, shop, workspace, "ingest.unknown_sku=quarantine")
        assert ids_of(spark, place, "client_id") == {"amy": 1, "bob": 2, "abe": 3}
    assert rows_of(read_table(spark, place, buys)) == [(2, NOON, 3)]
    rejects = read_table(spark, place, QUARANTINE).orderBy("reason").collect()
    assert [row["reason"] for row in rejects] == ["client_id is null", "sku is not in product_properties"]
    assert json.loads(rejects[1]["row"]) == {"who": "abe", "at": "2022-06-01T14:00", "what": "ant"}

    write_orders(shop, ("bob ", "fan"))
    with pytest.raises(InputError, match=r"found 'bob' and 'bob '; .*; one is of an earlier ingest: write it as there"):
        ingest(spark, shop, workspace)

    clients = spark.createDataFrame([(0, 2), (1, 9)], "position bigint, client_id bigint")
    keys = with_keys(clients, read_table(spark, place, IDS)).orderBy("position").collect()
    assert [row["client_key"] for row in keys] == ["bob", None]

    buys = {"item": {"expression": "cast(length(what) as int)"}}
    products = {"path": "products.parquet", "sku": {"expression": "length(code)"}}
    with pytest.raises(InputError, match=r"expected sku as keys, as earlier ingests .* took them, found integers"):
        ingest(spark, shop, workspace, product_buy=buys, product_properties=products)


def test_ids_that_differ_by_white_space_alone_are_refused(
    spark: SparkSession, shop: Path, workspace: Workspace
) -> None:
    write_orders(shop, ("bob", "fan"), ("bob ", "bed"))
    with pytest.raises(
        InputError, match=r"client_id: expected ids that differ by more .* found 'bob' and 'bob '"
    ) as refused:
        ingest(spark, shop, workspace)
    advice = re.search(r"by expression: (regexp_replace\(.*?''\))", str(refused.value))
    assert advice
    # line breaks, Unicode's blanks and those of no width too
    padded = ["bob\t", "\xa0bob", "bob\u200b", "\ufeffbob\n", "bob\u3000"]
    for name in padded:
        with pytest.raises(InputError, match="client_id: expected ids that differ by more"):
            refuse_alike(spark.createDataFrame([(1, "client_id", "bob", 1), (1, "client_id", name, 2)], IDS.ddl))
    write_orders(shop, *((name, "fan") for name in [*padded, "\xa0"]))
    who = {"expression": advice.group(1).replace("COLUMN", "who")}
    inputs = MappedInputs(
        spark, load_config("demo", inputs=mapping(shop, product_buy={"client_id": who})), Workspace(workspace.out, shop)
    )
    buys = inputs.events("product_buy")
    assert buys
    assert rows_of(buys.good(), "client_id") == [("bob",)] * len(padded)
    assert rows_of(buys.bad(), "reason") == [("client_id is null",)]
    # of a column with a gap in pandas
    write_orders(shop, ("7", "fan"), ("7.0", "bed"), ("8.10", "bed"), ("8.1", "bed"))
    with pytest.raises(InputError, match=r"\.0 behind a number, found '7' and '7\.0'; correct them"):
        ingest(spark, shop, workspace)
    lines = [{"who": who, "at": "2022-06-01 12:00:00", "what": "fan"} for who in (541312140, 541312140.0)]
    (shop / "orders.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    with pytest.raises(InputError, match=r"found '5\.4131214E8' and '541312140'; .* of floats in JSON: cast"):
        ingest(spark, shop, workspace)


def test_files_of_json_that_were_joined_without_a_line_break_are_refused(
    spark: SparkSession, shop: Path, workspace: Workspace
) -> None:
    part = "\n".join(json.dumps({"who": who, "at": "2022-06-01 12:00:00", "what": "}{"}) for who in ("bob", "amy"))
    (shop / "orders.jsonl").write_text(part + part)  # the third line has two objects
    with pytest.raises(InputError, match=r"found another one behind the first: '{\"who\": \"bob\".*write a line break"):
        ingest(spark, shop, workspace)
    (shop / "orders.jsonl").write_text(f"{part}\n{part}")
    ingest(spark, shop, workspace)
    assert read_table(spark, workspace, load_config("demo").events_table("product_buy")).count() == 4


def test_a_delta_table_is_read_at_one_version(spark: SparkSession, shop: Path, workspace: Workspace) -> None:
    for who in ("bob", "amy"):
        orders = spark.createDataFrame([(who, NOON, "fan")], "who string, at timestamp_ntz, what string")
        orders.write.format("delta").mode("overwrite").save(str(shop / "orders"))
    spark.sql(f"CREATE TABLE shop_orders USING delta LOCATION '{shop}/orders'")
    sources: list[tuple[dict[str, Any], str]] = [
        ({"path": "orders"}, "amy"),
        ({"path": "orders", "version": 0}, "bob"),
        ({"path": None, "table": "default.shop_orders"}, "amy"),
        ({"path": None, "table": "spark_catalog.default.shop_orders", "version": 0}, "bob"),
    ]
    try:
        for source, who in sources:
            config = load_config("demo", inputs=mapping(shop, product_buy=source))
            inputs = MappedInputs(spark, config, Workspace(workspace.out, shop))
            assert [row["client_id"] for row in inputs.events("product_buy").good().collect()] == [who]
    finally:
        spark.sql("DROP TABLE shop_orders")
    read = [line["read/version"] for line in read_metrics(workspace.metrics) if "read" in line]
    assert read == [1, 0, 1, 0]
    features = {name: ["of-tomorrow"] for name in ("readerFeatures", "writerFeatures")}
    protocol = {"protocol": {"minReaderVersion": 3, "minWriterVersion": 7, **features}}
    (shop / "orders" / "_delta_log" / f"{2:020}.json").write_text(json.dumps(protocol))
    for source in ({"path": "orders"}, {"path": "orders", "as_of": "2099-01-01 00:00:00"}):
        config = load_config("demo", inputs=mapping(shop, product_buy=source))
        with pytest.raises(InputError, match=r"product_buy: expected rows that Spark can read .*of-tomorrow"):
            MappedInputs(spark, config, Workspace(workspace.out, shop))


def test_all_inputs_of_a_delta_table_read_one_version_of_it(
    spark: SparkSession, shop: Path, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    orders = spark.createDataFrame([("bob", NOON, "fan")], "who string, at timestamp_ntz, what string")
    orders.write.format("delta").save(str(shop / "orders"))
    found = iter([0, 1])  # as if rows came while the inputs are opened

    def find_version(_: SparkSession, settings: InputSettings, __: object) -> int | None:
        return next(found) if settings.path == "orders" else None

    monkeypatch.setattr(mapped_tables, "find_version", find_version)
    own = {"path": "orders", "where": "who = 'bob'"}
    added = own | {"where": "who = 'amy'"} | {"client_id": "who", "timestamp": "at", "item": "what"}
    config = load_config("demo", inputs=mapping(shop, product_buy=own, add_to_cart=added))
    MappedInputs(spark, config, Workspace(workspace.out, shop))
    assert [line["read/version"] for line in read_metrics(workspace.metrics) if "read" in line] == [0, 0]


def test_a_run_begins_again_where_a_table_of_a_catalog_has_another_version_and_names_what_has_none(
    spark: SparkSession,
    shop: Path,
    workspace: Workspace,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    orders = spark.createDataFrame([("bob", NOON, "fan")], "who string, at timestamp_ntz, what string")
    orders.write.format("delta").saveAsTable("shop_orders")
    visits = {"path": "s3://shop/visits", "format": "csv", "client_id": "who", "timestamp": "at", "item": "page"}
    own = {"product_buy": {"path": None, "table": "default.shop_orders"}, "page_visit": visits}
    config = load_config("demo", ["encoders.mixed=null"], mapping(shop, **own))

    def read_orders(*_: object) -> None:
        line = {"read": "default.shop_orders", "read/version": version, "read/as_of": None}
        append_metrics(workspace.metrics, line)

    ran = leave_out_work(monkeypatch, read_orders)
    try:
        for version, expected in ((0, ["ingest", "split"]), (0, []), (1, ["ingest", "split"]), (1, [])):
            if version and expected:
                orders.write.format("delta").mode("append").saveAsTable("shop_orders")
            ran.clear()
            run_stages(spark, config, Workspace(workspace.out, shop), last="split")
            assert ran == expected
    finally:
        spark.sql("DROP TABLE shop_orders")
    assert "ingest runs again: expected the tables that it read, found default.shop_orders at version 1, not 0" in (
        caplog.text
    )
    assert "s3://shop/visits: whether it has changed since ingest is not known; --from ingest" in caplog.text


def test_a_product_without_a_row_of_a_time_is_quarantined(
    spark: SparkSession, shop: Path, workspace: Workspace
) -> None:
    (shop / "log.csv").write_text(
        "code,kind,at\n1,5,2022-06-02\n1,9,03.06.2022\n1,8,2022-06-01\n1,7,2150-01-01\n2,6,01.06.2022\n2,4,\n3,6,\n"
        "007,1,2022-06-01\n7,2,2022-06-02\n"
    )
    log = {"path": "log.csv", "sku": "code", "category": {"column": "kind", "as": "integer"}, "latest_by": "at"}
    config = load_config("demo", inputs=mapping(shop, product_properties=log))
    source = MappedInputs(spark, config, Workspace(workspace.out, shop)).products()
    assert rows_of(source.good(), "sku", "category") == [("007", 1), ("1", 5), ("7", 2)]
    assert sorted((row["reason"], row["row"]) for row in source.bad().collect()) == [
        ("latest_by is not a time of ISO 8601", '{"code":"2","kind":"6","at":"01.06.2022"}'),
        ("latest_by is null", '{"code":"3","kind":"6"}'),
    ]
    # as an integer 007 is 7: one sku, whose latest row is kept
    log |= {"sku": {"column": "code", "as": "integer"}}
    buys = {"path": "log.csv", "client_id": "kind", "timestamp": "at", "item": {"column": "code", "as": "integer"}}
    config = load_config("demo", inputs=mapping(shop, product_properties=log, product_buy=buys))
    source = MappedInputs(spark, config, Workspace(workspace.out, shop)).products()
    assert rows_of(source.good(), "sku", "category") == [(1, 5), (7, 2)]


def test_times_as_spark_writes_them_to_parquet_are_read(spark: SparkSession, shop: Path, workspace: Workspace) -> None:
    at = pa.array([NOON, NOON.replace(microsecond=5)], pa.timestamp("us"))
    orders = pa.table({"who": ["bob", "amy"], "what": ["fan", "bed"], "at": at})
    pq.write_table(orders, shop / "orders.parquet", use_deprecated_int96_timestamps=True)
    visits = orders.set_column(2, "at", at.cast(pa.timestamp("ns")))
    pq.write_table(visits, shop / "visits.parquet", version="2.6")  # pandas' own, which Spark reads as numbers
    columns = {"client_id": "who", "timestamp": "at", "item": "what"}
    inputs = {"product_buy": {"path": "orders.parquet"}, "page_visit": {"path": "visits.parquet", **columns}}
    config = load_config("demo", inputs=mapping(shop, **inputs))
    found = MappedInputs(spark, config, Workspace(workspace.out, shop))
    times = {name: rows_of(found.events(name).good(), "timestamp") for name in inputs}
    hours = {"product_buy": NOON, "page_visit": NOON.replace(hour=10)}  # an instant, as in Spark; a wall time in Warsaw
    assert times == {name: [(noon,), (noon.replace(microsecond=5),)] for name, noon in hours.items()}


def test_hive_partitions_are_text_as_they_are_written_and_a_condition_that_chooses_nothing_is_told(
    spark: SparkSession, shop: Path, workspace: Workspace, caplog: pytest.LogCaptureFixture
) -> None:
    line = b"bob,2022-06-01 12:00:00\n"
    for file, content in (("branch=007/000000_0.gz", gzip.compress(line)), ("branch=7/log_000000000000", line)):
        (shop / "log" / file).parent.mkdir(parents=True)
        (shop / "log" / file).write_bytes(content)

    def log(**more: Any) -> dict[str, Any]:
        return {"path": "log", "format": "csv", "header": ["who", "at"], "client_id": "who", "timestamp": "at", **more}

    visits, adds = log(item={"column": "branch", "as": "key"}), log(item="branch", where="branch = '8'")
    ingest(spark, shop, workspace, page_visit=visits, add_to_cart=adds)
    ids = read_table(spark, workspace, IDS).filter("kind = 'url'")
    assert sorted(row["key"] for row in ids.collect()) == ["007", "7"]
    assert "add_to_cart: no row in " in caplog.text
    assert "page_visit: no row in " not in caplog.text


@pytest.mark.parametrize("path", ["log", "log/_branch=*"])
def test_folders_of_partitions_whose_column_begins_with_an_underscore_are_read(
    spark: SparkSession, shop: Path, workspace: Workspace, path: str
) -> None:
    for folder in ("_branch=1", "_branch=2", "_temporary"):  # what a writer leaves behind is no partition
        (shop / "log" / folder).mkdir(parents=True)
        pq.write_table(pa.table({"who": [folder], "at": [NOON]}), shop / "log" / folder / "a.parquet")
    columns = {"client_id": "who", "timestamp": "at", "item": {"column": "_branch", "as": "integer"}}
    config = load_config("demo", inputs=mapping(shop, page_visit={"path": path, **columns}))
    found = MappedInputs(spark, config, Workspace(workspace.out, shop))
    rows = rows_of(found.events("page_visit").good(), "client_id", "url")
    assert sorted(rows) == [("_branch=1", 1), ("_branch=2", 2)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"where": "colour = 'red'"}, r"inputs\.product_buy: expected rows that Spark can read .*colour"),
        ({"where": "who"}, r"inputs\.product_buy\.where: expected a condition, found string in 'who'"),
        ({"where": "who = = 'bob'"}, r"product_buy: expected rows that Spark can read .*PARSE_SYNTAX_ERROR"),
        ({"item": "sku"}, r"product_buy\.item: expected the column 'sku' in orders\.jsonl, found at, what, who"),
        ({"path": None, "table": "shop.gone"}, r"from shop\.gone, found: .*shop"),
        ({"where": "what > 0"}, r"product_buy: expected text compared with text"),
        ({"where": "user > 'a'"}, r"product_buy: expected the column 'user' in orders\.jsonl, found at, what, who"),
        ({"item": {"expression": "`current_user`"}}, r"item: expected the column 'current_user' in orders\.jsonl"),
        ({"expand": "what"}, r"inputs\.product_buy\.expand: expected an array in 'what', found string"),
        ({"timestamp": {"expression": "true"}}, r"timestamp: expected a time, a date or text, .* found boolean"),
        ({"item": {"expression": "cast(1 as double)"}}, r"item: expected integers or text in 'cast.*found double"),
        ({"item": {"column": "what", "as": "integer"}}, "expected purchases, found none .*2 sku is not a whole number"),
    ],
)  # fmt: skip
def test_what_spark_finds_wrong_is_told_by_input_before_anything_is_written(
    spark: SparkSession, shop: Path, workspace: Workspace, changes: dict[str, Any], message: str
) -> None:
    products = {"path": "products.parquet", "sku": {"expression": "1"}} if "integer" in str(changes) else None
    with pytest.raises(InputError, match=message):
        ingest(spark, shop, workspace, product_buy=changes, **({"product_properties": products} if products else {}))
    assert not (workspace.out / "tables").exists()
