"""A mapping's inputs -> frames of the rows that are theirs; the columns are still the user's."""

import contextlib
import functools
import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException
from pyspark.sql import Column, DataFrame, DataFrameReader, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import ArrayType, StringType, StructField, StructType

from conf.expressions import computed_names
from conf.mappings import ColumnSettings, InputSettings
from jobs.inputs.input_files import InputFiles, no_such_column
from jobs.inputs.parquet_types import ParquetGroup, group_by_types, mixes_nanoseconds
from jobs.inputs.source_files import PARQUET_OPTIONS, escaped_url
from jobs.inputs.text_files import read_header, second_object, two_objects
from jobs.inputs.timestamps import nanos_to_time
from jobs.storage.delta_tables import read_version
from jobs.storage.locations import delta_name, quoted_name, spark_url
from ml.files.store import spark_scheme
from schemas.errors import InputError

MALFORMED = "_malformed_line"
"""Column that holds a line of CSV or JSON whole where Spark cannot take it apart, null elsewhere."""
_INTEGERS = ("tinyint", "smallint", "int", "bigint")
_WRITTEN_CAST = re.compile(rf"\b({'|'.join(_INTEGERS)})\s*\(", re.IGNORECASE)
"""A cast as a function, which Spark does not tell from one of its own."""
_ADDITIONS = ("TimeAdd", "TimestampAddInterval")
"""Of an interval to an instant, by the names of Spark 3.5 and 4.1."""
_BY_THE_CLOCK = ("date", "string", "timestamp_ntz")
_TEXT = re.compile(r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"", re.DOTALL)


def find_version(spark: SparkSession, settings: InputSettings, found: InputFiles | None) -> int | None:
    """The version of a Delta table that a mapping names, or the newest; None for what has no versions.

    All that reads the input reads this one, whatever is written meanwhile.
    """
    if settings.table is not None:
        name = quoted_name(*settings.table.split("."))
    elif "delta" in (settings.format, found.format if found else None):
        name = delta_name(spark_url(found.root) if found else spark_scheme(str(settings.path)))
    else:
        return None
    if settings.version is not None:
        return settings.version
    try:
        history = spark.sql(f"DESCRIBE HISTORY {name}")
        if settings.as_of is not None:
            history = history.filter(F.date_format("timestamp", "yyyy-MM-dd HH:mm:ss") <= settings.as_of)
        version: int | None = history.agg(F.max("version")).collect()[0][0]
    except PySparkException:  # no Delta table, or none that is there: reading it tells
        return None
    return version


def read_input(
    spark: SparkSession, owner: str, settings: InputSettings, found: InputFiles | None, version: int | None = None
) -> DataFrame:
    """All rows of an input's table or files, with lines that cannot be taken apart (``MALFORMED``).

    Parameters
    ----------
    owner : how messages name the input
    found : its files, None for what no mount reaches
    version : of a Delta table

    Raises
    ------
    InputError
        If Spark cannot read it, or it lacks a column that an expression names.
    """
    with naming_input(owner, settings.location):
        return _read(spark, owner, settings, found, version)


def refuse_joined_lines(spark: SparkSession, owner: str, settings: InputSettings, found: InputFiles | None) -> None:
    """Raise InputError where a line of JSON holds two objects, as where files without a last line break were joined.

    Spark reads the first one. To see that takes a pass over the text.
    """
    if (found.format if found else settings.format) != "json":
        return
    paths = _urls(settings, found)
    with naming_input(owner, settings.location):
        # nothing but text in quotes has these signs in one object: few lines are looked at
        suspects = spark.read.text(paths).filter(F.col("value").rlike(r"\}\s*\{"))
        joined = (
            suspects.select(F.udf(second_object)("value").alias("second")).filter("second <> ''").limit(1).collect()
        )
    if joined:
        raise two_objects(owner, settings.location, joined[0]["second"])


