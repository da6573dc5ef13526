"""Training beside the loop of the paper that this project re-makes, and how a step grows with the vocabulary.

    python benchmarks/train_vs_report_loop.py

Random sequences of uniform items, lengths geometric with mean 9.4 and cut at 128, and the paper's encoder: six layers
of 256, 8 heads, a feed-forward of 256, dropout of .2. The first table sets the paper's loop (``report_loop.py``) beside
ours, both on two threads; the second gives our time per step and peak memory for growing vocabularies, with one process
of two threads and with two Horovod processes of one thread each. Every figure comes from a process of its own, and of
several rounds the fastest counts, since other work on the machine can only slow a round down. All sizes of one number
of processes take the same steps but for the ids of the items. Both sides keep freed memory
(``ml/compat/allocator.py``).

The paper's loop needs five times its logits in memory and is left out, with a line, where the machine lacks that.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from measure import measure
from report_loop import BATCH_SIZE, MAX_LENGTH, PAD, ReportLoop
from report_loop import FIRST_ITEM as REPORT_FIRST_ITEM

from conf.encoders import EncoderSettings
from conf.sequences import SequenceSettings
from conf.training import TrainingSettings
from ml.bench import made_sequences
from ml.compat.allocator import keep_freed_memory
from ml.data.array_feed import ArrayFeed
from ml.data.sequence_batch import SequenceBatch, Sequences, Tokens
from ml.data.vocabulary import VocabularyDescription
from ml.training.distributed import HorovodRanks, Ranks
from ml.training.step import Learner
from schemas.tokens import FIRST_ITEM

N_THREADS = 2
MEAN_LENGTH = 9.4


@dataclass(frozen=True)
class Run:
    """One side, measured in a process of its own.

    Attributes
    ----------
    side : ``report`` or ``ubp``
    n_processes : of Horovod, each with its share of the threads; 1 is without Horovod
    n_warm_up, n_steps : steps before the clock starts, and steps measured
    """

    side: str
    n_items: int
    n_processes: int
    n_warm_up: int
    n_steps: int


@dataclass(frozen=True)
class Figures:
    """What a run came to, over all of its processes."""

    seconds_per_step: float
    sequences_per_second: float
    peak_gib: float


def train_report(run: Run) -> tuple[int, float]:
    """The paper's loop: sequences and seconds of the steps measured."""
    torch.set_num_threads(N_THREADS)
    n_rows = (run.n_warm_up + run.n_steps) * BATCH_SIZE
    sequences = made_sequences(n_rows, MEAN_LENGTH, MAX_LENGTH, run.n_items, seed=0)
    loop = ReportLoop(run.n_items)
    rows = torch.from_numpy(sequences.padded(np.arange(n_rows), MAX_LENGTH)).long()
    rows = torch.where(rows == PAD, PAD, rows - FIRST_ITEM + REPORT_FIRST_ITEM)
    batches = rows.split(BATCH_SIZE)
    for batch in batches[: run.n_warm_up]:
        loop.step(batch)
    started = time.perf_counter()
    for batch in batches[run.n_warm_up :]:
        loop.step(batch)
    return BATCH_SIZE * run.n_steps, time.perf_counter() - started


