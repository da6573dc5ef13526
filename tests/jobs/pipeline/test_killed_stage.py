"""A stage that is killed in the middle of its write harms nothing, and its rerun gives the right table."""

import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import pytest
from delta_versions import latest_version
from pyspark.sql import Row, SparkSession
from pyspark.sql import functions as F

from conf.inputs import WindowSettings
from conf.load import load_config
from conf.pipeline import PipelineConfig
from jobs.cli import main
from jobs.stages import sequences as build_sequences
from jobs.storage.delta_tables import read_table, write_table
from jobs.storage.workspace import Workspace
from jobs.transforms.windows import derive_windows, windows_frame
from schemas.errors import TableError
from schemas.tables import SCORES, SEQUENCES, VOCABULARIES, WINDOWS
from schemas.tokens import FIRST_ITEM

N_CLIENTS, N_ITEMS = 400, 20
CONFIG = """
behaviours: {page_visit: {item: url}}
encoders: {page_visit: {behaviours: [page_visit], max_length: 5}}
sequences: {rows_per_file: 1}  # so that the write takes seconds
spark: {driver_memory: 1g, shuffle_partitions: 2}
"""
SECONDS_TO_FIRST_FILE = 300


def write_inputs(spark: SparkSession, workspace: Workspace, config: PipelineConfig) -> None:
    """What the stage ``sequences`` reads: nine page visits of each client."""
    visits = spark.range(9 * N_CLIENTS).select(
        (F.col("id") % N_CLIENTS).alias("client_id"),
        (F.lit("2022-06-01").cast("timestamp_ntz") + F.make_interval(secs=F.col("id") % 997)).alias("timestamp"),
        (F.xxhash64("id") % N_ITEMS + N_ITEMS).alias("url"),
    )
    write_table(visits, workspace, config.events_table("page_visit"))
    words = [("page_visit", str(url), FIRST_ITEM + url, 9) for url in range(2 * N_ITEMS)]
    write_table(spark.createDataFrame(words, VOCABULARIES.ddl), workspace, VOCABULARIES)
    windows = derive_windows(datetime(2022, 9, 28), WindowSettings())
    write_table(windows_frame(spark, windows), workspace, WINDOWS)


def kill_while_it_writes(command: list[str], folder: Path) -> None:
    """Start a process group and kill it, JVM and all, as soon as it has put a new data file into ``folder``."""
    before = set(folder.rglob("part-*.parquet"))
    process = subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + SECONDS_TO_FIRST_FILE
        while not set(folder.rglob("part-*.parquet")) - before:
            assert process.poll() is None, "the stage ended before it wrote a file"
            assert time.monotonic() < deadline, "the stage wrote no file"
            time.sleep(0.01)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def rows_of(spark: SparkSession, workspace: Workspace) -> list[Row]:
    return sorted(read_table(spark, workspace, SEQUENCES).collect())


@pytest.mark.slow
def test_a_stage_killed_in_its_write_leaves_the_former_table_and_its_rerun_gives_the_right_one(
    spark: SparkSession, workspace: Workspace, tmp_path: Path
) -> None:
    settings = tmp_path / "small.yaml"
    settings.write_text(CONFIG)
    config = load_config(str(settings))
    write_inputs(spark, workspace, config)
    undisturbed = Workspace(Path(shutil.copytree(workspace.out, tmp_path / "undisturbed")))
    former = [Row("page_visit", False, 8, client, [3, 4], 2, None, None) for client in range(7)]
    write_table(spark.createDataFrame(former, SEQUENCES.ddl), workspace, SEQUENCES)
    folder = Path(workspace.table(SEQUENCES.name))

    flags = ["--out", str(workspace.out), "--config", str(settings)]
    kill_while_it_writes([sys.executable, "-m", "jobs.cli", "sequences", *flags], folder)
    assert latest_version(str(folder)) == 0, "the write was over before it was killed"
    assert rows_of(spark, workspace) == former

    many_rows_per_file = replace(config, sequences=replace(config.sequences, rows_per_file=1000))
    for each in (workspace, undisturbed):
        build_sequences.run(spark, many_rows_per_file, each)
    assert rows_of(spark, workspace) == rows_of(spark, undisturbed)
    assert len(rows_of(spark, workspace)) == N_CLIENTS


@pytest.mark.parametrize("has_empty_log", [False, True])
def test_a_folder_whose_first_write_was_killed_is_told_and_then_written(
    spark: SparkSession, workspace: Workspace, caplog: pytest.LogCaptureFixture, has_empty_log: bool
) -> None:
    folder = Path(workspace.table(SCORES.name))
    (folder / "_delta_log" if has_empty_log else folder).mkdir(parents=True)
    (folder / "part-00000-of-a-killed-write.snappy.parquet").write_bytes(b"PAR1 and no footer")
    with pytest.raises(TableError, match=r"'scores'.*found a folder that no write has finished.*run the stage"):
        read_table(spark, workspace, SCORES)
    assert main(["vacuum", "--out", str(workspace.out)]) == 2
    assert "expected Delta tables" in caplog.text

    rows = [("baseline", "churn", 0.5, 0.5, None, None, None, None, 1, None)]
    write_table(spark.createDataFrame(rows, SCORES.ddl), workspace, SCORES)
    assert [tuple(row) for row in read_table(spark, workspace, SCORES).collect()] == rows
