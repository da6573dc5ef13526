"""Ingest: the challenge's source files or a user's own tables -> typed events, the products, and the quarantine.

A clean source is read once: its rows are counted in the files' footers and in the commit of its table. Only where
the two differ is it read again, for the rows that were rejected.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial, reduce
from pathlib import Path

from pyspark.sql import DataFrame, SparkSession

from conf.inputs import IngestSettings
from conf.pipeline import PipelineConfig
from jobs.inputs.ids import refuse_alike
from jobs.inputs.mapped_tables import MappedInputs
from jobs.inputs.rejects import collect_explanation, collect_reasons
from jobs.inputs.source_files import naming_unreadable_files
from jobs.inputs.sources import ChallengeInputs, Source
from jobs.runtime.side_by_side import map_side_by_side
from jobs.storage.delta_commit import WrittenFile
from jobs.storage.delta_tables import TableCommit, exists, next_ingest, read_table, write_table
from jobs.storage.metrics_log import append_metrics
from jobs.storage.workspace import Workspace
from jobs.transforms.duplicates import collect_n_duplicates
from jobs.transforms.ids import number_new
from schemas.behaviours import PRODUCT_BUY
from schemas.errors import InputError
from schemas.tables import IDS, MALFORMED, PRODUCT_PROPERTIES, QUARANTINE

log = logging.getLogger(__name__)

NO_PURCHASE = "expected purchases, found none that keeps the contract"


@dataclass(frozen=True)
class Counts:
    """Where the rows of a source went.

    Attributes
    ----------
    n_in : by the source, such as its files' footers
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


def open_inputs(spark: SparkSession, config: PipelineConfig, workspace: Workspace) -> ChallengeInputs | MappedInputs:
    """The inputs; what is refused here needs no look at all of their rows."""
    # both give ``products`` and ``events``; what follows does not ask which it has, but for ids that are text
    inputs = (MappedInputs if config.mapping.inputs else ChallengeInputs)(spark, config, workspace)
    check_any_purchase(inputs.events(PRODUCT_BUY))  # windows and labels are made of purchases
    if isinstance(inputs, MappedInputs) and exists(spark, workspace.table(IDS.name)):
        inputs.check_kinds(read_table(spark, workspace, IDS))
    return inputs


def run(
    spark: SparkSession,
    config: PipelineConfig,
    workspace: Workspace,
    inputs: ChallengeInputs | MappedInputs | None = None,
) -> None:
    """Write typed events, products and quarantine; every source row is kept, quarantined or a removed duplicate.

    Parameters
    ----------
    inputs : opened; None opens them
    """
    inputs = inputs or open_inputs(spark, config, workspace)
    tables = {**config.events_tables(), PRODUCT_PROPERTIES.name: PRODUCT_PROPERTIES}
    number = next_ingest(spark, workspace, [*tables.values(), IDS])
    if isinstance(inputs, MappedInputs):
        inputs.ids = write_ids(spark, inputs, workspace, number)
    # a task per part of a source file writes one file: as large as its part, nothing to gather
    write = partial(write_table, workspace=workspace, is_log=True, keep_partitions=True, ingest=number)
    # products first, see ``n_first``
    found = [inputs.products(), *(inputs.events(name, has_products=True) for name in config.behaviours)]
    sources = [source for source in found if source]
    given = [source.table.name for source in sources]
    for name, table in tables.items():
        if name not in given:  # no row of an earlier ingest may stay
            write(spark.createDataFrame([], table.ddl), table=table, write_files=write_no_files)
    write_good = partial(write_source, settings=config.ingest, write=write)
    # where products judge the skus of events, their table must be there first
    n_first = 1 if config.ingest.unknown_sku == "quarantine" else 0
    counts = [*map_side_by_side(write_good, sources[:n_first]), *map_side_by_side(write_good, sources[n_first:])]
    if config.ingest.count_duplicates and not config.ingest.drop_duplicates:
        behaviours = [name for name in config.behaviours if name in given]
        n_duplicates = collect_n_duplicates({name: read_table(spark, workspace, tables[name]) for name in behaviours})
        counts = [
            replace(count, n_duplicates=n_duplicates.get(source.table.name))
            for source, count in zip(sources, counts, strict=True)
        ]
    # before the checks: whoever gets their message looks at the rejects in this table
    write_quarantine(spark, sources, counts, workspace, number)
    quarantine = read_table(spark, workspace, QUARANTINE)
    reasons = collect_reasons(quarantine)
    check_no_row_lost(sources, counts, reasons, workspace)
    check_few_rejected(sources, counts, reasons, quarantine, config.ingest)


