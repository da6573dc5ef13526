"""Small tables for the tests of the evaluation stages, from literal rows or from the golden shop."""

import shutil
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from conf.load import load_config
from conf.pipeline import PipelineConfig
from jobs.stages import split as split_windows
from jobs.storage.delta_tables import write_table
from jobs.storage.workspace import Workspace
from schemas.tables import PRODUCT_PROPERTIES

CONFIG = load_config("report")
SMALL = CONFIG.restricted_to("product_buy", "page_visit")


def typed(spark: SparkSession, rows: Sequence[tuple], ddl: str) -> DataFrame:
    """Rows whose times are written as text, ``2022-06-01`` or with a time of day."""
    as_text = spark.createDataFrame(list(rows), ddl.replace("timestamp_ntz", "string"))
    times = [part.split()[0] for part in ddl.split(", ") if part.endswith("timestamp_ntz")]
    return as_text.withColumns({name: F.col(name).cast("timestamp_ntz") for name in times})


def purchases(spark: SparkSession, rows: Sequence[tuple]) -> DataFrame:
    return typed(spark, rows, "client_id bigint, timestamp timestamp_ntz, sku bigint")


def write_shop(
    spark: SparkSession, workspace: Workspace, config: PipelineConfig, products: Sequence[tuple] = (), **events: list
) -> None:
    """Every table that ingest writes; behaviours that are not named are empty."""
    for behaviour in config.behaviours:
        table = config.events_table(behaviour)
        write_table(typed(spark, events.get(behaviour, []), table.ddl), workspace, table)
    write_table(spark.createDataFrame(list(products), PRODUCT_PROPERTIES.ddl), workspace, PRODUCT_PROPERTIES)


def golden_events(spark: SparkSession, golden: Path) -> dict[str, DataFrame]:
    """The golden challenge's events in the files' order."""
    files = {name: spark.read.parquet(str(golden / "challenge" / f"{name}.parquet")) for name in CONFIG.behaviours}
    return {
        name: rows.withColumn("timestamp", F.col("timestamp").cast("timestamp_ntz")) for name, rows in files.items()
    }


def golden_products(spark: SparkSession, golden: Path) -> DataFrame:
    return spark.read.parquet(str(golden / "challenge" / "product_properties.parquet"))


def golden_shop(spark: SparkSession, golden: Path, out: Path) -> Workspace:
    """The golden challenge after ingest and split, events shuffled into seven files a table; made once, then copied."""
    shutil.copytree(_make_golden_shop(spark, golden), out / "tables")
    return Workspace(out, golden / "challenge")


@cache
def _make_golden_shop(spark: SparkSession, golden: Path) -> Path:
    workspace = Workspace(Path(tempfile.mkdtemp(prefix="golden-shop-")), golden / "challenge")
    workspace.prepare()
    for name, rows in golden_events(spark, golden).items():
        shuffled = rows.repartition(7, F.rand(3)).sortWithinPartitions(F.rand(4))
        write_table(shuffled, workspace, CONFIG.events_table(name), keep_partitions=True)
    write_table(golden_products(spark, golden), workspace, PRODUCT_PROPERTIES)
    split_windows.run(spark, CONFIG, workspace)
    return workspace.out / "tables"


def save_ids(workspace: Workspace, name: str, ids: Sequence[int]) -> None:
    """One of the challenge's id lists, e.g. ``input/relevant_clients.npy``."""
    path = workspace.data / name
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, np.array(ids, dtype=np.int64))
