"""Columns of a user's tables -> typed values, and the rules for them."""

from dataclasses import dataclass, replace

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import (
    ArrayType,
    BinaryType,
    DataType,
    DecimalType,
    DoubleType,
    FloatType,
    IntegralType,
    NumericType,
    StringType,
)

from conf.inputs import IngestSettings
from conf.mappings import ColumnSettings
from jobs.inputs.codes import text_codes, vector_codes
from jobs.inputs.event_rules import canonical_codes, is_within_bounds
from jobs.inputs.timestamps import time_form, to_utc
from schemas import tables as t
from schemas.columns import CATEGORY, NAME, PRICE
from schemas.errors import InputError

QUANTILES = [number / (t.MAX_PRICE + 1) for number in range(1, t.MAX_PRICE + 1)]
"""Of the products' amounts: a price's bucket is how many of these amounts it exceeds."""

WHITE_SPACE = r"[\s\p{Z}\x85\u180E\u200B-\u200D\u2060\uFEFF]"
"""Pattern of a blank, Unicode's too; Java's \\s is ASCII's. Those from 180E on have no width."""
_WHOLE = r"^\s*[+-]?[0-9]{1,19}\s*\z"

Rule = tuple[Column, str]
"""A claim that a row breaks a rule, and the reason that it is rejected with."""
Typed = tuple[Column, list[Rule]]
"""A typed value, and the rules for it in their order."""


@dataclass(frozen=True)
class MappedColumn:
    """A column of an input.

    Attributes
    ----------
    owner : how messages name it
    role : what it is: client_id, timestamp, item, sku, ...
    name : of the typed column, which is also the kind of an id in ``tables/ids``
    settings : of the mapping
    value : as the user's table has it
    kind : its type
    holds_ids : whether its values are ids
    """

    owner: str
    role: str
    name: str
    settings: ColumnSettings
    value: Column
    kind: DataType
    holds_ids: bool

    @property
    def is_missing(self) -> Column:
        """Whether a row has no value: null or, of text, blank."""
        is_null = self.value.isNull()
        return is_null | self.value.rlike(rf"^{WHITE_SPACE}*\z") if isinstance(self.kind, StringType) else is_null

    def refuse(self, expected: str, conversion: str = "cast(... as ...)") -> InputError:
        """The error of a column of another type, with the expression that would convert it."""
        found = self.kind.simpleString()
        return InputError(
            f"{self.owner}: expected {expected} in {self.settings.text!r}, found {found}; name another column, or "
            f"convert it by expression: {conversion}"
        )


def type_id(column: MappedColumn, is_keyed: bool) -> Typed:
    """An id as bigint, or as text where ``tables/ids`` will give it an integer."""
    is_text = isinstance(column.kind, StringType)
    is_whole = isinstance(column.kind, IntegralType) or (
        isinstance(column.kind, DecimalType) and column.kind.scale == 0
    )
    if not is_text and not is_whole:
        text = column.settings.text
        conversion = f"cast({text} as bigint)"
        if isinstance(column.kind, DoubleType | FloatType):
            # pandas makes floats of integers with gaps, and the cast alone would make 0 of each gap, a NaN
            conversion = f"cast(nanvl({text}, null) as bigint)"
        elif isinstance(column.kind, BinaryType):  # a cast to text would make unreadable keys of a UUID's bytes
            conversion = f"hex({text})"
        raise column.refuse("integers or text", conversion)
    rules = [] if column.role == CATEGORY else [(column.is_missing, t.is_null(column.name))]
    if is_keyed:
        value = F.when(~column.is_missing, column.value.cast("string"))
        # what a reader puts in place of bytes that are not UTF-8: ids that differ in them alone would be one
        rules.append((value.contains("\ufffd"), t.is_no_utf8(column.name)))
    elif is_text:
        # the cast alone would take 1.9 for 1
        value = F.when(column.value.rlike(_WHOLE), F.trim(column.value)).cast("bigint")
    else:
        # a decimal beyond int64 would be cast to another number, its text is cast to null
        is_decimal = isinstance(column.kind, DecimalType)
        value = (column.value.cast("string") if is_decimal else column.value).cast("bigint")
    return value, [*rules, (~column.is_missing & value.isNull(), t.is_no_integer(column.name))]


def type_price(column: MappedColumn) -> Typed:
    """A bucket as bigint, or an amount as double; null where there is none."""
    if not isinstance(column.kind, StringType | NumericType):
        raise column.refuse("numbers or text")
    if column.settings.as_ == "amount":
        # the cast takes Java's 12d and 12f for numbers
        is_number = ~column.value.cast("string").rlike(r"[dDfF]\s*\z")
        number = F.when(is_number, column.value).cast("double")
        # below infinity keeps NaN out too: to Spark it is the largest number
        amount = F.when((number >= 0) & (number < float("inf")), number)
        return amount, [(~column.is_missing & amount.isNull(), t.NO_AMOUNT)]
    # as a category: of all ids it alone may be missing, as a bucket may
    bucket, rules = type_id(replace(column, role=CATEGORY), is_keyed=False)
    return bucket, [*rules, (bucket.isNotNull() & ~bucket.between(0, t.MAX_PRICE), t.NO_SUCH_PRICE)]


def type_codes(column: MappedColumn) -> Typed:
    """Codes as ``[a b ...]``: given, of a text's words or of a vector."""
    form, name = column.settings.as_ or "codes", column.name
    if form == "vector":
        if not isinstance(column.kind, ArrayType) or not isinstance(column.kind.elementType, NumericType):
            raise column.refuse("arrays of numbers")
        size = column.settings.size or 0
        codes, reason = vector_codes(column.value, size), t.is_no_vector(name, size)
    elif not isinstance(column.kind, StringType):
        raise column.refuse("text (of an array of numbers: as: vector and its size)")
    elif form == "text":
        codes, reason = text_codes(column.value), t.has_no_words(name)
    else:
        codes, reason = canonical_codes(column.value), t.is_no_codes(name)
    rules = [] if column.role == NAME else [(column.is_missing, t.is_null(name))]
    if form == "text":
        rules.append((column.value.contains("\ufffd"), t.is_no_utf8(name)))
    return codes, [*rules, (~column.is_missing & codes.isNull(), reason)]


def type_time(column: MappedColumn, timezone: str, settings: IngestSettings) -> Typed:
    """A time as UTC's wall time, timestamp_ntz.

    Parameters
    ----------
    timezone : of times that name none
    """
    value = to_utc(column.value, column.kind, column.settings, timezone)
    if value is None:
        is_number = column.settings.unit is not None
        raise column.refuse("a number since 1970" if is_number else "a time, a date or text, or a number with its unit")
    return value, [
        (column.is_missing, t.is_null(column.name)),
        (value.isNull(), t.is_no_time(column.name, time_form(column.settings))),
        (~is_within_bounds(value, settings), t.OUT_OF_BOUNDS),
    ]


def with_buckets(products: DataFrame) -> DataFrame:
    """The products with the bucket of their price, 0-99, for its amount: how many of ``QUANTILES`` it exceeds.

    Collects these; equal amounts have one bucket.
    """
    # exact: percentile_approx depends on how the rows are partitioned
    (row,) = products.agg(F.percentile(PRICE, QUANTILES).alias("amounts")).collect()
    limits = F.array(*(F.lit(float(amount)) for amount in row["amounts"] or []))
    n_exceeded = F.size(F.filter(limits, lambda limit: limit < F.col(PRICE))).cast("bigint")
    return products.withColumn(PRICE, F.when(F.col(PRICE).isNotNull(), n_exceeded))
