"""Training by one process of one thread, and by two: speed, and the bytes that a step exchanges.

``python benchmarks/train_scaling.py`` prints tokens per second (padding left out) of one process, of two that exchange
nothing (what the machine itself allows), of two Horovod ranks and of two ranks of torch.distributed, and the bytes that
crossed the loopback device beside the arithmetic of the exchange: a ring allreduce of the dense gradients, and each
rank's rows of the item table sent to every other rank. ``--rounds`` measures all sides in turn so many times: a ratio
compares two sides of one round, and the median of the rounds is printed with all of them. The last table has the
time of each part of a step on each side. The other flags are those of ``python -m ml.bench``.
"""

import argparse
import multiprocessing
import os
import socket
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from statistics import fmean, median

import horovod
import torch

from ml.bench import build_learner, build_parser, draw_batches
from ml.compat.allocator import keep_freed_memory
from ml.training.distributed import ExchangingRanks, HorovodRanks, Ranks, TorchRanks
from ml.training.hardware import timed
from ml.training.optimizers import RowAdam
from ml.training.step import Learner

INDEX_BYTES, FLOAT_BYTES = 8, 4
WARM_UP = 3
PARTS = {
    "loss": (Learner, "_loss"),
    "backward": (torch.Tensor, "backward"),
    "exchange, with waiting": (ExchangingRanks, "sum_gradients"),
    "rows of the table": (RowAdam, "step"),
    "weights of the encoder": (torch.optim.AdamW, "step"),
}
"""Part of a step -> the method that does it."""
Figures = dict[str, float]


class Alone(Ranks):
    """One of two processes that read different rows and exchange nothing."""

    def __init__(self, rank: int, world_size: int) -> None:
        self.rank, self.world_size = rank, world_size


def train_on_rank(arguments: argparse.Namespace, ranks: Ranks) -> Figures:
    """One rank's figures; all ranks take as many steps, each on its share of the rows."""
    keep_freed_memory()
    torch.set_num_threads(1)
    batches, learner = draw_batches(arguments, ranks), build_learner(arguments, ranks)
    rows: list[int] = []
    for batch in batches[:WARM_UP]:
        learner.step([batch])
    for table in learner.encoder.row_parameters():
        table.register_hook(lambda gradient: rows.append(gradient._nnz()))
    seconds_of = watch_parts()
    ranks.sum([0])
    bytes_before = loopback_bytes()
    cpu_before = time.process_time()
    seconds = timed(learner.device, lambda: [learner.step([batch]) for batch in batches])
    cpu_seconds = time.process_time() - cpu_before
    ranks.sum([0])
    n_dense = sum(parameter.numel() for parameter in learner.encoder.dense_parameters())
    return {
        "tokens": sum(batch.n_tokens for batch in batches),
        "seconds": seconds,
        "CPU seconds": cpu_seconds,
        "bytes": (loopback_bytes() - bytes_before) / len(batches),
        "dense bytes": n_dense * FLOAT_BYTES,
        "rows": sum(rows) / max(1, len(rows)),
        **{name: 1000 * spent / len(batches) for name, spent in seconds_of.items()},
    }


def watch_parts() -> Figures:
    """Part of a step -> seconds that it has taken in this process since this call."""
    seconds = dict.fromkeys(PARTS, 0.0)

    def watch(name: str, owner: type, method: str) -> None:
        work = getattr(owner, method)

        def watched(*values: object, **named: object) -> object:
            started = time.perf_counter()
            try:
                return work(*values, **named)
            finally:
                seconds[name] += time.perf_counter() - started

        setattr(owner, method, watched)

    for name, (owner, method) in PARTS.items():
        watch(name, owner, method)
    return seconds


def train_on_horovod_rank(arguments: argparse.Namespace) -> Figures:
    """``train_on_rank`` as Horovod starts it."""
    return train_on_rank(arguments, HorovodRanks())


def train_on_torch_rank(arguments: argparse.Namespace, rank: int, port: int) -> Figures:
    """``train_on_rank`` with the environment that torchrun would set."""
    told = {"RANK": rank, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in told.items()})
    return train_on_rank(arguments, TorchRanks(timeout_seconds=60))


def train_alone(arguments: argparse.Namespace, rank: int, world_size: int) -> Figures:
    """``train_on_rank`` without an exchange."""
    return train_on_rank(arguments, Alone(rank, world_size))