def train_ubp(run: Run, ranks: Ranks | None = None) -> tuple[int, float]:
    """Our loop on one rank: sequences and seconds of the steps measured."""
    ranks = ranks or Ranks()
    torch.set_num_threads(N_THREADS // ranks.world_size)
    training = TrainingSettings(device="cpu")
    settings = EncoderSettings(behaviours=("made",), max_length=MAX_LENGTH, training=training)
    learner = Learner(settings, VocabularyDescription(FIRST_ITEM + run.n_items), ranks=ranks)
    batches = like_length_batches(run, training.tokens_per_batch, ranks)
    for batch in batches[: run.n_warm_up]:
        learner.step([batch])
    ranks.sum([0.0])  # all ranks start together
    started = time.perf_counter()
    for batch in batches[run.n_warm_up :]:
        learner.step([batch])
    return sum(map(len, batches[run.n_warm_up :])), time.perf_counter() - started


def like_length_batches(run: Run, tokens_per_batch: int, ranks: Ranks) -> list[SequenceBatch[Tokens]]:
    """A rank's first batches of an epoch; the widths are the pipeline's."""
    n_batches = run.n_warm_up + run.n_steps
    n_rows = int(2 * n_batches * tokens_per_batch / MEAN_LENGTH) * ranks.world_size
    rows = made_sequences(n_rows, MEAN_LENGTH, MAX_LENGTH, run.n_items, seed=0)
    widths = SequenceSettings().widths
    feed = ArrayFeed(rows, Sequences.from_rows([]), widths, tokens_per_batch, 0, ranks.rank, ranks.world_size)
    return [batch for _, batch in zip(range(n_batches), feed.training(1), strict=False)]


def train_ubp_on_rank(run: Run) -> tuple[int, float]:
    """``train_ubp`` as one of Horovod's ranks."""
    keep_freed_memory()
    return train_ubp(run, HorovodRanks())


def train(run: Run) -> tuple[int, float]:
    """Sequences of all processes, and the seconds of the slowest."""
    if run.side == "report":
        keep_freed_memory()
        return train_report(run)
    if run.n_processes == 1:
        keep_freed_memory()
        return train_ubp(run)
    import horovod

    outcomes = horovod.run(train_ubp_on_rank, args=(run,), np=run.n_processes, use_gloo=True, executable=sys.executable)
    return sum(sequences for sequences, _ in outcomes), max(seconds for _, seconds in outcomes)


def measure_all(runs: Sequence[Run], arguments: argparse.Namespace) -> list[Figures]:
    """The figures of each run's fastest round; a round takes the runs one after the other."""
    rounds = [[measure_run(run, arguments.folder) for run in runs] for _ in range(arguments.rounds)]
    return [min(of_run, key=lambda figures: figures.seconds_per_step) for of_run in zip(*rounds, strict=True)]


def measure_run(run: Run, folder: Path) -> Figures:
    """The figures of a run in a process of its own."""
    result = folder / "figures.json"
    took = measure([sys.executable, __file__, "--run", json.dumps(asdict(run)), str(result)])
    n_sequences, seconds = json.loads(result.read_text())
    return Figures(seconds / run.n_steps, n_sequences / seconds, took.peak_gib)


def has_memory_for_report(n_items: int) -> bool:
    """Whether the logits, their gradients and what the loss keeps fit into what is free now."""
    return 5 * BATCH_SIZE * MAX_LENGTH * n_items * 4 < psutil.virtual_memory().available


def compare_with_report(arguments: argparse.Namespace) -> None:
    """Print sequences per second of both sides."""
    print("\n| items | report's loop, sequences/s | ubp, sequences/s | ratio | report's peak, GiB | ubp's peak, GiB |")
    print("|---|---|---|---|---|---|")
    for n_items in map(int, arguments.report_items):
        if not has_memory_for_report(n_items):
            print(f"| {n_items:,} | left out: too little free memory for its logits | | | | |")
            continue
        sides = [
            Run("report", n_items, 1, 1, arguments.report_steps),
            Run("ubp", n_items, 1, arguments.steps // 4, arguments.steps),
        ]
        report, ours = measure_all(sides, arguments)
        speeds = report.sequences_per_second, ours.sequences_per_second
        print(
            f"| {n_items:,} | {speeds[0]:.2f} | {speeds[1]:.1f} | {speeds[1] / speeds[0]:.1f} "
            f"| {report.peak_gib:.2f} | {ours.peak_gib:.2f} |",
            flush=True,
        )


def show_growth(arguments: argparse.Namespace) -> None:
    """Print our step time and memory for each vocabulary and number of processes."""
    print("\n| processes | items | ms per step | against the smallest | sequences/s | peak memory, GiB |")
    print("|---|---|---|---|---|---|")
    for n_processes in arguments.processes:
        runs = [Run("ubp", int(n), n_processes, arguments.steps // 4, arguments.steps) for n in arguments.items]
        best = measure_all(runs, arguments)
        for run, figures in zip(runs, best, strict=True):
            growth = figures.seconds_per_step / best[0].seconds_per_step
            print(
                f"| {n_processes} | {run.n_items:,} | {1000 * figures.seconds_per_step:.0f} | {growth:.3f} "
                f"| {figures.sequences_per_second:.1f} | {figures.peak_gib:.2f} |",
                flush=True,
            )


TABLES: dict[str, Callable[[argparse.Namespace], None]] = {"report": compare_with_report, "growth": show_growth}


def main() -> None:
    """Measure and print, or be one of the processes measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", nargs="+", choices=list(TABLES), default=list(TABLES))
    parser.add_argument("--report-items", nargs="+", type=float, default=[4e3, 1e5, 4e5, 1.3e6])
    parser.add_argument("--report-steps", type=int, default=4)
    parser.add_argument("--items", nargs="+", type=float, default=[4e3, 1e5, 4e5, 1.3e6])
    parser.add_argument("--processes", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument(
        "--folder", type=Path, default=Path("benchmarks/data/report_loop"), help="for intermediate files"
    )
    parser.add_argument("--run", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.run:
        values: dict[str, Any] = json.loads(arguments.run[0])
        Path(arguments.run[1]).write_text(json.dumps(train(Run(**values))))
        return
    arguments.folder.mkdir(parents=True, exist_ok=True)
    print(f"torch {torch.__version__}, {os.cpu_count()} cores, {N_THREADS} threads in all")
    for table in arguments.tables:
        TABLES[table](arguments)


if __name__ == "__main__":
    main()
