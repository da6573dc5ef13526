"""Source rows -> typed rows, and the reason why a row breaks the contract (``schemas/tables.py``).

Events: ``type_events`` gives the good rows and does nothing else, for it runs over every row; ``reject_events`` gives
the bad ones with their reasons, and runs only where there are any. Products: ``judge_products`` does both at once;
``keep_one_per_sku`` and ``reject_others_of_sku`` take those of a mapping too.
"""

from collections.abc import Sequence
from datetime import datetime

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import StringType
from pyspark.sql.window import Window, WindowSpec

from conf.inputs import IngestSettings
from conf.mappings import PRODUCT_COLUMNS
from jobs.storage.stored_rows import timestamp_literal
from schemas.behaviours import CODES_PER_QUERY, ItemKind
from schemas.columns import CATEGORY, CLIENT_ID, NAME, PRICE, REASON, ROW, SKU, TIMESTAMP
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

# \z and not $, which a line break may follow
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
    # Spark would merge this projection with the filter above it, and each would compute the values. The condition is
    # true and costs nothing, but is not deterministic to the optimiser, which keeps such a projection apart
    values = _event_values(source, item, kind).items()
    typed = source.select(*(F.when(F.spark_partition_id() >= 0, value).alias(name) for name, value in values))
    is_complete = F.col(CLIENT_ID).isNotNull() & F.col(item).isNotNull()
    return typed.filter(is_complete & is_within_bounds(F.col(TIMESTAMP), settings))


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
        (~is_within_bounds(values[TIMESTAMP], settings), OUT_OF_BOUNDS),
        (F.col(item).isNull(), is_null(item)),
        (values[item].isNull(), why_no_item),
    ]
    if known_skus is not None:
        known = known_skus.select(F.col(SKU).alias("known_sku"))
        source = source.join(known, on=F.col(item) == F.col("known_sku"), how="left")
        # last: a row that is bad by itself is rejected for that, whatever its sku
        rules.append((F.col("known_sku").isNull(), UNKNOWN_SKU))
    judged = source.select(first_broken(rules).alias(REASON), F.to_json(F.struct(*values)).alias(ROW))
    return rejected(judged, name)


def keep_known_skus(events: DataFrame, products: DataFrame) -> DataFrame:
    """The events whose sku has a row in the product table."""
    # a join by name puts that column first: the select restores the order
    return events.join(products.select(SKU), on=SKU, how="left_semi").select(*events.columns)


def judge_products(source: DataFrame) -> DataFrame:
    """The product rows, typed, with the columns ``reason``, null where the rules are kept, and ``row`` as JSON."""
    ids = {column: _integer(column) for column in (SKU, CATEGORY, PRICE)}
    name = canonical_codes(F.col(NAME))
    rules = [
        (F.col(SKU).isNull(), is_null(SKU)),
        *((F.col(column).isNotNull() & ids[column].isNull(), is_beyond_int64(column)) for column in ids),
        (F.col(PRICE).isNotNull() & ~ids[PRICE].between(0, MAX_PRICE), NO_SUCH_PRICE),
        (F.col(NAME).isNotNull() & name.isNull(), is_no_codes(NAME)),
    ]
    return source.select(
        *(ids[column].alias(column) for column in ids),
        name.alias(NAME),
        first_broken(rules).alias(REASON),
        F.to_json(F.struct(*PRODUCT_COLUMNS)).alias(ROW),
    )


def keep_one_per_sku(judged: DataFrame) -> DataFrame:
    """One row per sku of judged products: the first by category, price and name, nulls last, of the good rows."""
    good = judged.filter(F.col(REASON).isNull())
    ranked = good.withColumn("rank", F.row_number().over(_rows_of_sku()))
    return ranked.filter(F.col("rank") == 1).select(*PRODUCT_COLUMNS)


