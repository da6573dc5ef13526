"""Files and tables of a mapping as Spark reads them, and the columns that its expressions name."""

from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from frames import rows_of
from pyspark.sql import SparkSession

from conf.mappings import ColumnSettings, InputSettings
from jobs.inputs.input_files import find_input
from jobs.inputs.readers import MALFORMED, find_column, read_input, select_rows
from schemas.errors import InputError

NOON = datetime(2022, 6, 1, 12)


def test_columns_of_several_types_are_one_where_they_can_be_and_refused_by_name_where_they_are_read(
    spark: SparkSession, tmp_path: Path
) -> None:
    nanos, micros, brands = pa.timestamp("ns"), pa.timestamp("us"), pa.array(["b"])
    months = [
        {"user": pa.array([7], pa.int32()), "at": pa.array([NOON], micros), "brand": brands, "size": pa.array([1.5])},
        {"user": pa.array([2**40]), "at": pa.array([NOON], nanos), "brand": pa.nulls(1), "size": pa.array([2])},
        {"user": pa.array([9], pa.int32()), "at": pa.array([None], micros), "brand": brands.dictionary_encode()},
    ]
    (tmp_path / "log").mkdir()
    for number, month in enumerate(months):
        month["note"] = pa.array([number]) if number else pa.array(["n"])  # which nothing reads
        pq.write_table(pa.table(month), tmp_path / "log" / f"{number}.parquet")
    settings = InputSettings(path=str(tmp_path / "log"), timestamp=ColumnSettings("at"), where="brand is not null")
    rows = read_input(spark, "inputs.x", settings, find_input("inputs.x", settings, None))
    assert rows.columns == ["user", "at", "brand", "size"]
    assert rows_of(rows, *rows.columns) == [(7, NOON, "b", 1.5), (9, None, "b", None), (2**40, NOON, None, 2.0)]

    for note in ("note = 'n'", "to_json(struct(*)) <> ''"):
        with pytest.raises(
            InputError, match=r"type of the column 'note', found string in \S*0\.parquet and int64 in \S*1\.parquet"
        ):
            read_input(spark, "inputs.x", replace(settings, where=note), find_input("inputs.x", settings, None))
    settings = replace(settings, item=ColumnSettings("size"))  # an id, which a float would not hold
    with pytest.raises(InputError, match=r"type of the column 'size', found double in .* and int64 in"):
        read_input(spark, "inputs.x", settings, find_input("inputs.x", settings, None))


def test_sparks_own_times_are_instants_also_beside_other_files(spark: SparkSession, tmp_path: Path) -> None:
    def write(name: str, kind: pa.DataType, **more: Any) -> None:
        table = pa.table({"at": pa.array([NOON], kind), "n": pa.array([1], pa.int32() if more else pa.int64())})
        pq.write_table(table, tmp_path / "log" / name, **more)

    (tmp_path / "log").mkdir()
    write("a.parquet", pa.timestamp("us"), use_deprecated_int96_timestamps=True)
    write("b.parquet", pa.timestamp("us", "UTC"))
    settings = InputSettings(path=str(tmp_path / "log"), timestamp=ColumnSettings("at"))
    rows = read_input(spark, "inputs.x", settings, find_input("inputs.x", settings, None))
    assert dict(rows.dtypes) == {"at": "timestamp", "n": "bigint"}
    write("c.parquet", pa.timestamp("us"))
    with pytest.raises(InputError, match=r"column 'at', found timestamp\[us, tz=UTC\] in .* and timestamp\[us\] in"):
        read_input(spark, "inputs.x", settings, find_input("inputs.x", settings, None))
    # Spark reads whole numbers of both, and would take one zone's for the other's
    for name, kind in (("a", pa.timestamp("ns")), ("b", pa.timestamp("ns", "UTC")), ("c", pa.timestamp("ns"))):
        write(f"{name}.parquet", kind)
    with pytest.raises(InputError, match=r"column 'at', found timestamp\[ns\] in .* and timestamp\[ns, tz=UTC\] in"):
        read_input(spark, "inputs.x", settings, find_input("inputs.x", settings, None))


