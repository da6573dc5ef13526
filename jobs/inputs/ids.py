"""``tables/ids``: an integer for each text that a user's tables have as an id.

``jobs/transforms/ids.py`` gives the integers.
"""

from collections.abc import Sequence

from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import StringType

from jobs.inputs.mapped_columns import WHITE_SPACE, MappedColumn
from schemas.columns import CATEGORY, ID, KEY, KIND
from schemas.errors import InputError

_PADDING = rf"^{WHITE_SPACE}+|{WHITE_SPACE}+$"


def find_keyed(columns: Sequence[MappedColumn]) -> set[str]:
    """The kinds of id that need ``tables/ids``: those that a column says so of, or that are text where none says.

    Raises
    ------
    InputError
        If one column of a kind says key, and another integer: they could never be the same client or sku.
    """
    keyed = set()
    for name in {column.name for column in columns}:
        own = [column for column in columns if column.name == name]
        forms = {column.settings.as_: column for column in own if column.settings.as_}
        if len(forms) > 1:
            found = " and ".join(f"{form} in {column.owner}" for form, column in sorted(forms.items()))
            raise InputError(f"expected {name} to be the same everywhere, found {found}; set as: to one of them")
        is_text = any(isinstance(column.kind, StringType) for column in own)
        if "key" in forms or (not forms and is_text):
            keyed.add(name)
    return keyed


def with_ids(rows: DataFrame, keyed: Sequence[str], ids: DataFrame) -> DataFrame:
    """The rows with an integer for the text in each of these columns; the order of columns stays.

    A row whose text has no integer is left out, but for a product's category, which may be null.
    """
    names = rows.columns
    for name in keyed:
        # with a space, as the name of no typed column has
        number = F.col(ID).alias(f"{name} {ID}")
        own = ids.filter(F.col(KIND) == name).select(F.col(KEY).alias(name), number)
        joined = rows.join(own, on=name, how="left" if name == CATEGORY else "inner")
        rows = joined.withColumn(name, F.col(f"{name} {ID}")).select(*names)
    return rows


def refuse_alike(ids: DataFrame) -> None:
    """Raise InputError where two ids of a kind differ by nothing but white space around them, or .0 behind a number.

    pandas writes whole numbers with .0 where a column lacks one of them, which Spark's reader of JSON gives an exponent
    (5.4131214E8).
    """
    bare = F.regexp_replace(KEY, _PADDING, "")
    whole = F.regexp_replace(bare, r"^([+-]?[0-9]+)\.0+$", "$1")
    # of int64's, what is behind the exponent's point would be rounded
    is_whole = bare.rlike(r"^[+-]?[0-9]\.[0-9]+E1?[0-9]$") & (bare.cast("double") == F.floor(bare.cast("double")))
    written_out = F.when(is_whole, bare.cast("decimal(38,0)").cast("string"))
    stripped = ids.select(KIND, KEY, "ingest", F.coalesce(written_out, whole).alias("stripped"))
    # one of two such ids has white space or .0: few groups are left to compare
    padded = stripped.filter(F.col(KEY) != F.col("stripped")).select(KIND, "stripped").distinct()
    groups = stripped.join(padded, on=[KIND, "stripped"], how="left_semi").groupBy(KIND, "stripped")
    are_of_several = (F.min("ingest") < F.max("ingest")).alias("are_of_several")
    alike = groups.agg(F.min(KEY).alias("one"), F.max(KEY).alias("other"), are_of_several).filter("one <> other")
    if found := alike.orderBy(KIND, "one").limit(3).collect():
        pairs = ", ".join(f"{row['one']!r} and {row['other']!r}" for row in found)
        escaped = _PADDING.replace("\\", "\\\\")  # as a literal of SQL
        # ids stay in the table: what the data has no longer may still be there
        earlier = "; one is of an earlier ingest: write it as there, or choose another --out"
        raise InputError(
            f"{found[0][KIND]}: expected ids that differ by more than white space around them or .0 behind a number, "
            f"found {pairs}; correct them, or take them for one by expression: "
            f"regexp_replace(COLUMN, '{escaped}', ''), or regexp_replace(COLUMN, '[.]0+$', ''); of floats in JSON: "
            f"cast(cast(COLUMN as decimal(38,0)) as string){earlier if found[0]['are_of_several'] else ''}"
        )
