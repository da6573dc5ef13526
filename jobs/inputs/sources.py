"""A source of rows as ingest sees it, and those of the challenge directory."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial, reduce
from pathlib import Path

from pyspark.sql import DataFrame, SparkSession

from conf.pipeline import PipelineConfig
from jobs.inputs.challenge_directory import check_challenge, count_rows, group_files, source_path
from jobs.inputs.data_files import log_unread_files
from jobs.inputs.event_rules import (
    judge_products,
    keep_known_skus,
    keep_one_per_sku,
    reject_events,
    reject_others_of_sku,
    type_events,
)
from jobs.inputs.source_files import read_group
from jobs.inputs.typed_files import TypedFiles, typed_files
from jobs.storage.delta_tables import read_table
from jobs.storage.workspace import Workspace
from schemas.behaviours import ItemKind
from schemas.columns import SKU
from schemas.tables import PRODUCT_CONTRACT, PRODUCT_PROPERTIES, TableSchema, events_contract

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Source:
    """One source and its two kinds of row.

    Attributes
    ----------
    where : what messages call it: a path or the name of a table
    table : where the good rows go; it has the source's name
    count : gives how many rows it has
    good : gives the typed rows that keep the contract, once the tables that may judge them are written
    bad : gives the others, as rows of ``quarantine``
    files : files and folders of files that may turn out to be damaged
    typed : writes the good rows too, where Python tasks can type them
    count_lines : gives the lines of its files, of which those that cannot be read are bad rows of this source; None
        where the files have no lines
    """

    where: str
    table: TableSchema
    count: Callable[[], int]
    good: Callable[[], DataFrame]
    bad: Callable[[], DataFrame]
    files: Sequence[Path] = ()
    typed: TypedFiles | None = None
    count_lines: Callable[[], int] | None = None


class ChallengeInputs:
    """The sources of the challenge directory; InputError where it cannot be read."""

    def __init__(self, spark: SparkSession, config: PipelineConfig, workspace: Workspace) -> None:
        check_challenge(workspace.data, config)
        log_unread_files(workspace.data, config)
        self.spark, self.config, self.workspace = spark, config, workspace

    def products(self) -> Source:
        """The products."""
        path = source_path(self.workspace.data, PRODUCT_PROPERTIES.name)
        groups = group_files(path, PRODUCT_CONTRACT)
        judged = judge_products(_union([read_group(self.spark, group) for group in groups]))
        good, bad = partial(keep_one_per_sku, judged), partial(reject_others_of_sku, judged, PRODUCT_PROPERTIES.name)
        return Source(str(path), PRODUCT_PROPERTIES, partial(count_rows, path), good, bad, [path])

    def events(self, name: str, has_products: bool = False) -> Source | None:
        """The events of a behaviour; None where it has no file.

        Parameters
        ----------
        has_products : the products will be written before the events are read, and may judge them
        """
        path, settings = source_path(self.workspace.data, name), self.config.behaviour(name)
        if not path.exists():
            log.info("  %s: no %s.parquet in the data, left out", name, name)
            return None
        item, kind, ingest = settings.item, ItemKind(settings.kind), self.config.ingest
        groups = group_files(path, events_contract(item, kind))
        is_judged = has_products and item == SKU and ingest.unknown_sku == "quarantine"

        def known_skus() -> DataFrame | None:
            return read_table(self.spark, self.workspace, PRODUCT_PROPERTIES) if is_judged else None

        def good() -> DataFrame:
            # each group is typed before they are united: text and timestamps have no common type
            events = _union([type_events(read_group(self.spark, group), item, kind, ingest) for group in groups])
            known = known_skus()
            return events if known is None else keep_known_skus(events, known)

        def bad() -> DataFrame:
            # the files are read once more: only a source whose rows do not add up comes here
            known, rows = known_skus(), (read_group(self.spark, group) for group in groups)
            return _union([reject_events(of_group, name, item, kind, ingest, known) for of_group in rows])

        # Python tasks join nothing: where the products judge events, the JVM types them
        typed = None if is_judged else typed_files(groups, item, kind, ingest)
        count = partial(count_rows, path)
        return Source(str(path), self.config.events_table(name), count, good, bad, [path], typed)


def _union(frames: Sequence[DataFrame]) -> DataFrame:
    return reduce(DataFrame.unionByName, frames)
