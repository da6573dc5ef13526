"""Ingest: the challenge's source files -> one typed table per behaviour, the products, and the quarantine.

A clean source is read once: its rows are counted in the files' footers and in the commit of its table. Only where
the two differ is it read again, for the rows that were rejected.
"""

import logging
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial, reduce
from pathlib import Path

from pyspark.sql import DataFrame, SparkSession

from conf.inputs import IngestSettings
from conf.pipeline import PipelineConfig
from jobs.inputs.challenge_directory import check_challenge, count_rows, group_files, source_path
from jobs.inputs.event_rules import keep_known_skus, reject_events, reject_products, type_events, type_products
from jobs.inputs.source_files import naming_unreadable_files, read_group
from jobs.inputs.typed_files import TypedFiles, typed_files
from jobs.storage.delta_tables import TableCommit, next_ingest, read_table, write_table
from jobs.storage.metrics_log import append_metrics
from jobs.storage.workspace import Workspace
from jobs.transforms.duplicates import collect_n_duplicates
from schemas.behaviours import PRODUCT_BUY, ItemKind
from schemas.columns import SKU
from schemas.errors import InputError
from schemas.tables import PRODUCT_CONTRACT, PRODUCT_PROPERTIES, QUARANTINE, TableSchema, events_contract

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Source:
    """One source and its two kinds of row; neither frame is computed before it is written.

    Attributes
    ----------
    path : file or folder
    table : where the good rows go; it has the source's name
    good : typed rows that keep the contract
    bad : the others, as rows of ``quarantine``
    files : writes the good rows too, where Python tasks can type them
    """

    path: Path
    table: TableSchema
    good: DataFrame
    bad: DataFrame
    files: TypedFiles | None = None


@dataclass(frozen=True)
class Counts:
    """Where the rows of a source went.

    Attributes
    ----------
    n_in : by the files' footers
    n_kept : by the commit of its table
    n_duplicates : exact repeats, the first of each not counted; None where nobody asked
    n_dropped : those of the repeats that were removed
    """

    n_in: int
    n_kept: int
    n_duplicates: int | None
    n_dropped: int

    @property
    def n_missing(self) -> int:
        """How many rows must be in the quarantine."""
        return self.n_in - self.n_kept - self.n_dropped


def run(spark: SparkSession, config: PipelineConfig, workspace: Workspace) -> None:
    """Write typed events, products and quarantine; every source row is kept, quarantined or a removed duplicate."""
    check_challenge(workspace.data, config)
    require_purchases(events_source(spark, config, workspace, PRODUCT_BUY))
    number = next_ingest(spark, workspace, [*config.events_tables().values(), PRODUCT_PROPERTIES])
    # a task per part of a source file writes one file: as large as its part, nothing to gather
    write = partial(write_table, workspace=workspace, is_log=True, keep_partitions=True, ingest=number)
    sources = [products_source(spark, workspace)]
    counts = [write_products(sources[0], write)]
    for name, table in config.events_tables().items():
        if source_path(workspace.data, name).exists():
            sources.append(events_source(spark, config, workspace, name, is_judged_by_products=True))
            counts.append(write_events(sources[-1], config.ingest, workspace, write))
        else:
            log.info("  %s: no %s.parquet in the data, left out", name, name)
            write(spark.createDataFrame([], table.ddl), table=table)
    write_quarantine(sources, counts, workspace, number)
    check_no_row_lost(sources, counts, read_table(spark, workspace, QUARANTINE), workspace)
    require_known_purchases(sources, counts)


def events_source(
    spark: SparkSession, config: PipelineConfig, workspace: Workspace, name: str, is_judged_by_products: bool = False
) -> Source:
    """The source of a behaviour's events.

    Parameters
    ----------
    is_judged_by_products : apply ``ingest.unknown_sku``; the product table must have been written
    """
    path, settings = source_path(workspace.data, name), config.behaviour(name)
    item, kind = settings.item, ItemKind(settings.kind)
    groups = group_files(path, events_contract(item, kind))
    frames = [read_group(spark, group) for group in groups]
    # each group is typed before they are united: text and timestamps have no common type
    good = _union([type_events(rows, item, kind, config.ingest) for rows in frames])
    files = typed_files(groups, item, kind, config.ingest)
    known = None
    if is_judged_by_products and item == SKU and config.ingest.unknown_sku == "quarantine":
        known = read_table(spark, workspace, PRODUCT_PROPERTIES)
        good, files = keep_known_skus(good, known), None
    bad = _union([reject_events(rows, name, item, kind, config.ingest, known) for rows in frames])
    return Source(path, config.events_table(name), good, bad, files)


def products_source(spark: SparkSession, workspace: Workspace) -> Source:
    """The source of the product table."""
    path = source_path(workspace.data, PRODUCT_PROPERTIES.name)
    rows = _union([read_group(spark, group) for group in group_files(path, PRODUCT_CONTRACT)])
    return Source(path, PRODUCT_PROPERTIES, type_products(rows), reject_products(rows, PRODUCT_PROPERTIES.name))


