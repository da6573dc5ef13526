"""Executors that are processes of their own (Spark's local-cluster mode) give what local mode gives."""

import subprocess
import sys
from pathlib import Path

import pytest
from pyspark.sql import SparkSession
from tiny_run import EARLY, ENCODERS, TinyRun, differences, read_numbers, read_tables

from jobs.storage.workspace import Workspace

MASTER = "spark.master=local-cluster[2,1,1024]"


@pytest.mark.slow
@pytest.mark.parametrize("last", ["train", pytest.param("probe", marks=pytest.mark.faults)])
def test_a_run_on_two_executors_gives_what_local_mode_gives(
    spark: SparkSession, tiny_run: TinyRun, tmp_path: Path, last: str
) -> None:
    """Two Horovod ranks in both; each executor has one core, so that each rank has one of its own."""
    local, cluster = tiny_run.workspace, Workspace(tmp_path / "cluster")
    command = [sys.executable, "-m", "jobs.cli", "run", *tiny_run.flags(cluster.out), "--to", last, "--set", MASTER]
    result = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert result.returncode == 0, result.stderr[-3000:]
    made = EARLY if last == "train" else ()
    assert differences(read_tables(spark, cluster, made), read_tables(spark, local, made)) == []
    found, expected = read_numbers(cluster.out), read_numbers(local.out)
    assert {name.split("/")[0] for name in found} >= set(ENCODERS)
    assert differences(found, {name: expected[name] for name in found}, tolerance=1e-6) == []
    assert found.keys() == expected.keys() or last == "train"