def select_rows(rows: DataFrame, owner: str, settings: InputSettings, has_malformed: bool) -> DataFrame:
    """The rows that are an input's own: those of ``where``, and of these the elements of the array ``expand``.

    Parameters
    ----------
    rows : as ``read_input`` gives them
    has_malformed : whether the lines that cannot be read are this input's: no value of theirs can be trusted, so that
        of all inputs of a file the first has them

    Raises
    ------
    InputError
        If they lack a column of ``where``, or ``expand`` names no array.
    """
    with naming_input(owner, settings.location):
        is_own = F.lit(True) if settings.where is None else _parse(rows, owner, settings.where, settings.location)
        kind = rows.select(is_own).schema[0].dataType.simpleString()
        if kind != "boolean":
            raise InputError(f"{owner}.where: expected a condition, found {kind} in {settings.where!r}; compare it")
        if MALFORMED in rows.columns:
            is_whole = F.col(MALFORMED).isNull()
            is_own = (is_whole & is_own) | ~is_whole if has_malformed else is_whole & is_own
        frame = rows.filter(is_own)
        name = settings.expand
        if name is None:
            return frame
        array = _named_column(frame, owner, name, settings.location)
        found = frame.select(array).schema[0].dataType
        if not isinstance(found, ArrayType):
            kind = found.simpleString()
            raise InputError(f"{owner}.expand: expected an array in {name!r}, found {kind}; leave expand out")
        # no element, no row; a malformed line has no array, and must stay to be quarantined
        has_rows = F.coalesce(F.size(array), F.lit(0)) > 0
        if MALFORMED in frame.columns:
            has_rows |= F.col(MALFORMED).isNotNull()
        if name in frame.columns:
            return frame.filter(has_rows).withColumn(name, F.explode_outer(array))
        outer, _, path = name.partition(".")
        field = ".".join(map(_quoted, path.split(".")))
        # whole structs, each with one element in the array's place: Spark 3.5.0 loses the struct of one that is put in
        # after the array was expanded
        structs = F.transform(array, lambda element: F.col(_quoted(outer)).withField(field, element))
        return frame.filter(has_rows).withColumn(outer, F.explode_outer(structs))


def find_column(frame: DataFrame, owner: str, settings: ColumnSettings, where: str, zone: str = "UTC") -> Column:
    """A column of an input.

    Parameters
    ----------
    zone : of the times that name none, where the column is a time

    Raises
    ------
    InputError
        If the input lacks it, Spark cannot parse its expression, or that takes times of the zone for UTC's.
    """
    with naming_input(owner, where):
        if settings.expression is not None:
            column = _parse(frame, owner, settings.expression, where, zone)
        else:
            column = _named_column(frame, owner, str(settings.column), where)
        frame.select(column)  # Spark resolves it now
        return column


def _named_column(frame: DataFrame, owner: str, name: str, where: str) -> Column:
    """A column of this name, or, where none has the dots in its name, what they lead to in structs."""
    if name in frame.columns:
        return F.col(_quoted(name))
    parts = name.split(".")
    if parts[0] not in frame.columns:
        raise no_such_column(owner, name, frame.columns, where)
    return F.col(".".join(map(_quoted, parts)))


def _parse(frame: DataFrame, owner: str, expression: str, where: str, zone: str = "UTC") -> Column:
    columns = {name.lower() for name in frame.columns}
    for name in computed_names(expression):
        if name.lower() not in columns:  # else it would be the one who runs this, or when
            raise no_such_column(owner, name, frame.columns, where)
    column, spark = F.expr(expression), frame.sparkSession
    # Spark casts where two types meet, without a word: the analysed plan alone shows it
    analyzed = frame.select(column)._jdf.queryExecution().analyzed().expressions().apply(0)
    nodes = list(_nodes(analyzed))
    casts = [cast for node in nodes if (cast := _unwritten_cast(spark, node))]
    if zone != "UTC" and any(cast.is_from(("string", "timestamp_ntz"), "timestamp") for cast in casts):
        raise InputError(
            f"{owner}: expected times of {zone}, found that Spark takes those in {expression!r} for UTC's; name the "
            "column itself, or write to_timestamp_ntz of text"
        )
    if zone != "UTC" and any(_reads_instant_in_utc(spark, node) for node in nodes):
        raise InputError(
            f"{owner}: expected times of {zone}, found that Spark takes days and hours in {expression!r} from UTC's; "
            "name the column itself: its times are instants, and need no zone"
        )
    # ``int(x)`` is no cast that somebody wrote, to Spark: as many as there are such are excused, of whatever type
    n_written = len(_WRITTEN_CAST.findall(_TEXT.sub("", expression)))
    to_integers = [cast for cast in casts if cast.to_kind in _INTEGERS and not cast.is_constant]
    has_text = any(cast.from_kind == "string" for cast in to_integers) and len(to_integers) > n_written
    if has_text or any(_lists_numbers_beside_text(spark, node) for node in nodes):
        raise InputError(
            f"{owner}: expected text compared with text, or numbers with numbers, in {expression!r}, found text and a "
            "whole number: Spark would take the text 0.59 for 0 and one of a large number for none; write "
            "cast(COLUMN as double), or the number in quotes"
        )
    return column