def require_purchases(purchases: Source) -> None:
    """Raise InputError, before anything is written, unless one purchase keeps the contract."""
    with naming_unreadable_files([purchases.path]):
        is_empty = purchases.good.isEmpty()
    if is_empty:
        raise InputError(f"{purchases.path}: expected purchases, found none that keeps the contract; check its values")


def require_known_purchases(sources: Sequence[Source], counts: Sequence[Counts]) -> None:
    """Raise InputError, once the quarantine tells the reasons, unless one purchase was kept."""
    for source, count in zip(sources, counts, strict=True):
        if source.table.name == PRODUCT_BUY and not count.n_kept:
            raise InputError(
                f"{source.path}: expected purchases of skus in {PRODUCT_PROPERTIES.name}, found none among its "
                f"{count.n_in:,} rows (ingest.unknown_sku=quarantine; table 'quarantine' tells why of each); "
                "give the products of these purchases, or set ingest.unknown_sku=keep"
            )


def write_products(source: Source, write: Callable[..., TableCommit]) -> Counts:
    """Write one row per sku."""
    n_in = count_rows(source.path)
    with naming_unreadable_files([source.path]):
        return Counts(n_in, write(source.good, table=source.table).n_rows, n_duplicates=None, n_dropped=0)


def write_events(
    source: Source, settings: IngestSettings, workspace: Workspace, write: Callable[..., TableCommit]
) -> Counts:
    """Write the good events, and count their duplicates as the settings say."""
    n_in = count_rows(source.path)
    with naming_unreadable_files([source.path]):
        if settings.drop_duplicates:
            n_kept = write(source.good.distinct(), table=source.table).n_rows
            n_duplicates = source.good.count() - n_kept  # exact: ``check_no_row_lost`` rests on the rows that are good
            return Counts(n_in, n_kept, n_duplicates, n_dropped=n_duplicates)
        n_kept = write(source.good, table=source.table, files=source.files).n_rows
    if not settings.count_duplicates:
        return Counts(n_in, n_kept, n_duplicates=None, n_dropped=0)
    written = read_table(source.good.sparkSession, workspace, source.table)
    return Counts(n_in, n_kept, collect_n_duplicates(written), n_dropped=0)


def write_quarantine(sources: Sequence[Source], counts: Sequence[Counts], workspace: Workspace, ingest: int) -> None:
    """Replace the quarantine by the bad rows of the sources that miss some; the others are not read again."""
    spark = sources[0].good.sparkSession
    bad = [source.bad for source, count in zip(sources, counts, strict=True) if count.n_missing]
    rows = _union([spark.createDataFrame([], QUARANTINE.ddl), *bad])
    with naming_unreadable_files([source.path for source in sources]):
        write_table(rows, workspace, QUARANTINE, ingest=ingest)


def check_no_row_lost(
    sources: Sequence[Source], counts: Sequence[Counts], quarantine: DataFrame, workspace: Workspace
) -> None:
    """Log where each source's rows went, and raise InputError if some went nowhere or to two places."""
    n_quarantined = {row["source"]: row["count"] for row in quarantine.groupBy("source").count().collect()}
    lost = []
    for source, count in zip(sources, counts, strict=True):
        n_bad = n_quarantined.get(source.table.name, 0)
        log_counts(source.table.name, count, n_bad, workspace)
        if count.n_missing != n_bad:
            lost.append(
                f"{source.path}: expected its {count.n_in} source rows in the tables, found {count.n_kept} kept, "
                f"{n_bad} quarantined and {count.n_dropped} removed as duplicates"
            )
    if lost:
        raise InputError(f"{'; '.join(lost)}; did the files change while they were read? Run ingest again")


def log_counts(name: str, count: Counts, n_quarantined: int, workspace: Workspace) -> None:
    """One line in the log and one in ``metrics.jsonl``; duplicates only where they were counted."""
    metrics = {
        "source": name,
        "ingest/rows_in": count.n_in,
        "ingest/rows_kept": count.n_kept,
        "ingest/rows_quarantined": n_quarantined,
    }
    told = f"{count.n_in:,} rows = {count.n_kept:,} kept + {n_quarantined:,} quarantined"
    if count.n_duplicates is not None:
        metrics["ingest/duplicates"] = count.n_duplicates
        verb = "exact duplicates removed" if count.n_dropped else "exact duplicates among those kept"
        told += f"{' + ' if count.n_dropped else ', '}{count.n_duplicates:,} {verb}"
    log.info("  %s: %s", name, told)
    append_metrics(workspace.metrics, metrics)


def _union(frames: Sequence[DataFrame]) -> DataFrame:
    return reduce(DataFrame.unionByName, frames)


if __name__ == "__main__":
    from jobs.cli import main_stage

    sys.exit(main_stage("ingest"))