def write_ids(spark: SparkSession, inputs: MappedInputs, workspace: Workspace, ingest: int) -> DataFrame:
    """``tables/ids``, with a row for each text of the inputs that had none.

    Raises
    ------
    InputError
        If two ids differ by nothing but white space around them.
    """
    has_ids = exists(spark, workspace.table(IDS.name))
    ids = read_table(spark, workspace, IDS) if has_ids else spark.createDataFrame([], IDS.ddl)
    texts = inputs.texts()
    if texts is None:
        return ids
    with ExitStack() as cached:
        new = number_new(texts, ids, ingest, cached)
        refuse_alike(ids.unionByName(new))
        if not has_ids or not new.isEmpty():  # a first table even without rows: it is read below
            # no row has this number yet: the write replaces none
            write_table(new, workspace, IDS, ingest=ingest, where=f"ingest = {ingest:d}")
    return read_table(spark, workspace, IDS)


def write_source(source: Source, settings: IngestSettings, write: Callable[..., TableCommit]) -> Counts:
    """Write the good rows; without their exact repeats where the settings say so."""
    with naming_unreadable_files(source.files):
        n_in, good = source.count(), source.good()
        if settings.drop_duplicates and source.table != PRODUCT_PROPERTIES:  # a sku has one row anyway
            n_kept = write(good.distinct(), table=source.table).n_rows
            n_duplicates = good.count() - n_kept  # exact: ``check_no_row_lost`` rests on the rows that are good
            return Counts(n_in, n_kept, n_duplicates, n_dropped=n_duplicates)
        write_files = source.typed.write if source.typed else None
        return Counts(n_in, write(good, table=source.table, write_files=write_files).n_rows, None, n_dropped=0)


def write_quarantine(
    spark: SparkSession, sources: Sequence[Source], counts: Sequence[Counts], workspace: Workspace, ingest: int
) -> None:
    """Replace the quarantine by the bad rows of the sources that miss some; the others are not read again."""
    bad = [source.bad() for source, count in zip(sources, counts, strict=True) if count.n_missing]
    rows = reduce(DataFrame.unionByName, bad, spark.createDataFrame([], QUARANTINE.ddl))
    with naming_unreadable_files([path for source in sources for path in source.files]):
        write_table(rows, workspace, QUARANTINE, ingest=ingest, write_files=None if bad else write_no_files)


def write_no_files(spark: SparkSession, folder: Path) -> list[WrittenFile]:
    """Leave a table without rows: no Spark job."""
    folder.mkdir(parents=True, exist_ok=True)
    return []


def check_any_purchase(purchases: Source | None) -> None:
    """Raise InputError, with the reasons, unless a purchase keeps the contract."""
    assert purchases, "a needed source, which the inputs have checked"
    with naming_unreadable_files(purchases.files):
        # the first part is looked at here: where it has a purchase, as nearly always, no Spark job has to find one
        has_purchase = purchases.typed is not None and any(purchases.typed.type_part(0))
        if has_purchase or not purchases.good().isEmpty():
            return
        rejects = purchases.bad()
        reasons = collect_reasons(rejects).get(PRODUCT_BUY)
        if not reasons:
            raise InputError(
                f"{purchases.where}: expected purchases, found no row; give it rows, or correct the condition (where) "
                "that chooses them"
            )
        why = collect_explanation(rejects, PRODUCT_BUY, reasons)
    raise InputError(f"{purchases.where}: {NO_PURCHASE}: {why}; correct its rows")