def reject_others_of_sku(judged: DataFrame, name: str) -> DataFrame:
    """One row per judged product that is bad or is not the one kept for its sku; as ``reject_events``."""
    content = F.struct(CATEGORY, PRICE, NAME)
    compared = judged.filter(F.col(REASON).isNull()).select(
        F.row_number().over(_rows_of_sku()).alias("rank"),
        # as structs, for their nulls are equal: columns compared one by one would give null
        (content == F.first(content).over(_rows_of_sku())).alias("is_equal"),
        ROW,
    )
    reason = F.when(F.col("is_equal"), F.lit(REPEATS_SKU)).otherwise(F.lit(CONFLICTS_ON_SKU))
    others = compared.filter(F.col("rank") > 1).select(reason.alias(REASON), ROW)
    return rejected(judged.select(REASON, ROW).unionByName(others), name)


def canonical_codes(text: Column) -> Column:
    """``[a b ...]`` with single spaces and no leading zeros; null unless it holds 16 integers 0-255."""
    # numbers padded to one width, as numpy prints them, are common, and fewer blanks make them canonical
    squeezed = text
    for long, short in (("  ", " "), ("  ", " "), ("[ ", "[")):
        squeezed = F.replace(squeezed, F.lit(long), F.lit(short))
    # the array gives the squeezed text a name: written twice, it would be computed twice
    unpadded = F.get(F.transform(F.array(squeezed), lambda codes: F.when(codes.rlike(_CANONICAL), codes)), F.lit(0))
    # every other spelling is taken apart, which is the slowest
    numbers = F.transform(F.regexp_extract_all(text, F.lit("([0-9]+)")), lambda number: number.cast("int"))
    joined = F.array_join(F.transform(numbers, lambda number: number.cast("string")), " ")
    is_codes = text.rlike(_ANY_SPELLING) & (F.array_max(numbers) <= 255)
    respelled = F.when(is_codes, F.concat(F.lit("["), joined, F.lit("]")))
    return F.when(text.rlike(_CANONICAL), text).otherwise(F.coalesce(unpadded, respelled))


def _event_values(source: DataFrame, item: str, kind: ItemKind) -> dict[str, Column]:
    """Column -> its typed value, null where there is none; in table order."""
    time = F.col(TIMESTAMP)
    if isinstance(source.schema[TIMESTAMP].dataType, StringType):
        # the cast alone would also take zones, fractions, ``T``, missing digits and white space
        time = F.when(time.rlike(_TIME_SHAPE), F.expr(f"try_cast(`{TIMESTAMP}` AS timestamp_ntz)"))
    return {
        CLIENT_ID: _integer(CLIENT_ID),
        TIMESTAMP: time,
        item: _integer(item) if kind is ItemKind.ID else canonical_codes(F.col(item)),
    }


def _rows_of_sku() -> WindowSpec:
    # rows that tie are equal in every column, so that whichever is first, the row that is kept is the same
    order = [F.col(column).asc_nulls_last() for column in (CATEGORY, PRICE, NAME)]
    return Window.partitionBy(SKU).orderBy(*order)


def _integer(column: str) -> Column:
    # try_cast: under ANSI a cast of an unsigned id beyond int64 fails the whole job
    return F.expr(f"try_cast(`{column}` AS bigint)")


def is_within_bounds(time: Column, settings: IngestSettings) -> Column:
    """Whether a time is between ``ingest.earliest`` and ``ingest.latest``."""
    earliest, latest = (datetime.fromisoformat(text) for text in (settings.earliest, settings.latest))
    return (time >= timestamp_literal(earliest)) & (time < timestamp_literal(latest))


def first_broken(rules: Sequence[tuple[Column, str]]) -> Column:
    """The reason of the first rule that a row breaks, null where it keeps all; a rule is a claim that it breaks it."""
    return F.coalesce(*(F.when(is_broken, F.lit(reason)) for is_broken, reason in rules))


def rejected(judged: DataFrame, name: str) -> DataFrame:
    """The rows with a reason, as rows of ``quarantine``."""
    return judged.filter(F.col(REASON).isNotNull()).select(F.lit(name).alias("source"), REASON, ROW)