def test_only_casts_of_text_to_integers_that_nobody_wrote_are_refused(spark: SparkSession) -> None:
    rows = spark.createDataFrame([("0.59", 5)], "price string, n int")
    for written in (
        "price > 0.0",
        "cast(price as int) > -1",
        "int(price) > -1",
        "n > 3",
        "n = '5'",
        "price in ('1')",
        "n in (1, 2)",
        "n in ('5', '2')",
        "n not in ('5')",
        "price in ('1', null)",
        "price in (date'2022-06-01')",
    ):
        find_column(rows, "inputs.x", ColumnSettings(expression=written), "x.csv")
    refused = ("price > 0", "n > 3 and price <> 1", "price between 0 and 1", "trim(price) = n", "price in (1, 2)")
    # one cast that is written excuses no other, nor does one in a text
    for written in (
        *refused,
        "int(n) > 0 and price not in (1)",
        "int(price) > -1 and price > 0",
        "price > 0 and 'int(' <> ''",
        "int(n) > 0 and price > 0",
    ):
        with pytest.raises(InputError, match=r"inputs\.x: expected text compared with text"):
            find_column(rows, "inputs.x", ColumnSettings(expression=written), "x.csv")


def test_times_of_a_zone_that_spark_would_take_for_utcs_are_refused(spark: SparkSession) -> None:
    rows = spark.createDataFrame([("2022-06-01 12:00:00", NOON, 5)], "text string, at timestamp_ntz, n bigint")
    for written in ("date_trunc('minute', text)", "date_trunc('minute', at)"):
        find_column(rows, "inputs.x", ColumnSettings(expression=written), "x.csv")
        with pytest.raises(InputError, match=r"expected times of Europe/Warsaw, found that Spark takes those in"):
            find_column(rows, "inputs.x", ColumnSettings(expression=written), "x.csv", "Europe/Warsaw")
    for written in ("to_timestamp_ntz(text)", "timestamp_seconds(n)", "at", "concat(text, ':00')"):
        find_column(rows, "inputs.x", ColumnSettings(expression=written), "x.csv", "Europe/Warsaw")


def test_instants_that_spark_would_take_apart_by_utcs_clock_are_refused(spark: SparkSession) -> None:
    rows = spark.sql("select timestamp'2022-06-01 22:30:00Z' as at, timestamp'2022-06-02 22:30:00Z' as later")
    local = ("to_timestamp_ntz(at)", "cast(at as timestamp_ntz)", "to_date(at)", "date_trunc('day', at)")
    for written in (*local, "date_format(at, 'yyyy-MM-dd HH:mm:ss')"):
        find_column(rows, "inputs.x", ColumnSettings(expression=written), "x.parquet")
        with pytest.raises(
            InputError, match=r"found that Spark takes days and hours in .* from UTC's; name the column"
        ):
            find_column(rows, "inputs.x", ColumnSettings(expression=written), "x.parquet", "Europe/Warsaw")
    for written in ("at", "coalesce(at, later)", "at + interval 1 hour", "greatest(at, later)", "cast(at as bigint)"):
        find_column(rows, "inputs.x", ColumnSettings(expression=written), "x.parquet", "Europe/Warsaw")


def test_an_array_without_elements_gives_no_row_and_a_bad_line_stays(spark: SparkSession) -> None:
    rows = spark.createDataFrame(
        [("amy", [1, 2], None), ("bob", [], None), ("eve", None, None), (None, None, "{")],
        f"who string, items array<int>, {MALFORMED} string",
    )
    settings = InputSettings(path="x.json", expand="items")
    found = select_rows(rows, "inputs.x", settings, has_malformed=True).select("who", "items", MALFORMED)
    assert sorted(map(tuple, found.collect()), key=str) == [("amy", 1, None), ("amy", 2, None), (None, None, "{")]


def test_an_array_within_structs_is_expanded(spark: SparkSession) -> None:
    rows = spark.sql(
        "select 'amy' as who, named_struct('cart', named_struct('lines', array(named_struct('sku', 1), "
        "named_struct('sku', 2)), 'n', 3)) as properties union all select 'bob', null"
    )
    settings = InputSettings(path="x.json", expand="properties.cart.lines")
    found = select_rows(rows, "inputs.x", settings, has_malformed=True)
    assert found.columns == rows.columns
    values = found.select("who", "properties.cart.lines.sku", "properties.cart.n").collect()
    assert sorted(map(tuple, values)) == [("amy", 1, 3), ("amy", 2, 3)]
    with pytest.raises(InputError, match=r"expand: expected an array in 'properties\.cart', found struct"):
        select_rows(rows, "inputs.x", InputSettings(path="x.json", expand="properties.cart"), has_malformed=True)