def check_no_row_lost(
    sources: Sequence[Source], counts: Sequence[Counts], reasons: Mapping[str, Mapping[str, int]], workspace: Workspace
) -> None:
    """Log where each source's rows went and why, and raise InputError if some went nowhere or to two tables.

    Parameters
    ----------
    reasons : source -> reason -> rows in the quarantine
    """
    lost = []
    for source, count in zip(sources, counts, strict=True):
        own_reasons = reasons.get(source.table.name, {})
        n_bad = sum(own_reasons.values())
        _log_counts(source.table.name, count, n_bad, workspace)
        if not count.n_in:
            log.warning("  %s: no row in %s, or its condition (where) chooses none", source.table.name, source.where)
        if own_reasons:
            counted = ", ".join(f"{n:,} {reason}" for reason, n in own_reasons.items())
            log.info("  %s: quarantined: %s", source.table.name, counted)
        if count.n_missing != n_bad:
            lost.append(
                f"{source.where}: expected its {count.n_in} source rows in the tables, found {count.n_kept} kept, "
                f"{n_bad} quarantined and {count.n_dropped} removed as duplicates"
            )
    if lost:
        raise InputError(f"{'; '.join(lost)}; did the files change while they were read? Run ingest again")


def check_few_rejected(
    sources: Sequence[Source],
    counts: Sequence[Counts],
    reasons: Mapping[str, Mapping[str, int]],
    quarantine: DataFrame,
    settings: IngestSettings,
) -> None:
    """Raise InputError that names each source of which too many rows were rejected, and why they were."""
    share = settings.max_quarantined_share
    problems = []
    for source, count in zip(sources, counts, strict=True):
        name = source.table.name
        # lines that cannot be read are measured by those of the files, of which a source may have few
        n_malformed = reasons.get(name, {}).get(MALFORMED, 0) if source.count_lines else 0
        rejected = "of its rows rejected (ingest.max_quarantined_share), found"
        malformed = "of its lines malformed (ingest.max_quarantined_share), found"
        found = [(rejected, count.n_missing - n_malformed, count.n_in)]
        if n_malformed and source.count_lines:
            found.append((malformed, n_malformed, source.count_lines()))
        if name == PRODUCT_BUY and not count.n_kept:  # whatever share is allowed
            problem = NO_PURCHASE
        elif too_many := [each for each in found if each[2] and each[1] / each[2] > share]:
            what, n, of = too_many[0]
            problem = f"expected at most {share:.1%} {what} {n:,} of {of:,} ({n / of:.1%})"
        else:
            continue
        problems.append(f"{source.where}: {problem}: {collect_explanation(quarantine, name, reasons[name])}")
    if problems:
        raise InputError(
            f"{'; '.join(problems)}; correct the rows, or allow more by ingest.max_quarantined_share; the table "
            f"{QUARANTINE.name!r} holds all rejects; run ingest again"
        )


def _log_counts(name: str, count: Counts, n_quarantined: int, workspace: Workspace) -> None:
    """One line in the log and one in ``metrics.jsonl``; duplicates only where they were counted."""
    metrics = {
        "source": name,
        "ingest/rows_in": count.n_in,
        "ingest/rows_kept": count.n_kept,
        "ingest/rows_quarantined": n_quarantined,
    }
    message = f"{count.n_in:,} rows = {count.n_kept:,} kept + {n_quarantined:,} quarantined"
    if count.n_duplicates is not None:
        metrics["ingest/duplicates"] = count.n_duplicates
        verb = "exact duplicates removed" if count.n_dropped else "exact duplicates among those kept"
        message += f"{' + ' if count.n_dropped else ', '}{count.n_duplicates:,} {verb}"
    log.info("  %s: %s", name, message)
    append_metrics(workspace.metrics, metrics)


if __name__ == "__main__":
    from jobs.cli import main_stage

    main_stage("ingest")
