"""Source rows -> typed rows, with the reason why a row breaks the contract."""

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import StringType
from pyspark.sql.window import Window

from schemas.behaviours import CODES_PER_QUERY, ItemKind
from schemas.columns import CATEGORY, CLIENT_ID, NAME, PRICE, SKU, TIMESTAMP

REASON = "reason"
ROW = "row"
TIME_FORMAT = "yyyy-MM-dd HH:mm:ss"

_CODES_PATTERN = rf"^\s*\[\s*(\d{{1,3}}\s+){{{CODES_PER_QUERY - 1}}}\d{{1,3}}\s*\]\s*$"


def judge_events(source: DataFrame, item: str, kind: ItemKind) -> DataFrame:
    """One row per source row: client_id, timestamp, item as the contract types them, ``reason`` and ``row``.

    ``reason`` is null for a good row, else the first rule that it breaks; ``row`` is the source row as JSON.
    Row order does not matter. Nulls and unreadable values become null in the typed columns.
    """
    item_value = F.col(item).cast("bigint") if kind is ItemKind.ID else canonical_codes(F.col(item))
    rules = [
        (F.col(CLIENT_ID).isNull(), f"{CLIENT_ID} is null"),
        (F.col(TIMESTAMP).isNull(), f"{TIMESTAMP} is null"),
        (_event_time(source).isNull(), f"{TIMESTAMP} is not {TIME_FORMAT}"),
        (F.col(item).isNull(), f"{item} is null"),
        (item_value.isNull(), f"{item} is not {CODES_PER_QUERY} numbers 0-255 in brackets"),
    ]
    return source.select(
        F.col(CLIENT_ID).cast("bigint").alias(CLIENT_ID),
        _event_time(source).alias(TIMESTAMP),
        item_value.alias(item),
        _first_broken(rules).alias(REASON),
        F.to_json(F.struct(CLIENT_ID, TIMESTAMP, item)).alias(ROW),
    )


def judge_products(source: DataFrame) -> DataFrame:
    """One row per source row of the product table: sku, category, price, name, ``reason`` and ``row``.

    Category, price and name may be null. Of several rows for one sku the first by category, price and name
    is good, the others are rejected, so that a join by sku never multiplies events.
    """
    name = canonical_codes(F.col(NAME))
    same_sku = Window.partitionBy(SKU).orderBy(CATEGORY, PRICE, NAME)
    is_repeated = F.row_number().over(same_sku) > 1
    rules = [
        (F.col(SKU).isNull(), f"{SKU} is null"),
        (F.col(NAME).isNotNull() & name.isNull(), f"{NAME} is not {CODES_PER_QUERY} numbers 0-255 in brackets"),
        (is_repeated, f"another row has this {SKU}"),
    ]
    return source.select(
        *(F.col(column).cast("bigint").alias(column) for column in (SKU, CATEGORY, PRICE)),
        name.alias(NAME),
        _first_broken(rules).alias(REASON),
        F.to_json(F.struct(SKU, CATEGORY, PRICE, NAME)).alias(ROW),
    )


def accepted(judged: DataFrame) -> DataFrame:
    """The good rows, typed columns only."""
    return judged.filter(F.col(REASON).isNull()).drop(REASON, ROW)


def rejected(judged: DataFrame, source_name: str) -> DataFrame:
    """One row per bad row: ``source``, ``reason``, ``row``."""
    return judged.filter(F.col(REASON).isNotNull()).select(F.lit(source_name).alias("source"), REASON, ROW)


def canonical_codes(text: Column) -> Column:
    """``[a b ...]`` with single spaces and no leading zeros; null unless it holds 16 integers 0-255."""
    numbers = F.transform(F.regexp_extract_all(text, F.lit(r"(\d+)")), lambda number: number.cast("int"))
    is_codes = text.rlike(_CODES_PATTERN) & (F.array_max(numbers) <= 255)
    joined = F.array_join(F.transform(numbers, lambda number: number.cast("string")), " ")
    return F.when(is_codes, F.concat(F.lit("["), joined, F.lit("]")))


def _event_time(source: DataFrame) -> Column:
    if isinstance(source.schema[TIMESTAMP].dataType, StringType):
        return F.to_timestamp_ntz(F.col(TIMESTAMP), F.lit(TIME_FORMAT))
    return F.col(TIMESTAMP).cast("timestamp_ntz")


def _first_broken(rules: list[tuple[Column, str]]) -> Column:
    return F.coalesce(*(F.when(is_broken, F.lit(reason)) for is_broken, reason in rules))
