"""Ingest: the challenge's source files -> one typed table per behaviour, the products, and the quarantine."""

import logging
import sys
from functools import reduce

from pyspark.sql import DataFrame, SparkSession

from conf.settings import PipelineConfig
from jobs.challenge_files import check_challenge, count_rows, source_path
from jobs.cli import main_stage
from jobs.io import TableCommit, read_table, write_table
from jobs.transforms.events import accepted, judge_events, judge_products, rejected
from jobs.workspace import Workspace
from schemas.behaviours import PRODUCT_BUY, ItemKind
from schemas.errors import InputError
from schemas.tables import PRODUCT_PROPERTIES, QUARANTINE, TableSchema

log = logging.getLogger(__name__)


def run(spark: SparkSession, config: PipelineConfig, workspace: Workspace) -> None:
    """Write typed events, products and quarantine; every source row ends in exactly one of them."""
    check_challenge(workspace.data, config)
    judged = judge_sources(spark, config, workspace)
    if accepted(judged[PRODUCT_BUY]).isEmpty():
        source = source_path(workspace.data, PRODUCT_BUY)
        raise InputError(f"{source}: expected purchases, found none that keeps the contract; check its values")
    commits = {name: write_table(accepted(rows), workspace, _table(config, name)) for name, rows in judged.items()}
    for name in [name for name in config.behaviours if name not in judged]:
        log.info("  %s: no %s.parquet in the data, left out", name, name)
        write_table(spark.createDataFrame([], config.events_table(name).ddl), workspace, config.events_table(name))
    bad_rows = reduce(DataFrame.unionByName, (rejected(rows, name) for name, rows in judged.items()))
    write_table(bad_rows, workspace, QUARANTINE)
    check_no_row_lost(spark, workspace, commits)


def judge_sources(spark: SparkSession, config: PipelineConfig, workspace: Workspace) -> dict[str, DataFrame]:
    """Source name -> judged rows, for every source that the data directory has."""
    judged = {
        name: judge_events(_read_source(spark, workspace, name), behaviour.item, ItemKind(behaviour.kind))
        for name, behaviour in config.behaviours.items()
        if source_path(workspace.data, name).exists()
    }
    return {**judged, PRODUCT_PROPERTIES.name: judge_products(_read_source(spark, workspace, PRODUCT_PROPERTIES.name))}


def check_no_row_lost(spark: SparkSession, workspace: Workspace, commits: dict[str, TableCommit]) -> None:
    """Raise InputError unless rows in = rows kept + rows quarantined, for every source."""
    quarantine = read_table(spark, workspace, QUARANTINE)
    n_rejected = {row["source"]: row["count"] for row in quarantine.groupBy("source").count().collect()}
    for name, commit in commits.items():
        n_source = count_rows(source_path(workspace.data, name))
        n_bad = n_rejected.get(name, 0)
        log.info("  %s: %s rows = %s kept + %s quarantined", name, f"{n_source:,}", f"{commit.n_rows:,}", f"{n_bad:,}")
        if n_source != commit.n_rows + n_bad:
            raise InputError(
                f"{name}: {n_source} source rows, but {commit.n_rows} kept and {n_bad} quarantined; did the files "
                "change while they were read? Run ingest again"
            )


def _table(config: PipelineConfig, name: str) -> TableSchema:
    return config.events_table(name) if name in config.behaviours else PRODUCT_PROPERTIES


def _read_source(spark: SparkSession, workspace: Workspace, name: str) -> DataFrame:
    return spark.read.option("recursiveFileLookup", "true").parquet(str(source_path(workspace.data, name)))


if __name__ == "__main__":
    sys.exit(main_stage("ingest"))
