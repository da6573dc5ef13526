"""Columns of every kind become typed values, and each value that is none has its reason."""

from datetime import date, datetime
from decimal import Decimal
from typing import Any

import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from conf.inputs import IngestSettings
from conf.mappings import ColumnSettings
from jobs.inputs.event_rules import first_broken
from jobs.inputs.mapped_columns import MappedColumn, Typed, type_codes, type_id, type_price, type_time, with_buckets
from schemas.errors import InputError

NOON = datetime(2022, 6, 1, 12)
SETTINGS = IngestSettings(earliest="1960-01-01")
NO_TIME = "timestamp is not a time of ISO 8601"
TWELVE = [
    ("2022-06-01T14:00", {}), ("2022-06-01 14:00:00", {}), ("2022-06-01T12:00:00Z", {}),
    ("2022-06-01 12:00:00 UTC", {}),
    ("2022-06-01T14:00:00,000+02:00", {}), ("2022-06-01T06:30:00-0530", {}), (" 2022-06-01T14:00:00+02 ", {}),
    ("1654084800", {"unit": "s"}), (" 1654084800.0", {"unit": "s"}), (1654084800000, {"unit": "ms"}),
    (1654084800000000, {"unit": "us"}), (1654084800000000000, {"unit": "ns"}), (1654084800.0, {"unit": "s"}),
    ("01.06.2022 14:00", {"format": "dd.MM.yyyy HH:mm"}),
    ("01/Jun/2022:14:00:00 +0200", {"format": "dd/MMM/yyyy:HH:mm:ss Z"}),
    (datetime(2022, 6, 1, 14), {"type": "timestamp_ntz"}),
]  # fmt: skip
OTHERS = [
    (date(2022, 6, 1), {"type": "date"}, datetime(2022, 5, 31, 22)),
    ("2022-06-01", {}, datetime(2022, 5, 31, 22)),
    ("2022-06-01T12:00:00.123456789Z", {}, NOON.replace(microsecond=123456)),
    ("-1", {"unit": "s"}, datetime(1969, 12, 31, 23, 59, 59)),
    ("2022-10-30 02:30:00", {}, datetime(2022, 10, 30, 0, 30)),  # comes twice: the first
    ("2022-10-30T02:30:00+01:00", {}, datetime(2022, 10, 30, 1, 30)),  # the second, by its zone
    ("2022-03-27 02:30:00", {}, datetime(2022, 3, 27, 1, 30)),  # does not come: an hour later
    ("27.03.2022 02:30", {"format": "dd.MM.yyyy HH:mm"}, datetime(2022, 3, 27, 1, 30)),
    ("2022-02-30", {}, NO_TIME), ("2022-06-01 25:00:00", {}, NO_TIME), ("noon", {}, NO_TIME), ("20220601", {}, NO_TIME),
    ("2022-06-01T12:00:00+99:99", {}, NO_TIME), ("2022-06-01T12:00:00+02:75", {}, NO_TIME),
    ("31.02.2022", {"format": "dd.MM.yyyy"}, "timestamp is not dd.MM.yyyy"),
    ("1654084800.1234565891", {"unit": "s"}, NOON.replace(microsecond=123457)),
    ("1.6540848001234567E9", {"unit": "s"}, NOON.replace(microsecond=123457)),
    ("1.6540848E12", {"unit": "ms"}, NOON),
    ("1e99", {"unit": "s"}, "timestamp is not a number of s since 1970"),
    ("1e", {"unit": "s"}, "timestamp is not a number of s since 1970"),
    (2**63 - 1, {"unit": "s"}, "timestamp is not a number of s since 1970"),
    ("1850-01-01", {}, "timestamp is outside ingest.earliest and ingest.latest"),
    (" ", {}, "timestamp is null"), (None, {}, "timestamp is null"),
]  # fmt: skip
TIMES = [*((value, settings, NOON) for value, settings in TWELVE), *OTHERS]


def column(role: str, value: Any, name: str | None = None, **settings: Any) -> MappedColumn:
    """A column that holds one value, of a literal's type or ``type``."""
    given = settings.pop("type", None)
    types = {
        bool: "boolean",
        str: "string",
        int: "bigint",
        float: "double",
        Decimal: "decimal(20,0)",
        list: "array<double>",
    }
    kind = given or types.get(type(value), "string")
    literal = (
        F.lit(None) if value is None else F.array(*map(F.lit, value)) if isinstance(value, list) else F.lit(str(value))
    )
    found = ColumnSettings(column="own", **settings)
    own = literal.cast(kind)
    data_type = SparkSession.getActiveSession().createDataFrame([], f"own {kind}").schema[0].dataType
    return MappedColumn(f"inputs.x.{role}", role, name or role, found, own, data_type, holds_ids=False)


