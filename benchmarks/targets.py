"""Labels of 100 thousand clients and six tasks: the targets stage against a scan of a pandas frame per client.

    python benchmarks/targets.py --out DIR

The first call with a DIR makes the data in it, in the JVM that then runs the stage: for the stage's time in a fresh
one, as ``docs/benchmarks.md`` has it, call it again.

Makes the purchases and products of a benchmark log of the challenge's size (1.68 million purchases in 140 days),
chooses 100 thousand of the buyers, and runs ingest and split. Then it times, in one process on the same purchases:

- the stage ``targets``, twice in a running session: it derives labels and popularity, and writes both tables;
- the probe's reading of all those labels, as it does once per task and window;
- for a sample of those clients, what the organisers' dataset does when it is asked for a client's sample: for each
  task and window, select the client's rows of the window's purchases, and compare them with the labels. Scaled from
  the sample to all clients. A training of three epochs asks for every label three times, where ours are read once;
  both figures are printed.

The labels of the sample must be equal on both sides. The scan has one process; the stage has every core.
"""

import argparse
import contextlib
import json
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from conf.load import load_config
from conf.pipeline import PipelineConfig
from conf.spark import SparkSettings
from conf.synthetic import BenchmarkLogSettings
from jobs.evaluation.labels import build_targets
from jobs.evaluation.probe_units import read_label_rows
from jobs.inputs.challenge_directory import RELEVANT_CLIENTS, source_path
from jobs.pipeline.registry import find_stage
from jobs.runtime.session import build_session
from jobs.stages import targets
from jobs.storage.delta_tables import list_files, read_table
from jobs.storage.locations import readable_path
from jobs.storage.workspace import Workspace
from jobs.synthetic.benchmark_log.files import behaviour_rows, product_rows
from jobs.transforms.purchases import purchases_with_properties
from jobs.transforms.windows import read_windows, target_events
from schemas.behaviours import PRODUCT_BUY
from schemas.tables import CLIENTS, LABELS, PRODUCT_PROPERTIES, TARGETS
from schemas.tasks import CHURN, PROPENSITY, TASKS
from schemas.tasks import WINDOWS as BOTH

Key = tuple[str, str, int]
"""Task, window, client."""
N_SAMPLED = 2_000
N_EPOCHS = 3


def require_same_data(made: Path, sizes: dict[str, int]) -> None:
    """Exit where the file of an earlier run names data of other sizes; it need not be there."""
    found = json.loads(made.read_text()) if made.exists() else sizes
    if found != sizes:
        raise SystemExit(f"{made}: expected data of {sizes}, found {found}; give those numbers, or another --out")


def make_data(spark: SparkSession, data: Path, n_clients: int, settings: BenchmarkLogSettings) -> None:
    """The challenge's files of purchases, and so many of the buyers as the relevant clients."""
    purchases, products = behaviour_rows(spark, PRODUCT_BUY, settings), product_rows(spark, settings)
    purchases.write.mode("overwrite").parquet(str(source_path(data, PRODUCT_BUY)))
    products.write.mode("overwrite").parquet(str(source_path(data, PRODUCT_PROPERTIES.name)))
    buyers = spark.read.parquet(str(source_path(data, PRODUCT_BUY))).select("client_id").distinct()
    chosen = buyers.orderBy(F.xxhash64("client_id"), "client_id").limit(n_clients).toPandas()
    (data / RELEVANT_CLIENTS).parent.mkdir(exist_ok=True)
    np.save(data / RELEVANT_CLIENTS, chosen["client_id"].to_numpy())


def read_frames(spark: SparkSession, config: PipelineConfig, workspace: Workspace) -> dict[str, pd.DataFrame]:
    """Window -> its purchases with properties."""
    purchases = read_table(spark, workspace, config.events_table(PRODUCT_BUY))
    products = read_table(spark, workspace, PRODUCT_PROPERTIES)
    windows = read_windows(spark, workspace)
    bought = purchases_with_properties(target_events(purchases, windows), products).toPandas()
    return {window: rows.drop(columns="window").reset_index(drop=True) for window, rows in bought.groupby("window")}


def scan_all(
    frames: dict[str, pd.DataFrame], labels: dict[str, np.ndarray], client_ids: list[int]
) -> dict[Key, np.ndarray]:
    """The labels of some clients on all tasks, in both windows."""
    return {
        (task, window, client_id): scan_client(frames[window], client_id, task, labels.get(task))
        for task in TASKS
        for window in BOTH
        for client_id in client_ids
    }


def scan_client(frame: pd.DataFrame, client_id: int, task: str, labels: np.ndarray | None) -> np.ndarray:
    """One client's labels of one task and window."""
    rows = frame.loc[frame["client_id"] == client_id]
    if labels is None:
        return np.array([rows.empty], dtype=np.float32)
    return np.isin(labels, rows[PROPENSITY[task]].unique()).astype(np.float32)


@dataclass(frozen=True)
class Took:
    """Seconds of one piece of work, and of CPU in this process and those it started."""

    wall_s: float
    cpu_s: float

    def __str__(self) -> str:
        return f"{self.wall_s:8.2f} s wall {self.cpu_s:8.2f} s CPU"

    def times(self, factor: float) -> "Took":
        """The same work so many times."""
        return Took(self.wall_s * factor, self.cpu_s * factor)


def timed(work: Callable[[], object]) -> Took:
    """Do the work."""
    wall, cpu = time.perf_counter(), _cpu_s()
    work()
    return Took(time.perf_counter() - wall, _cpu_s() - cpu)