class _Cast(NamedTuple):
    """A cast in an analysed expression, and whether what is cast is a constant."""

    from_kind: str
    to_kind: str
    is_constant: bool

    def is_from(self, kinds: Sequence[str], *to_kinds: str) -> bool:
        """Whether a column of one of these types is cast to another of those."""
        return self.from_kind in kinds and self.to_kind in to_kinds and not self.is_constant


def _unwritten_cast(spark: SparkSession, node: Any) -> _Cast | None:
    """The cast that Spark has put where nobody wrote one, if the node (of Spark's catalyst) is one."""
    if node.getClass().getSimpleName() != "Cast":
        return None
    # the parser tags the casts that somebody wrote
    written = spark._jvm.org.apache.spark.sql.catalyst.expressions.Cast.USER_SPECIFIED_CAST()  # type: ignore[union-attr]
    if node.getTagValue(written).isDefined():
        return None
    child = node.child()
    return _Cast(child.dataType().simpleString(), node.dataType().simpleString(), child.foldable())


def _lists_numbers_beside_text(spark: SparkSession, node: Any) -> bool:
    """Whether a node looks for a text in a list of numbers: Spark makes text of these, and 1.0 is not 1."""
    if node.getClass().getSimpleName() != "In":
        return False
    value, *listed = [_unwritten_cast(spark, child) for child in _children(node)]
    is_text = _children(node)[0].dataType().simpleString() == "string" and (not value or value.from_kind == "string")
    numbers = (*_INTEGERS, "float", "double", "decimal")
    return is_text and any(cast and cast.from_kind.startswith(numbers) for cast in listed)


def _reads_instant_in_utc(spark: SparkSession, node: Any) -> bool:
    """Whether a node takes a column of instants apart, or for a wall time, by the zone of the session."""
    kind = spark._jvm.java.lang.Class.forName(  # type: ignore[union-attr]
        "org.apache.spark.sql.catalyst.expressions.TimeZoneAwareExpression"
    )
    name = node.getClass().getSimpleName()
    if not kind.isInstance(node) or name in _ADDITIONS:
        return False
    if name == "Cast" and node.dataType().simpleString() not in _BY_THE_CLOCK:
        return False  # seconds since 1970 need no zone
    return any(child.dataType().simpleString() == "timestamp" and not child.foldable() for child in _children(node))


def _nodes(expression: Any) -> Iterator[Any]:
    """An expression of Spark's catalyst and all that it is made of."""
    yield expression
    for child in _children(expression):
        yield from _nodes(child)


def _children(expression: Any) -> list[Any]:
    children = expression.children()
    return [children.apply(number) for number in range(children.length())]


