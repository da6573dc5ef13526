"""Source rows -> typed rows, and the reason why a row breaks the contract (``schemas/tables.py``).

Each source has two functions over the same typed values: ``type_*`` gives the good rows and does nothing else, for
it runs over every row; ``reject_*`` gives the bad ones with their reasons, and runs only where there are any.
"""

from datetime import datetime

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import StringType
from pyspark.sql.window import Window, WindowSpec

from conf.inputs import IngestSettings
from schemas.behaviours import CODES_PER_QUERY, ItemKind
from schemas.columns import CATEGORY, CLIENT_ID, NAME, PRICE, SKU, TIMESTAMP
from schemas.tables import (
    CONFLICTS_ON_SKU,
    MAX_PRICE,
    NO_SUCH_PRICE,
    OUT_OF_BOUNDS,
    REPEATS_SKU,
    UNKNOWN_SKU,
    is_beyond_int64,
    is_no_codes,
    is_no_time,
    is_null,
)

SOURCE = "source"
REASON = "reason"
ROW = "row"

PRODUCT_COLUMNS = (SKU, CATEGORY, PRICE, NAME)

Rules = list[tuple[Column, str]]

_TIME_SHAPE = r"^[0-9]{4}-[0-9]{2}-[0-9]{2} [0-9]{2}:[0-9]{2}:[0-9]{2}\z"

# unrolled and without backtracking: a third of the time of a counted group of alternatives
_CODE = "(?>2(?:[0-4][0-9]?|5[0-5]?|[6-9])?|1[0-9]{0,2}|[3-9][0-9]?|0)"
_CANONICAL = r"^\[" + " ".join([_CODE] * CODES_PER_QUERY) + r"\]\z"
_ANY_SPELLING = r"^\s*\[\s*" + r"\s+".join(["[0-9]{1,3}"] * CODES_PER_QUERY) + r"\s*\]\s*\z"


def type_events(source: DataFrame, item: str, kind: ItemKind, settings: IngestSettings) -> DataFrame:
    """One row per source row that keeps the contract: client_id, timestamp, item, typed.

    ``jobs/inputs/typed_files.py`` does the same for sources of integers and text; both must keep the same rows.

    Parameters
    ----------
    source : columns client_id, timestamp (text or timestamp_ntz) and item as the file has them; others are ignored
    """
    typed = source.select(
        *(_once_per_row(value).alias(name) for name, value in _event_values(source, item, kind).items())
    )
    is_complete = F.col(CLIENT_ID).isNotNull() & F.col(item).isNotNull()
    return typed.filter(is_complete & _is_within_bounds(F.col(TIMESTAMP), settings))


def reject_events(
    source: DataFrame,
    name: str,
    item: str,
    kind: ItemKind,
    settings: IngestSettings,
    known_skus: DataFrame | None = None,
) -> DataFrame:
    """One row per source row that breaks the contract: ``source`` (its name), ``reason``, ``row`` (as JSON).

    Parameters
    ----------
    known_skus : the products, where events of others are to be rejected; the item must then be a sku
    """
    values = _event_values(source, item, kind)
    why_no_item = is_beyond_int64(item) if kind is ItemKind.ID else is_no_codes(item)
    rules = [
        (F.col(CLIENT_ID).isNull(), is_null(CLIENT_ID)),
        (values[CLIENT_ID].isNull(), is_beyond_int64(CLIENT_ID)),
        (F.col(TIMESTAMP).isNull(), is_null(TIMESTAMP)),
        (values[TIMESTAMP].isNull(), is_no_time(TIMESTAMP)),
        (~_is_within_bounds(values[TIMESTAMP], settings), OUT_OF_BOUNDS),
        (F.col(item).isNull(), is_null(item)),
        (values[item].isNull(), why_no_item),
    ]
    if known_skus is not None:
        known = known_skus.select(F.col(SKU).alias("known_sku"))
        source = source.join(known, on=F.col(item) == F.col("known_sku"), how="left")
        rules.append((F.col("known_sku").isNull(), UNKNOWN_SKU))
    judged = source.select(_first_broken(rules).alias(REASON), _as_json(*values).alias(ROW))
    return _rejected(judged, name)


def keep_known_skus(events: DataFrame, products: DataFrame) -> DataFrame:
    """The events whose sku has a row in the product table."""
    return events.join(products.select(SKU), on=SKU, how="left_semi").select(*events.columns)


def type_products(source: DataFrame) -> DataFrame:
    """One row per sku of the product source: the first by category, price and name, nulls last, of the good rows."""
    values = _product_values()
    typed = source.filter(~_is_broken(_product_rules(values))).select(*(values[name].alias(name) for name in values))
    ranked = typed.withColumn("rank", F.row_number().over(_rows_of_sku()))
    return ranked.filter(F.col("rank") == 1).select(*PRODUCT_COLUMNS)