def in_processes(function: Callable[..., Figures], calls: list[tuple[object, ...]]) -> list[Figures]:
    """What the calls give, each in a fresh process of its own, all at once."""
    with ProcessPoolExecutor(len(calls), multiprocessing.get_context("spawn")) as pool:
        return [future.result() for future in [pool.submit(function, *call) for call in calls]]


def by_horovod(arguments: argparse.Namespace) -> list[Figures]:
    """Figures of two Horovod ranks."""
    run = horovod.run(train_on_horovod_rank, args=(arguments,), np=2, use_gloo=True, executable=sys.executable)
    return list(run)


def by_torch(arguments: argparse.Namespace) -> list[Figures]:
    """Figures of two ranks of torch.distributed."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return in_processes(train_on_torch_rank, [(arguments, rank, port) for rank in range(2)])


def loopback_bytes() -> int:
    """Bytes that this host's loopback device has sent since it was up."""
    lines = Path("/proc/net/dev").read_text().splitlines()
    (counters,) = [line.split(":")[1].split() for line in lines if line.strip().startswith("lo:")]
    return int(counters[8])


def expected_bytes(ranks: list[Figures], hidden_size: int) -> float:
    """What all ranks together send in a step.

    A ring allreduce sends each rank's gradients 2 (n - 1) / n times. Of each table row used, its index and its values
    go to every other rank: hidden_size numbers of the item table and one of the output bias, each with an index.
    """
    n_ranks = len(ranks)
    dense = 2 * (n_ranks - 1) * ranks[0]["dense bytes"]
    per_row = (hidden_size + 1) * FLOAT_BYTES + 2 * INDEX_BYTES
    return dense + (n_ranks - 1) * per_row * sum(rank["rows"] for rank in ranks)


def speed_of(ranks: list[Figures]) -> float:
    """Tokens per second of all ranks together."""
    return sum(rank["tokens"] for rank in ranks) / max(rank["seconds"] for rank in ranks)


def describe(name: str, rounds: list[list[Figures]], single: list[float], arguments: argparse.Namespace) -> str:
    """One side's line: medians over the rounds."""
    speeds = [speed_of(ranks) for ranks in rounds]
    ratios = [speed / alone for speed, alone in zip(speeds, single, strict=True)]
    step = 1000 * median(max(rank["seconds"] for rank in ranks) for ranks in rounds) / arguments.steps
    cpu = 1000 * median(fmean(rank["CPU seconds"] for rank in ranks) for ranks in rounds) / arguments.steps
    each = ", ".join(f"{ratio:.2f}" for ratio in ratios)
    told = f"{name:>15}: {median(speeds):8,.0f} tokens/s, {step:6.1f} ms a step, {median(ratios):.2f} x ({each})"
    told += f", {cpu:6.1f} ms of CPU"
    if "no exchange" in name or len(rounds[0]) == 1:
        return told
    sent = median(fmean(rank["bytes"] for rank in ranks) for ranks in rounds)
    expected = median(expected_bytes(ranks, arguments.hidden_size) for ranks in rounds)
    told += f", {sent / 1e6:.2f} MB a step over loopback, {expected / 1e6:.2f} MB by arithmetic"
    return told + f", {median(ranks[0]['rows'] for ranks in rounds):,.0f} rows per table"


def main() -> None:
    """Measure and print."""
    parser = build_parser(__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    sides = {
        "1 process": lambda: in_processes(train_alone, [(arguments, 0, 1)]),
        "2, no exchange": lambda: in_processes(train_alone, [(arguments, rank, 2) for rank in range(2)]),
        "2, horovod": lambda: by_horovod(arguments),
        "2, torch": lambda: by_torch(arguments),
    }
    found: dict[str, list[list[Figures]]] = {name: [] for name in sides}
    for number in range(arguments.rounds):
        for name, side in sides.items():
            found[name].append(side())
            print(f"round {number + 1}, {name}: {speed_of(found[name][-1]):,.0f} tokens/s", flush=True)
    single = [speed_of(ranks) for ranks in found["1 process"]]
    for name, rounds in found.items():
        print(describe(name, rounds, single, arguments))
    print(f"\n| ms a step | {' | '.join(found)} |\n|{'---|' * (len(found) + 1)}")
    for part in PARTS:
        spent = [median(fmean(rank[part] for rank in ranks) for ranks in rounds) for rounds in found.values()]
        print(f"| {part} | {' | '.join(f'{ms:.1f}' for ms in spent)} |")


if __name__ == "__main__":
    main()