@contextlib.contextmanager
def naming_input(owner: str, where: str) -> Iterator[None]:
    """Turn what Spark says of a table, file or expression into an InputError that names the input."""
    try:
        yield
    except (PySparkException, Py4JJavaError) as error:
        # py4j puts a colon before what the JVM says
        lines = [line.strip(": ") for line in str(error).splitlines() if line.strip()]
        reason = next((line for line in lines if not line.startswith("An error occurred while calling")), "no reason")
        fix = "correct the mapping, or give Spark what it needs to reach them"
        if "COLUMN_ALREADY_EXISTS" in reason:
            fix = "rename one of the columns, in the files, that differ by case alone"
        raise InputError(
            f"{owner}: expected rows that Spark can read from {where}, found: {reason[:400]}; {fix}"
        ) from error


def _urls(settings: InputSettings, found: InputFiles | None) -> list[str]:
    """Of the files of an input, as Spark takes them."""
    return [escaped_url(file) for file in found.files] if found else [spark_scheme(str(settings.path))]


def _quoted(name: str) -> str:
    """The name of a column as Spark takes it whole, dots and backquotes in it too."""
    return f"`{name.replace('`', '``')}`"


def _read(
    spark: SparkSession, owner: str, settings: InputSettings, found: InputFiles | None, version: int | None
) -> DataFrame:
    if settings.as_of is not None and version is None:
        raise InputError(
            f"{owner}: expected a Delta table with a version at {settings.as_of} in {settings.location}, found none; "
            "leave as_of out, or name a later time"
        )
    if settings.table is not None:
        return read_version(spark, quoted_name(*settings.table.split(".")), version)
    kind = found.format if found else settings.format
    if kind == "delta":
        reader = spark.read.format("delta")
        url = spark_url(found.root) if found else spark_scheme(str(settings.path))
        return (reader if version is None else reader.option("versionAsOf", version)).load(url)
    paths = _urls(settings, found)
    reader = spark.read.option("basePath", spark_url(found.root)) if found else spark.read
    if kind == "parquet":
        # without mergeSchema, the columns would be those of one file
        reader = reader.options(mergeSchema=True, **PARQUET_OPTIONS)
        # of nanoseconds Spark reads whole numbers, and would merge them with times that are others, or with numbers
        if found is None or not mixes_nanoseconds(found.types):
            try:
                return reader.parquet(*paths)
            except (PySparkException, Py4JJavaError) as error:
                if found is None or "CANNOT_MERGE_SCHEMAS" not in str(error):
                    raise
        # Spark merges columns of equal types alone, but makes numbers of different types one in a union
        groups = group_by_types(owner, found.types, settings)
        frames = (_read_group(reader, group) for group in groups)
        return functools.reduce(lambda one, other: one.unionByName(other, allowMissingColumns=True), frames)
    if kind == "json":
        # all values as text, as in CSV: of numbers Spark would infer a type by all of the files, double for some ids
        return reader.options(columnNameOfCorruptRecord=MALFORMED, primitivesAsString=True).json(paths)
    options: dict[str, str | bool] = {
        "sep": settings.delimiter,
        "header": not settings.header,
        # quotes in quotes are doubled, as RFC 4180 has it; Spark's default is a backslash
        "escape": '"',
        # each file's header is compared with the schema; by default Spark takes columns by their position
        "enforceSchema": False,
    }
    if found:
        names = read_header(found.files[0], settings.delimiter) if not settings.header else settings.header
    else:  # of files that no mount reaches, Spark reads the first line
        names = settings.header or spark.read.options(**options).csv(paths).columns
    # all as text: of a line with one value that is no number, Spark would say that it is malformed as a whole
    schema = StructType([StructField(name, StringType()) for name in (*names, MALFORMED)])
    return reader.options(columnNameOfCorruptRecord=MALFORMED, **options).schema(schema).csv(paths)


def _read_group(reader: DataFrameReader, group: ParquetGroup) -> DataFrame:
    frame = reader.parquet(*map(escaped_url, group.files)).drop(*group.left_out)
    for name in group.doubles:
        frame = frame.withColumn(name, F.col(_quoted(name)).cast("double"))
    for name, is_instant in group.nanoseconds.items():
        if (name, "bigint") in frame.dtypes:  # else the Arrow schema tells another unit than Parquet's own
            frame = frame.withColumn(name, nanos_to_time(F.col(_quoted(name)), is_instant))
    return frame