def reject_products(source: DataFrame, name: str) -> DataFrame:
    """One row per product row that breaks the contract or is not the one kept for its sku; as ``reject_events``."""
    values = _product_values()
    judged = source.select(
        *(values[column].alias(column) for column in PRODUCT_COLUMNS),
        _first_broken(_product_rules(values)).alias(REASON),
        _as_json(*PRODUCT_COLUMNS).alias(ROW),
    )
    broken = judged.filter(F.col(REASON).isNotNull())
    content = F.struct(CATEGORY, PRICE, NAME)
    compared = judged.filter(F.col(REASON).isNull()).select(
        F.row_number().over(_rows_of_sku()).alias("rank"),
        (content == F.first(content).over(_rows_of_sku())).alias("is_equal"),
        ROW,
    )
    reason = F.when(F.col("is_equal"), F.lit(REPEATS_SKU)).otherwise(F.lit(CONFLICTS_ON_SKU))
    others = compared.filter(F.col("rank") > 1).select(reason.alias(REASON), ROW)
    return _rejected(broken.select(REASON, ROW).unionByName(others), name)


def canonical_codes(text: Column) -> Column:
    """``[a b ...]`` with single spaces and no leading zeros; null unless it holds 16 integers 0-255."""
    is_canonical = text.rlike(_CANONICAL)
    return F.when(is_canonical, text).otherwise(F.coalesce(_unpadded(text), _respelled(text)))


def _unpadded(text: Column) -> Column:
    """The canonical codes of numbers padded to one width, as numpy prints them; null where it is another spelling."""
    squeezed = text
    for long, short in (("  ", " "), ("  ", " "), ("[ ", "[")):
        squeezed = F.replace(squeezed, F.lit(long), F.lit(short))
    # the array gives the squeezed text a name: written twice, it would be computed twice
    return F.get(F.transform(F.array(squeezed), lambda codes: F.when(codes.rlike(_CANONICAL), codes)), F.lit(0))


def _respelled(text: Column) -> Column:
    numbers = F.transform(F.regexp_extract_all(text, F.lit("([0-9]+)")), lambda number: number.cast("int"))
    joined = F.array_join(F.transform(numbers, lambda number: number.cast("string")), " ")
    is_codes = text.rlike(_ANY_SPELLING) & (F.array_max(numbers) <= 255)
    return F.when(is_codes, F.concat(F.lit("["), joined, F.lit("]")))


def _event_values(source: DataFrame, item: str, kind: ItemKind) -> dict[str, Column]:
    """Column -> its typed value, null where there is none; in table order."""
    return {
        CLIENT_ID: _integer(CLIENT_ID),
        TIMESTAMP: _event_time(source),
        item: _integer(item) if kind is ItemKind.ID else canonical_codes(F.col(item)),
    }


def _product_values() -> dict[str, Column]:
    return {
        **{column: _integer(column) for column in (SKU, CATEGORY, PRICE)},
        NAME: canonical_codes(F.col(NAME)),
    }


def _product_rules(values: dict[str, Column]) -> Rules:
    beyond = [
        (F.col(column).isNotNull() & values[column].isNull(), is_beyond_int64(column))
        for column in (SKU, CATEGORY, PRICE)
    ]
    return [
        (F.col(SKU).isNull(), is_null(SKU)),
        *beyond,
        (F.col(PRICE).isNotNull() & ~values[PRICE].between(0, MAX_PRICE), NO_SUCH_PRICE),
        (F.col(NAME).isNotNull() & values[NAME].isNull(), is_no_codes(NAME)),
    ]


def _rows_of_sku() -> WindowSpec:
    order = [F.col(column).asc_nulls_last() for column in (CATEGORY, PRICE, NAME)]
    return Window.partitionBy(SKU).orderBy(*order)


def _integer(column: str) -> Column:
    # try_cast: under ANSI a cast of an unsigned id beyond int64 fails the whole job
    return F.expr(f"try_cast(`{column}` AS bigint)")


def _event_time(source: DataFrame) -> Column:
    """The wall time; the cast alone would also take zones, fractions, ``T``, missing digits and white space."""
    if not isinstance(source.schema[TIMESTAMP].dataType, StringType):
        return F.col(TIMESTAMP)
    return F.when(F.col(TIMESTAMP).rlike(_TIME_SHAPE), F.expr(f"try_cast(`{TIMESTAMP}` AS timestamp_ntz)"))


def _is_within_bounds(time: Column, settings: IngestSettings) -> Column:
    earliest, latest = (
        F.lit(datetime.fromisoformat(text).isoformat(sep=" ")).cast("timestamp_ntz")
        for text in (settings.earliest, settings.latest)
    )
    return (time >= earliest) & (time < latest)


def _once_per_row(value: Column) -> Column:
    """The same value, in a projection that Spark does not merge with the filter above it.

    Merged, the filter and the select would each compute it. ``spark_partition_id`` costs nothing but is not
    deterministic to the optimiser, and a filter is not pushed through such a projection.
    """
    return F.when(F.spark_partition_id() >= 0, value)


def _is_broken(rules: Rules) -> Column:
    return F.coalesce(*(F.when(is_broken, F.lit(True)) for is_broken, _ in rules), F.lit(False))


def _first_broken(rules: Rules) -> Column:
    return F.coalesce(*(F.when(is_broken, F.lit(reason)) for is_broken, reason in rules))


def _as_json(*columns: str) -> Column:
    return F.to_json(F.struct(*columns))


def _rejected(judged: DataFrame, name: str) -> DataFrame:
    return judged.filter(F.col(REASON).isNotNull()).select(F.lit(name).alias(SOURCE), REASON, ROW)
