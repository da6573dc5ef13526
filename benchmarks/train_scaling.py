"""Training by one Horovod process of one thread, and by two: speed, and the bytes that a step exchanges.

``python benchmarks/train_scaling.py`` prints sequences per second of both, and the bytes that crossed the loopback
device beside the arithmetic of the exchange: a ring allreduce of the dense gradients, and each rank's rows of the item
table sent to every other rank. The other flags are those of ``python -m ml.bench``.
"""

import argparse
import sys
from pathlib import Path

import horovod

from ml.allocator import keep_freed_memory
from ml.bench import build_learner, draw_batches, parse_arguments
from ml.hardware import timed

INDEX_BYTES, FLOAT_BYTES = 8, 4


def train_on_rank(arguments: argparse.Namespace) -> dict[str, float]:
    """One rank's figures; all ranks take as many steps, each on its share of the rows."""
    import torch

    from ml.distributed import HorovodRanks

    keep_freed_memory()
    torch.set_num_threads(1)
    ranks = HorovodRanks()
    batches, learner = draw_batches(arguments, ranks), build_learner(arguments, ranks)
    rows: list[int] = []
    for batch in batches[:3]:
        learner.step([batch])
    for table in learner.model.table_parameters():
        table.register_hook(lambda gradient: rows.append(gradient._nnz()))
    ranks.sum([0])
    bytes_before = loopback_bytes()
    seconds = timed(learner.device, lambda: [learner.step([batch]) for batch in batches])
    ranks.sum([0])
    n_dense = sum(parameter.numel() for parameter in learner.model.dense_parameters())
    return {
        "sequences": sum(map(len, batches)),
        "seconds": seconds,
        "bytes": (loopback_bytes() - bytes_before) / len(batches),
        "dense bytes": n_dense * FLOAT_BYTES,
        "rows": sum(rows) / max(1, len(rows)),
    }


def loopback_bytes() -> int:
    """Bytes that this host's loopback device has sent since it was up."""
    lines = Path("/proc/net/dev").read_text().splitlines()
    (counters,) = [line.split(":")[1].split() for line in lines if line.strip().startswith("lo:")]
    return int(counters[8])


def expected_bytes(ranks: list[dict[str, float]], hidden_size: int) -> float:
    """What all ranks together send in a step.

    A ring allreduce sends each rank's gradients 2 (n - 1) / n times. Of each table row used, its index and its values
    go to every other rank: hidden_size numbers of the item table and one of the output bias, each with an index.
    """
    n_ranks = len(ranks)
    dense = 2 * (n_ranks - 1) * ranks[0]["dense bytes"]
    per_row = (hidden_size + 1) * FLOAT_BYTES + 2 * INDEX_BYTES
    return dense + (n_ranks - 1) * per_row * sum(rank["rows"] for rank in ranks)


def main() -> None:
    """Measure and print."""
    arguments = parse_arguments()
    speed = {}
    for n_ranks in (1, 2):
        results = horovod.run(train_on_rank, args=(arguments,), np=n_ranks, use_gloo=True, executable=sys.executable)
        speed[n_ranks] = sum(rank["sequences"] for rank in results) / max(rank["seconds"] for rank in results)
        sent = sum(rank["bytes"] for rank in results) / n_ranks
        told = f"{sent / 1e6:8.2f} MB a step over loopback, {expected_bytes(results, arguments.hidden_size) / 1e6:.2f}"
        print(f"{n_ranks} x 1 thread: {speed[n_ranks]:8.1f} sequences/s, {told} MB by arithmetic")
    print(f"two processes against one: {speed[2] / speed[1]:.2f} x")


if __name__ == "__main__":
    main()
