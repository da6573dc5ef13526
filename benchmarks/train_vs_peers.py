"""Training speed of BERT4Rec beside RecTools, RePlay and RecBole: one model, one data set, one machine, one run.

    python benchmarks/train_vs_peers.py --data DIR/ml-1m.parquet

``leave_one_out.py`` describes the data file; items of fewer than five interactions are dropped, and the last two items
of each user are left out. All sides are 128 wide with 2 layers, 2 heads, a feed-forward of 512 and dropout of .2,
read at most the last 200 items of each user, one sequence per user, mask a fifth of the items and compare with all
items, in batches of 128, on two threads. Each library runs its own training loop in an environment of its own, which
the first run makes from ``peers/<name>.txt``.

Measured are the batches after a warm-up: 12 of the peers', all of which are 200 wide, and a whole epoch of ubp's.
"""

import argparse
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from leave_one_out import FIRST_ITEM, read_histories
from measure import measure
from peers.workload import Workload

RUNNERS = Path(__file__).parent / "peers"
PEERS = ("rectools", "replay", "recbole")

KEEP_MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**40), "MALLOC_TOP_PAD_": str(2**26)}
"""Settings of glibc's allocator: memory once had is kept, not handed back and faulted in again at every step."""


@dataclass(frozen=True)
class Figures:
    """What one side came to."""

    name: str
    sequences_per_second: float
    predicted_per_sequence: float
    n_sequences: int
    peak_gib: float


def environment(name: str, folder: Path) -> Path:
    """The Python of a side; a peer's environment is made if it is missing."""
    if name == "ubp":
        return Path(sys.executable)
    python = folder / "environments" / name / "bin" / "python"
    if not python.exists():
        uv = [sys.executable, "-m", "uv", "--quiet"]
        subprocess.run([*uv, "venv", "--python", "3.11", str(python.parents[1])], check=True)
        requirements = RUNNERS / f"{name}.txt"
        subprocess.run([*uv, "pip", "install", "--python", str(python), "-r", str(requirements)], check=True)
    return python


def run_side(name: str, workload: Workload, python: Path, threads: int, keeps_memory: bool) -> Figures:
    """Train in a process of its own."""
    variables = {"OMP_NUM_THREADS": str(threads), "PYTHONWARNINGS": "ignore", **(KEEP_MEMORY if keeps_memory else {})}
    settings = [f"{variable}={value}" for variable, value in variables.items()]
    command = ["env", *settings, str(python), str(RUNNERS / f"run_{name}.py"), str(workload.folder)]
    measured = measure(command)
    figures = json.loads((workload.folder / f"{name}.json").read_text())
    if figures["threads"] != threads:
        raise RuntimeError(f"{name} used {figures['threads']} threads, expected {threads}")
    return Figures(
        name,
        figures["sequences"] / figures["seconds"],
        figures["predicted"] / figures["sequences"],
        figures["sequences"],
        measured.peak_gib,
    )


def show(sides: list[Figures]) -> None:
    """A table of the sides, and ubp beside the fastest of the others."""
    print("| side | sequences/s | predicted positions per sequence | sequences measured | peak memory, GiB |")
    print("|---|---|---|---|---|")
    for side in sides:
        print(
            f"| {side.name} | {side.sequences_per_second:.1f} | {side.predicted_per_sequence:.1f} "
            f"| {side.n_sequences:,} | {side.peak_gib:.2f} |"
        )
    speed = {side.name: side.sequences_per_second for side in sides}
    peers = [name for name in PEERS if name in speed]
    if peers and "ubp" in speed:
        fastest = max(peers, key=speed.__getitem__)
        print(f"ubp is {speed['ubp'] / speed[fastest]:.2f} times as fast as {fastest}")


def main() -> None:
    """Write the workload, run the sides, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a leave-one-out file, .parquet or .npz")
    parser.add_argument("--folder", type=Path, default=Path("benchmarks/data/peers"), help="environments and results")
    parser.add_argument("--sides", nargs="+", choices=[*PEERS, "ubp"], default=[*PEERS, "ubp"])
    parser.add_argument("--batches", type=int, default=12, help="of a peer, after the warm-up")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--allocator",
        choices=["default", "keep"],
        default="keep",
        help="keep: glibc keeps its memory, on all sides alike, as ubp's own training asks it to; default: on none",
    )
    arguments = parser.parse_args()
    histories = read_histories(arguments.data)
    workload = Workload(arguments.folder / "workload", histories.n_items, n_batches=arguments.batches)
    workload.save([row - FIRST_ITEM + 1 for row in histories.rows(n_held_out=2, max_length=workload.max_length)])
    pythons = {name: environment(name, arguments.folder) for name in arguments.sides}
    keeps_memory = arguments.allocator == "keep"
    print(f"{arguments.threads} threads, allocator settings on all sides: {arguments.allocator}")
    show([run_side(name, workload, python, arguments.threads, keeps_memory) for name, python in pythons.items()])


if __name__ == "__main__":
    main()
