"""A rank that is killed or stopped in the middle of real training: it goes on from the checkpoint to the same score."""

import os
import signal
import threading
import time
from typing import Any

import pytest
from fault_runs import ranks_below, tell
from pyspark.sql import SparkSession
from training_tables import config, write_tables

from jobs.runtime import rank_launcher
from jobs.stages import train
from jobs.storage.metrics_log import read_metrics
from jobs.storage.workspace import Workspace
from schemas.errors import TrainingError

pytestmark = pytest.mark.faults

STALL_SECONDS = 60
"""More than a start takes on a machine that is busy with other things: beside eight other processes 30 s were not."""


def settings(launcher: str, *more: str) -> Any:
    told = ["training.n_ranks=2", "training.epochs=60", "training.tokens_per_batch=32", "training.learning_rate=3e-3"]
    often = ["training.checkpoint_every_steps=20", "training.log_every_steps=20"]
    stall = [f"training.stall_seconds={STALL_SECONDS}", f"training.launcher={launcher}"]
    return config(*told, *often, *stall, *more)


def harm_after_checkpoint(workspace: Workspace, launcher: str, victim: str, number: int) -> threading.Thread:
    """Send a signal to rank 1, or to the Spark worker above it, once there is a checkpoint."""

    def harm() -> None:
        while not list(workspace.checkpoints("").glob("*/run.safetensors")):
            time.sleep(0.02)
        rank = ranks_below(os.getpid(), launcher)[-1]
        target = rank if victim == "rank" else next(p for p in rank.parents() if "python_workers" in str(p.cmdline()))
        os.kill(target.pid, number)

    thread = threading.Thread(target=harm, daemon=True)
    thread.start()
    return thread


@pytest.fixture(scope="module")
def undisturbed(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    place = Workspace(tmp_path_factory.mktemp("undisturbed"))
    place.prepare()
    write_tables(spark, place, 200, ["page_visit"])
    train.run(spark, settings("horovod"), place)
    return place


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rank_launcher, "GRACE_SECONDS", 6)


def score(place: Workspace) -> float:
    lines = [line for line in read_metrics(place.metrics) if "validation/ndcg@10" in line]
    return float(lines[-1]["validation/ndcg@10"])


@pytest.mark.parametrize("launcher", ["horovod", "torch"])
@pytest.mark.parametrize(
    ("victim", "number"),
    [("rank", signal.SIGKILL), ("rank", signal.SIGSTOP), ("worker", signal.SIGKILL)],
    ids=["rank killed", "rank stopped", "Spark's worker killed"],
)
def test_training_goes_on_after_a_rank_failed_and_ends_with_the_same_score(
    spark: SparkSession, workspace: Workspace, undisturbed: Workspace, caplog: pytest.LogCaptureFixture,
    launcher: str, victim: str, number: int,
) -> None:  # fmt: skip
    caplog.set_level("INFO")
    write_tables(spark, workspace, 200, ["page_visit"])
    thread = harm_after_checkpoint(workspace, launcher, victim, number)
    began = time.monotonic()
    train.run(spark, settings(launcher), workspace)
    seconds = time.monotonic() - began
    thread.join(1)
    assert not thread.is_alive()
    restarts = [record.getMessage() for record in caplog.records if "starting them again" in record.getMessage()]
    tell(f"{launcher}, {victim}, {number}: {seconds:.0f} s in all; {restarts}")
    assert len(restarts) == 1
    assert score(workspace) == pytest.approx(score(undisturbed), abs=0.02)
    steps = [line["step"] for line in read_metrics(workspace.metrics) if "train/loss" in line]
    assert steps.count(20) == 1, "the steps before the first checkpoint were taken once"
    assert ranks_below(os.getpid(), launcher) == []


def test_a_rate_that_diverges_is_told_once_and_leaves_no_model(
    spark: SparkSession, workspace: Workspace, caplog: pytest.LogCaptureFixture
) -> None:
    """What becomes of the checkpoints before it: tests/ml/training/test_loop.py."""
    write_tables(spark, workspace, 200, ["page_visit"])
    with pytest.raises(TrainingError, match=r"page_visit: .*at step \d+, epoch \d+; lower training.learning_rate"):
        train.run(spark, settings("torch", "training.learning_rate=1e30"), workspace)
    assert "starting them again" not in caplog.text
    assert not workspace.model("page_visit").exists()
