"""The data stages on visits of extreme skew, with a heap of 2 GiB: do they end, and does one task do most of the work?

    python benchmarks/skew.py

Of 20 million simulated visits, 5 million are one client's, a fifth are of one url, and a tenth fall on one day. For
every Spark stage whose tasks ran for two seconds or more in all it prints the share of its longest task.
"""

import argparse
import logging
from functools import partial
from pathlib import Path

from measure import measure_self
from page_visits import SOURCE, Stages, list_spark_stages, run_stages, start_session
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from jobs.storage.delta_tables import read_table
from jobs.storage.workspace import Workspace
from schemas.tables import SEQUENCES

N_VISITS = 20_000_000
HEAVY_CLIENT, HEAVY_URL = 1, 1
WORTH_A_LOOK_S = 2.0


def skewed_visits(spark: SparkSession) -> DataFrame:
    """The visits in the challenge's columns."""
    draw = partial(F.pmod, F.xxhash64("id", F.lit(7)))
    second = F.when(F.col("id") % 10 == 0, F.pmod(F.xxhash64("id"), F.lit(86_400))).otherwise(draw(F.lit(140 * 86_400)))
    time = F.timestamp_seconds(F.lit(1_655_942_400) + second)
    return spark.range(N_VISITS).select(
        F.when(F.col("id") % 4 == 0, HEAVY_CLIENT).otherwise(draw(F.lit(2_000_000))).cast("bigint").alias("client_id"),
        F.date_format(time, "yyyy-MM-dd HH:mm:ss").alias("timestamp"),
        F.when(F.col("id") % 5 == 1, HEAVY_URL).otherwise(draw(F.lit(1_000_003))).cast("bigint").alias("url"),
    )


def show_longest(spark: SparkSession, workspace: Workspace) -> None:
    """The client with the most events."""
    row = read_table(spark, workspace, SEQUENCES).orderBy(F.col("n_events").desc()).first()
    assert row is not None
    print(f"client {row['client_id']}: {row['n_events']:,} events, the last {len(row['token_ids'])} kept")


def show_tasks(spark: SparkSession) -> None:
    """Per Spark stage with work worth a look: its tasks, their time, and the share of the longest."""
    for stage in list_spark_stages(spark, quantiles=(1.0,)):
        total_s = stage.executorRunTime() / 1000
        if total_s >= WORTH_A_LOOK_S:
            longest_s = stage.taskMetricsDistributions().get().executorRunTime().apply(0) / 1000
            told = (
                f"{stage.numTasks()} tasks, {total_s:.1f} s, the longest {longest_s:.1f} s ({longest_s / total_s:.0%})"
            )
            print(f"stage {stage.stageId()} ({stage.name()}): {told}")


def main() -> None:
    """Make the visits, run the stages, print the tasks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("benchmarks/data/skew"), help="made files and outputs")
    folder = parser.parse_args().folder
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("py4j").setLevel(logging.WARNING)
    workspace = Workspace(folder / "out", folder)
    workspace.prepare()
    spark = start_session(workspace.logs / "spark.log")
    skewed_visits(spark).repartition(8).write.mode("overwrite").parquet(str(folder / SOURCE))
    with measure_self() as measured:
        run_stages(spark, workspace, Stages())
    show_longest(spark, workspace)
    show_tasks(spark)
    print(f"wall {measured.wall_s:.1f} s, peak {measured.peak_gib:.2f} GiB with the driver's and the workers' Python")


if __name__ == "__main__":
    main()
