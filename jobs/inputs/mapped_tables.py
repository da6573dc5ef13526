"""A user's own tables, by a mapping (``conf/mappings.py``) -> the sources that ingest reads."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial, reduce
from pathlib import Path

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import IntegralType, TimestampNTZType, TimestampType

from conf.mappings import ITEM, LATEST_BY, PRODUCTS, ColumnSettings, InputSettings
from conf.pipeline import PipelineConfig
from jobs.inputs.data_files import name_source
from jobs.inputs.event_rules import (
    first_broken,
    keep_known_skus,
    keep_one_per_sku,
    reject_others_of_sku,
    rejected,
)
from jobs.inputs.ids import find_keyed, with_ids
from jobs.inputs.input_files import find_input
from jobs.inputs.mapped_columns import (
    MappedColumn,
    Rule,
    Typed,
    type_codes,
    type_id,
    type_price,
    type_time,
    with_buckets,
)
from jobs.inputs.parquet_types import nanosecond_columns
from jobs.inputs.readers import (
    MALFORMED,
    find_column,
    find_version,
    naming_input,
    read_input,
    refuse_joined_lines,
    select_rows,
)
from jobs.inputs.sources import Source
from jobs.inputs.timestamps import nanos_to_time
from jobs.storage.delta_tables import read_table
from jobs.storage.metrics_log import append_metrics
from jobs.storage.workspace import Workspace
from schemas import tables as t
from schemas.behaviours import ItemKind
from schemas.columns import CATEGORY, CLIENT_ID, KEY, KIND, NAME, PRICE, REASON, ROW, SKU, TIMESTAMP
from schemas.errors import InputError
from schemas.tables import PRODUCT_PROPERTIES, TableSchema

log = logging.getLogger(__name__)


class MappedInputs:
    """The sources of a mapping.

    Raises
    ------
    InputError
        If an input cannot be read, or a column is missing or of a type that it cannot be taken as.
    """

    def __init__(self, spark: SparkSession, config: PipelineConfig, workspace: Workspace) -> None:
        self.spark, self.config, self.workspace = spark, config, workspace
        self.rows: dict[str, DataFrame] = {}
        self.columns: dict[str, list[MappedColumn]] = {}
        self.files: dict[str, tuple[Path, ...]] = {}
        self.lines: dict[str, Callable[[], int]] = {}
        self.versions: dict[tuple[str, int | None, str | None], int | None] = {}
        self.ids: DataFrame | None = None  # once they are written, the integers that good rows have for their texts
        for name, settings in config.mapping.inputs.items():
            self._open(name, settings)
        # once all inputs are open: a kind of id is text everywhere if one column of it is
        self.keyed = find_keyed([column for columns in self.columns.values() for column in columns if column.holds_ids])
        if PRODUCTS not in self.rows:
            log.info("  %s: the mapping has none: no categories, prices and names", PRODUCTS)
        elif latest := config.mapping.inputs[PRODUCTS].latest_by:
            log.info("  %s: of several rows of a sku the latest by %s", PRODUCTS, latest.text)
            self._keep_latest_products()
        self.judged = {name: self._judge(name) for name in self.rows}

    def check_kinds(self, ids: DataFrame) -> None:
        """Raise InputError where ids were texts in an earlier ingest, and are integers now.

        Parameters
        ----------
        ids : ``tables/ids`` of earlier ingests
        """
        kinds = {column.name for columns in self.columns.values() for column in columns if column.holds_ids}
        if mixed := kinds.difference(self.keyed).intersection(
            row[KIND] for row in ids.select(KIND).distinct().collect()
        ):
            raise InputError(
                f"expected {', '.join(sorted(mixed))} as keys, as earlier ingests of {self.workspace.out} took them, "
                "found integers; set as: key, or choose another --out"
            )

    def texts(self) -> DataFrame | None:
        """Columns kind and key: the texts that are to have integers; None where all ids are integers."""
        found = []
        for name, judged in self.judged.items():
            pairs = [F.struct(F.lit(each).alias(KIND), F.col(each).alias(KEY)) for each in self._keyed_columns(name)]
            if pairs:
                good = judged.filter(F.col(REASON).isNull())
                found.append(good.select(F.explode(F.array(*pairs)).alias("pair")).select("pair.*"))
        return reduce(DataFrame.unionByName, found) if found else None

    def products(self) -> Source | None:
        """The products; None where the mapping has none."""
        if PRODUCTS not in self.rows:
            return None
        judged = self.judged[PRODUCTS]

        def good() -> DataFrame:
            kept = keep_one_per_sku(judged)
            is_amount = any(column.settings.as_ == "amount" for column in self.columns[PRODUCTS])
            return self._with_ids(PRODUCTS, with_buckets(kept) if is_amount else kept)

        return self._source(PRODUCTS, PRODUCT_PROPERTIES, good, lambda: reject_others_of_sku(judged, PRODUCTS))

    def events(self, name: str, has_products: bool = False) -> Source:
        """The events of a behaviour; see ``ChallengeInputs.events``."""
        table, judged, item = self.config.events_table(name), self.judged[name], self.config.behaviour(name).item
        is_judged = has_products and item == SKU and self.config.ingest.unknown_sku == "quarantine"

        def known_skus() -> DataFrame | None:
            return read_table(self.spark, self.workspace, PRODUCT_PROPERTIES) if is_judged else None

        def good() -> DataFrame:
            events = self._with_ids(name, judged.filter(F.col(REASON).isNull()).drop(REASON, ROW))
            known = known_skus()
            return events if known is None else keep_known_skus(events, known)

        def bad() -> DataFrame:
            known = known_skus()
            if known is None:
                return rejected(judged, name)
            unknown = self._with_ids(name, judged.filter(F.col(REASON).isNull())).join(known, on=SKU, how="left_anti")
            reasons = unknown.select(F.lit(t.UNKNOWN_SKU).alias(REASON), ROW)
            return rejected(judged.select(REASON, ROW).unionByName(reasons), name)

        return self._source(name, table, good, bad)

    def _source(
        self, name: str, table: TableSchema, good: Callable[[], DataFrame], bad: Callable[[], DataFrame]
    ) -> Source:
        where = name_source(self.config, self.workspace, name)
        count = partial(_count_rows, self.rows[name], self.columns[name][0].value)
        return Source(where, table, count, good, bad, self.files[name], count_lines=self.lines.get(name))

    def _open(self, name: str, settings: InputSettings) -> None:
        owner = f"inputs.{name}"
        found = find_input(owner, settings, self.workspace.challenge)
        asked = (settings.location, settings.version, settings.as_of)
        if asked not in self.versions:  # once: the inputs of a table, told apart by ``where``, read one version of it
            with naming_input(owner, settings.location):  # also of a table that Delta cannot read
                self.versions[asked] = find_version(self.spark, settings, found)
        version = self.versions[asked]
        if version is not None:
            read = {"read": settings.location, "read/version": version, "read/as_of": None}
            append_metrics(self.workspace.metrics, read)
        self.files[name] = found.files if found else ()
        whole = read_input(self.spark, owner, settings, found, version)
        is_first = settings.location not in [self.config.mapping.inputs[other].location for other in self.rows]
        self.rows[name] = select_rows(whole, owner, settings, has_malformed=is_first)
        nanoseconds = nanosecond_columns(found.types) if found and found.format == "parquet" else {}
        self.columns[name] = [
            self._find_column(name, role, column, nanoseconds) for role, column in settings.columns.items()
        ]
        if is_first:
            refuse_joined_lines(self.spark, owner, settings, found)
        if is_first and MALFORMED in whole.columns:
            self.lines[name] = partial(_count_rows, whole, whole.columns[0])

    def _find_column(
        self, name: str, role: str, settings: ColumnSettings, nanoseconds: Mapping[str, bool]
    ) -> MappedColumn:
        owner, rows = f"inputs.{name}.{role}", self.rows[name]
        is_time = role in (TIMESTAMP, LATEST_BY)
        zone = self.config.mapping.timezone if is_time else "UTC"
        value = find_column(rows, owner, settings, self.config.mapping.inputs[name].location, zone)
        column, kind = settings.column or "", rows.select(value).schema[0].dataType
        # where Spark has read numbers: of files that differ, its reader has made times of them
        if is_time and column in nanoseconds and isinstance(kind, IntegralType):
            value = nanos_to_time(value, nanoseconds[column])
            kind = TimestampType() if nanoseconds[column] else TimestampNTZType()
        holds_ids, typed_name = role in (CLIENT_ID, SKU, CATEGORY), role
        if role == ITEM:
            behaviour = self.config.behaviour(name)
            holds_ids, typed_name = behaviour.kind == ItemKind.ID, behaviour.item
        return MappedColumn(owner, role, typed_name, settings, value, kind, holds_ids)

    def _keep_latest_products(self) -> None:
        """Replace the rows of products by one per sku, and its columns by those of that."""
        columns, rows = self.columns[PRODUCTS], self.rows[PRODUCTS]
        by_role = {column.role: column for column in columns}
        time, rules = self._type(by_role[LATEST_BY])
        # a value that is no time ranks below all times; where a sku has no other, its rules reject the product
        rank = F.when(first_broken(rules).isNull(), time)
        values = F.struct(*(column.value.alias(column.role) for column in columns))
        # by the sku as it is typed: 7 and 007 may be one; what is none is compared as it is
        typed, own = self._type(by_role[SKU])[0], by_role[SKU].value
        sku = F.coalesce(typed.cast("string"), own.cast("string"))
        # a line that cannot be read belongs to no sku: each such line is a group of its own
        keys = [sku.alias("key"), *([F.col(MALFORMED)] if MALFORMED in rows.columns else [])]
        latest = F.max_by(values, F.struct(rank, values)).alias("latest")  # of equal times, the largest values
        self.rows[PRODUCTS] = rows.groupBy(*keys).agg(latest).select("latest.*", *keys[1:])
        self.columns[PRODUCTS] = [replace(column, value=F.col(column.role)) for column in columns]

    def _judge(self, name: str) -> DataFrame:
        """The rows of an input, typed, with the columns ``reason``, null where the rules are kept, and ``row`` as JSON.

        Ids that are keys are still text.
        """
        rows, columns = self.rows[name], self.columns[name]
        typed: dict[str, Column] = {}
        rules: list[Rule] = []
        shown = {column.settings.text: column.value for column in columns}
        if MALFORMED in rows.columns:
            rules.append((F.col(MALFORMED).isNotNull(), t.MALFORMED))
            shown["line"] = F.col(MALFORMED)
        for column in columns:
            typed[column.name], own_rules = self._type(column)
            rules += own_rules
        if name == PRODUCTS:
            missing = {CATEGORY: "bigint", PRICE: "bigint", NAME: "string"}
            typed = {SKU: typed[SKU]} | {
                role: typed.get(role, F.lit(None).cast(kind)) for role, kind in missing.items()
            }
        row = F.to_json(F.struct(*(value.alias(name) for name, value in shown.items())))
        typed_columns = (value.alias(column) for column, value in typed.items())
        return rows.select(*typed_columns, first_broken(rules).alias(REASON), row.alias(ROW))

    def _type(self, column: MappedColumn) -> Typed:
        if column.role in (TIMESTAMP, LATEST_BY):
            return type_time(column, self.config.mapping.timezone, self.config.ingest)
        if column.holds_ids:
            return type_id(column, column.name in self.keyed)
        return type_price(column) if column.role == PRICE else type_codes(column)

    def _keyed_columns(self, name: str) -> list[str]:
        return [column.name for column in self.columns[name] if column.holds_ids and column.name in self.keyed]

    def _with_ids(self, name: str, rows: DataFrame) -> DataFrame:
        """Unchanged before there are ids."""
        return rows if self.ids is None else with_ids(rows, self._keyed_columns(name), self.ids)


def _count_rows(rows: DataFrame, column: Column | str) -> int:
    # a column of data too: where malformed lines are filtered, Spark refuses a query of them alone
    return int(rows.agg(F.count("*"), F.count(column)).collect()[0][0])