def _cpu_s() -> float:
    """Of this process and those it started, the JVM and its Python workers among them, so far."""
    times = []
    for process in [psutil.Process(), *psutil.Process().children(recursive=True)]:
        with contextlib.suppress(psutil.Error):
            times.append(process.cpu_times())
    return sum(of.user + of.system + of.children_user + of.children_system for of in times)  # the latter: of the dead


def compute_only(spark: SparkSession, config: PipelineConfig, workspace: Workspace) -> None:
    """The targets table of the labels that are there, row by row, to nowhere."""
    purchases = read_table(spark, workspace, config.events_table(PRODUCT_BUY))
    windows = read_windows(spark, workspace)
    bought = purchases_with_properties(
        target_events(purchases, windows), read_table(spark, workspace, PRODUCT_PROPERTIES)
    )
    labels, clients = read_table(spark, workspace, LABELS), read_table(spark, workspace, CLIENTS)
    n_parts = targets.count_parts(clients)
    build_targets(bought, labels, clients, n_parts).write.format("noop").mode("overwrite").save()


def read_for_probe(spark: SparkSession, workspace: Workspace) -> None:
    """The labels of each task and window as arrays, from the table's files."""
    n_clients, labels = read_table(spark, workspace, CLIENTS).count(), read_table(spark, workspace, LABELS)
    n_labels = {row["task"]: row["count"] for row in labels.groupBy("task").count().collect()}
    files = list_files(read_table(spark, workspace, TARGETS), TARGETS.partition_by)
    for task in TASKS:
        for window in BOTH:
            paths = [readable_path(file.url) for file in files if file.partition == {"task": task, "window": window}]
            read_label_rows(tuple(paths), n_clients, n_labels.get(task, 1))


def read_found(spark: SparkSession, workspace: Workspace, client_ids: list[int]) -> dict[Key, list[int]]:
    """The stage's labels of some clients."""
    rows = read_table(spark, workspace, TARGETS).filter(F.col("client_id").isin(client_ids)).collect()
    return {(row["task"], row["window"], row["client_id"]): row["labels"] for row in rows}


def main() -> None:
    """Make the data where it is not there yet, run both sides, compare and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="an empty folder, or that of an earlier run")
    parser.add_argument("--clients", type=int, default=100_000)
    parser.add_argument("--events", type=int, default=170_000_000, help="of the log that the purchases are of")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    made, sizes = arguments.out / "made.json", {"clients": arguments.clients, "events": arguments.events}
    require_same_data(made, sizes)
    workspace = Workspace(arguments.out, arguments.out / "data")
    workspace.prepare()
    spark = build_session(SparkSettings(shuffle_partitions=8, driver_memory="2g"), workspace.logs / "spark.log")
    config = load_config("report")
    config = config.restricted_to(PRODUCT_BUY)
    if not made.exists():
        make_data(spark, workspace.data, arguments.clients, BenchmarkLogSettings(n_events=arguments.events))
        for stage in ("ingest", "split"):
            find_stage(stage).run(spark, config, workspace)
        made.write_text(json.dumps(sizes))
    stage = [timed(lambda: targets.run(spark, config, workspace)) for _ in range(2)]
    reading = [timed(lambda: read_for_probe(spark, workspace)) for _ in range(2)][1]
    labels_only = [timed(lambda: compute_only(spark, config, workspace)) for _ in range(2)][1]

    frames = read_frames(spark, config, workspace)
    by_task = read_table(spark, workspace, LABELS).orderBy("task", "label").toPandas().groupby("task")
    labels = {task: of_task["id"].to_numpy() for task, of_task in by_task}
    n_clients = read_table(spark, workspace, CLIENTS).count()
    sampled = read_table(spark, workspace, CLIENTS).orderBy("position").limit(N_SAMPLED).toPandas()
    client_ids, active = sampled["client_id"].tolist(), set(sampled["client_id"][sampled["is_active"]])
    scanned: dict[Key, np.ndarray] = {}
    took = timed(lambda: scanned.update(scan_all(frames, labels, client_ids)))
    found = read_found(spark, workspace, client_ids)
    expected = {key: value.tolist() for key, value in scanned.items() if key[0] != CHURN or key[2] in active}
    assert found == expected, "the stage and the scan give different labels"

    scale = n_clients / len(client_ids)
    scan = took.times(scale)
    n_rows = ", ".join(f"{len(frames[window]):,}" for window in BOTH)
    print(f"{n_clients:,} clients; purchases of the windows: {n_rows}; labels of {len(found):,} rows are equal")
    all_epochs = f"{N_EPOCHS} epochs {N_EPOCHS * scan.wall_s:,.0f} s wall"
    print(f"scan, {len(client_ids)} clients scaled to all    {scan}; {all_epochs}")
    for name, of in [("first", stage[0]), ("second", stage[1])]:
        print(f"stage targets with its tables, {name:6} {of}; {compare(scan, of)}")
        of = Took(of.wall_s + reading.wall_s, of.cpu_s + reading.cpu_s)
        print(f"and the probe's reading                {of}; {N_EPOCHS} epochs: {compare(scan.times(N_EPOCHS), of)}")
    print(f"its labels alone, computed to nowhere  {labels_only}; {compare(scan, labels_only)}")


def compare(scan: Took, ours: Took) -> str:
    """How many times faster."""
    return f"x {scan.wall_s / ours.wall_s:,.0f} wall, x {scan.cpu_s / ours.cpu_s:,.0f} CPU"


if __name__ == "__main__":
    main()
