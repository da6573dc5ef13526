"""`kill -9` of an executor's JVM: Spark runs its tasks again, and training goes on from its last checkpoint."""

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from fault_runs import (
    BEHAVIOURS,
    RUN_SECONDS,
    Shop,
    assert_same_outcome,
    ranks_below,
    started,
    tell,
    unfinished_copy,
    wait_until,
)

from jobs.runtime.rank_launcher import GRACE_SECONDS
from jobs.storage.metrics_log import read_metrics

pytestmark = pytest.mark.faults

MASTER = "spark.master=local-cluster[2,1,1024]"
STALL_SECONDS = 60
TRAINING = ["--from", "train", "--to", "train", "--set", MASTER, "training.n_ranks=2", "training.epochs=40"]
RESTART_SECONDS = STALL_SECONDS + GRACE_SECONDS + 60
"""Longest that lost ranks may go unnoticed (docs/faults.md), and a minute in which executor and ranks start."""


@pytest.mark.parametrize("stage", ["sequences", "embed", "profile"])
def test_an_executor_killed_while_it_writes_a_table_leaves_no_trace_in_the_outcome(
    shop: Shop, undisturbed: Path, tmp_path: Path, stage: str
) -> None:
    out, log = tmp_path / "out", tmp_path / "log"
    table = out / "tables" / {"sequences": "sequences", "embed": "blocks", "profile": "profiles"}[stage]
    with started(shop.command(out, "run", "--set", MASTER), log) as process:
        wait_until(lambda: f"{stage}: " in log.read_text(), process, log)
        executors = executors_below(process.pid)
        victim, *_ = wait_until(lambda: writers_of(table, executors), process, log)
        os.kill(victim, signal.SIGKILL)
        code = process.wait(RUN_SECONDS)
    assert code == 0, log.read_text()[-3000:]
    lost = [line for line in (out / "logs" / "spark.log").read_text().splitlines() if "ExecutorLostFailure" in line]
    tell("\n".join(lost))
    assert lost, "no task ran on the executor that was killed"
    assert_same_outcome(out, undisturbed)


@pytest.fixture(scope="module")
def trained(shop: Shop, undisturbed: Path) -> Path:
    """The output of a training of two ranks that nothing happened to."""
    out = unfinished_copy(undisturbed, undisturbed.parent / "trained")
    done = shop.run(out, "run", *TRAINING)
    assert done.returncode == 0, done.stderr[-3000:]
    return out


@pytest.mark.parametrize("launcher", ["horovod", "torch"])
def test_training_goes_on_after_an_executor_was_killed_and_ends_with_the_same_score(
    shop: Shop, undisturbed: Path, trained: Path, tmp_path: Path, launcher: str
) -> None:
    out, log = unfinished_copy(undisturbed, tmp_path / "out"), tmp_path / "log"
    told = [*TRAINING, f"training.launcher={launcher}", f"training.stall_seconds={STALL_SECONDS}"]
    with started(shop.command(out, "run", *told), log) as process:
        wait_until(lambda: any((out / "checkpoints").glob("*/run.safetensors")), process, log)
        lost = {rank.pid for rank in ranks_below(process.pid, launcher)}
        os.kill(executors_below(process.pid)[0], signal.SIGKILL)
        began = time.monotonic()
        wait_until(lambda: are_others(ranks_below(process.pid, launcher), lost), process, log, pause=0.5)
        seconds = time.monotonic() - began
        code = process.wait(RUN_SECONDS)
    assert code == 0, log.read_text()[-3000:]
    restarts = log.read_text().count("starting them again from the last checkpoint")
    tell(f"{launcher}: two other ranks {seconds:.0f} s after the kill; {restarts} starts of ours, the rest by Spark")
    assert seconds < RESTART_SECONDS
    for behaviour in BEHAVIOURS:
        assert score(out, behaviour) == pytest.approx(score(trained, behaviour), abs=0.02), behaviour
        assert losses(out, behaviour) == pytest.approx(losses(trained, behaviour), rel=1e-4), behaviour


def are_others(ranks: list[psutil.Process], lost: set[int]) -> bool:
    return len(ranks) == 2 and not lost & {rank.pid for rank in ranks}


def score(out: Path, behaviour: str) -> float:
    lines = [line for line in read_metrics(out / "metrics.jsonl") if line.get("behaviour") == behaviour]
    return float([line for line in lines if "validation/ndcg@10" in line][-1]["validation/ndcg@10"])


def losses(out: Path, behaviour: str) -> dict[int, float]:
    """Step -> loss; of steps that were taken again, the last time."""
    lines = [line for line in read_metrics(out / "metrics.jsonl") if line.get("behaviour") == behaviour]
    return {line["step"]: line["train/loss"] for line in lines if "train/loss" in line}


def executors_below(pid: int) -> list[int]:
    """Processes of the executors that a driver of local-cluster mode has started, oldest first."""
    begun = {}
    for process in psutil.Process(pid).children(recursive=True):
        with contextlib.suppress(psutil.Error):  # ended meanwhile
            if any("CoarseGrainedExecutorBackend" in part for part in process.cmdline()):
                begun[process.pid] = process.create_time()
    return sorted(begun, key=lambda executor: begun[executor])


def writers_of(table: Path, executors: list[int]) -> list[int]:
    """The executors that have a file of the table's folder open."""
    return [executor for executor in executors if any(file.is_relative_to(table) for file in open_files(executor))]


def open_files(pid: int) -> Iterator[Path]:
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            yield descriptor.readlink()
