"""Logs that many have, by the mappings that come with the project."""

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from frames import rows_of
from pyspark.sql import SparkSession

from conf.load import load_config
from jobs.inputs.mapped_tables import MappedInputs
from jobs.stages import ingest as ingest_events
from jobs.storage.delta_tables import read_table
from jobs.storage.workspace import Workspace
from schemas.errors import InputError
from schemas.tables import QUARANTINE

NOON = datetime(2022, 6, 1, 12)


def write_rees46(folder: Path) -> None:
    (folder / "2022-Jun.csv").write_text(
        "event_time,event_type,product_id,category_id,category_code,brand,price,user_id,user_session\n"
        "2022-06-01 12:00:00 UTC,view,11,2103807459595387724,,shiseido,35.79,7,s\n"
        '2022-06-01 12:00:00 UTC,purchase,12,2053013552326770905,appliances.fan,"a ""b"", c",33.20,8,s\n'
        "2022-06-01 11:00:00 UTC,cart,12,2053013552326770905,appliances.fan,aqua,34.20,8,s\n"
        "2022-06-01 12:00:00 UTC,remove_from_cart,12,2053013552326770905,appliances.fan,aqua,31,8,s\n"
    )


def write_retailrocket(folder: Path) -> None:
    (folder / "events.csv").write_text(
        "timestamp,visitorid,event,itemid,transactionid\n"
        "1654084800000,7,view,11,\n1654084800000,8,addtocart,12,\n1654084800000,8,transaction,12,4000\n"
    )


def write_taobao(folder: Path) -> None:
    (folder / "UserBehavior.csv").write_text(
        "7,11,500,pv,1654084800\n8,12,501,cart,1654084800\n8,12,501,buy,1654084800\n8,12,501,fav,1654084800\n"
    )


def write_jdata(folder: Path) -> None:
    lines = [
        "7.0,11,2022-06-01 20:00:00,,1,8,403",
        *(f"8.0,12,2022-06-01 20:00:00,,{kind},8,404" for kind in (2, 3, 4)),
    ]
    for month in (1, 2):
        own = lines[2 * month - 2 : 2 * month]
        text = "\n".join(["user_id,sku_id,time,model_id,type,cate,brand", *own])
        (folder / f"JData_Action_20220{month}.csv").write_text(text)


def ga4_event(name: str, *items: dict[str, Any], user: str = "8", **parameters: str) -> dict[str, Any]:
    values = [{"key": key, "value": {"string_value": text, "int_value": None}} for key, text in parameters.items()]
    own = {"event_timestamp": 1654084800000000, "event_name": name, "user_pseudo_id": user}
    return own | {"event_params": values, "items": list(items)}


def write_ga4(folder: Path) -> None:
    item = {"item_id": "12", "item_name": "Blue fan", "item_category": "Home", "price": 3.0}
    rows = [
        ga4_event("page_view", user="7", page_location="11"),
        *(ga4_event(name, item) for name in ("add_to_cart", "remove_from_cart")),
        ga4_event("purchase", item, item | {"item_id": "13"}),
        ga4_event("view_search_results", search_term="blue fan", user="7"),
    ]
    (folder / "events.json").write_text("\n".join(map(json.dumps, rows)))


VISIT, BOUGHT = [(7, NOON, 11)], [(8, NOON, 12)]
SHAPES: dict[str, tuple[Callable[[Path], None], dict[str, list[tuple[Any, ...]]]]] = {
    "rees46": (
        write_rees46,
        {
            "product_buy": BOUGHT, "add_to_cart": [(8, NOON.replace(hour=11), 12)], "remove_from_cart": BOUGHT,
            "page_visit": VISIT,
        },
    ),
    "retailrocket": (write_retailrocket, {"product_buy": BOUGHT, "add_to_cart": BOUGHT, "page_visit": VISIT}),
    "taobao": (write_taobao, {"product_buy": BOUGHT, "add_to_cart": BOUGHT, "page_visit": VISIT}),
    "jdata": (
        write_jdata, {"product_buy": BOUGHT, "add_to_cart": BOUGHT, "remove_from_cart": BOUGHT, "page_visit": VISIT}
    ),
    "ga4": (
        write_ga4,
        {
            "product_buy": [("8", NOON, "12"), ("8", NOON, "13")], "add_to_cart": [("8", NOON, "12")],
            "remove_from_cart": [("8", NOON, "12")], "page_visit": [("7", NOON, "11")],
        },
    ),
}  # fmt: skip
PRODUCTS = {
    # of two rows at the latest time, the one of the larger values: it is sold for 33.2, not 31
    "rees46": [(11, 2103807459595387724, 99), (12, 2053013552326770905, 0)],
    "taobao": [(11, 500, None), (12, 501, None)],
    "jdata": [(11, 8, None), (12, 8, None)],
    "ga4": [("12", "Home", 0), ("13", "Home", 0)],
}


@pytest.mark.parametrize("name", SHAPES)
def test_a_public_logs_shape_is_read_by_its_name(spark: SparkSession, tmp_path: Path, name: str) -> None:
    write, expected = SHAPES[name]
    write(tmp_path)
    inputs = MappedInputs(spark, load_config("demo", inputs=name), Workspace(tmp_path / "out", tmp_path))
    for behaviour, rows in expected.items():
        source = inputs.events(behaviour)
        assert rows_of(source.good()) == rows, behaviour
        assert source.count() == len(rows), "and none is bad"
    if name in PRODUCTS:
        assert rows_of(inputs.products().good(), "sku", "category", "price") == PRODUCTS[name]
    if name == "ga4":
        (query,) = inputs.events("search_query").good().collect()
        assert query["query"].count(" ") == 15


def test_lines_that_cannot_be_read_are_quarantined_once_and_measured_by_their_file(
    spark: SparkSession, tmp_path: Path, workspace: Workspace
) -> None:
    write_rees46(tmp_path)
    path = tmp_path / "2022-Jun.csv"
    path.write_text(path.read_text() + "2022-06-01 12:00:00 UTC,view,11\n")
    config = load_config("demo", ["ingest.max_quarantined_share=0.3"], inputs="rees46")
    config = config.restricted_to("product_buy", "page_visit")
    place = Workspace(workspace.out, tmp_path)
    ingest_events.run(spark, config, place)
    (reject,) = read_table(spark, place, QUARANTINE).collect()  # half of the purchases' rows, a fifth of the lines
    assert (reject["source"], reject["reason"]) == ("product_buy", "the line is not as the format has it")
    assert json.loads(reject["row"])["line"] == "2022-06-01 12:00:00 UTC,view,11"
    with pytest.raises(InputError, match=r"expected at most 10\.0% of its lines malformed .*found 1 of 5"):
        ingest_events.run(spark, replace(config, ingest=load_config("demo").ingest), place)