def evaluate(spark: SparkSession, typed: list[Typed]) -> list[Any]:
    """The value of each, or the reason that it has none."""
    values = [F.struct(value.alias("value"), first_broken(rules).alias("reason")) for value, rules in typed]
    row = spark.range(1).select(*(value.alias(f"c{number}") for number, value in enumerate(values))).collect()[0]
    return [each["reason"] or each["value"] for each in row]


@pytest.mark.parametrize("session_zone", ["UTC", "Europe/Warsaw"])
def test_times_of_every_kind_become_utcs_in_any_session(spark: SparkSession, session_zone: str) -> None:
    columns = [column("timestamp", value, **settings) for value, settings, _ in TIMES]
    spark.conf.set("spark.sql.session.timeZone", session_zone)
    try:
        found = evaluate(spark, [type_time(each, "Europe/Warsaw", SETTINGS) for each in columns])
    finally:
        spark.conf.set("spark.sql.session.timeZone", "UTC")
    expected = [expected for _, _, expected in TIMES]
    assert dict(enumerate(found)) == dict(enumerate(expected))


def test_ids_codes_and_prices_are_typed_or_have_a_reason(spark: SparkSession) -> None:
    codes = "[" + " ".join(["7"] * 16) + "]"
    cases: list[tuple[Typed, Any]] = [
        (type_id(column("sku", 7), is_keyed=False), 7),
        (type_id(column("sku", Decimal(2**63)), is_keyed=False), "sku is not a whole number"),
        (type_id(column("sku", " +07 "), is_keyed=False), 7),
        (type_id(column("sku", "7.0"), is_keyed=False), "sku is not a whole number"),
        (type_id(column("sku", "9223372036854775808"), is_keyed=False), "sku is not a whole number"),
        (type_id(column("sku", 7), is_keyed=True), "7"),
        (type_id(column("sku", " a "), is_keyed=True), " a "),
        (type_id(column("sku", "Gr\ufffd\ufffde"), is_keyed=True), "sku is not UTF-8"),
        (type_id(column("client_id", "  "), is_keyed=True), "client_id is null"),
        (type_id(column("client_id", "\xa0\u200b"), is_keyed=True), "client_id is null"),
        (type_id(column("category", None), is_keyed=True), None),
        (type_price(column("price", "9.5", as_="amount")), 9.5),
        (type_price(column("price", "9,5", as_="amount")), "price is not an amount of 0 or more"),
        (type_price(column("price", -1.0, as_="amount")), "price is not an amount of 0 or more"),
        (type_price(column("price", "NaN", as_="amount")), "price is not an amount of 0 or more"),
        (type_price(column("price", "12d", as_="amount")), "price is not an amount of 0 or more"),
        (type_price(column("price", 99)), 99),
        (type_price(column("price", 100)), "price is outside 0-99"),
        (type_price(column("price", None, as_="amount")), None),
        (type_codes(column("query", codes)), codes),
        (type_codes(column("query", "[1 2]")), "query is not 16 numbers 0-255 in brackets"),
        (type_codes(column("query", "\t", as_="text")), "query is null"),
        (type_codes(column("name", None, as_="text")), None),
        (type_codes(column("query", "caf\ufffd", as_="text")), "query is not UTF-8"),
        (type_codes(column("query", [1.0], as_="vector", size=2)), "query is not 2 finite numbers"),
    ]
    found = evaluate(spark, [typed for typed, _ in cases])
    assert dict(enumerate(found)) == dict(enumerate(expected for _, expected in cases))
    with pytest.raises(
        InputError, match=r"inputs\.x\.sku: expected integers or text in 'own', found double"
    ) as refused:
        type_id(column("sku", 1.0), is_keyed=False)
    conversion = str(refused.value).partition("by expression: ")[2]
    values = spark.sql("select explode(array(7D, double('NaN'), null)) as own").select(F.expr(conversion)).collect()
    assert [value for (value,) in values] == [7, None, None]
    with pytest.raises(InputError, match=r"found binary; .* by expression: hex\(own\)"):
        type_id(column("sku", "1", type="binary"), is_keyed=True)
    with pytest.raises(
        InputError, match=r"expected text \(of an array of numbers: as: vector and its size\) in 'own', found array"
    ):
        type_codes(column("query", [1.0]))


def test_a_prices_bucket_is_how_many_percentiles_it_exceeds(spark: SparkSession) -> None:
    ddl = "sku bigint, category bigint, price double, name string"
    rows = [(sku, None, None if sku == 100 else float(sku), None) for sku in range(101)]
    found = {row["sku"]: row["price"] for row in with_buckets(spark.createDataFrame(rows, ddl)).collect()}
    assert found == {sku: sku for sku in range(100)} | {100: None}
    equal = with_buckets(spark.createDataFrame([(1, None, 5.0, None), (2, None, 5.0, None)], ddl)).collect()
    assert [row["price"] for row in equal] == [0, 0]
    assert with_buckets(spark.createDataFrame([], ddl)).collect() == []
