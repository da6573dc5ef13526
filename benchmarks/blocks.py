"""What blocks of a profile cost: time and memory of the stages that make them.

    python benchmarks/blocks.py --events 17e6

Makes a benchmark log, reads it up to the clients of the windows, and runs each stage in a process of its own. Wall time
holds the JVM's start, 5 s or so. The blocks of encoders are trained and embedded: ``python -m ml.bench`` and
``benchmarks/inference.py`` measure those.
"""

import argparse
import subprocess
import sys
from pathlib import Path

import numpy as np
from measure import measure
from sequences import make_log

STAGES = ("baseline", "counters", "factorisation")


def main() -> None:
    """Measure the stages one after another and print a row for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=float, default=17e6)
    parser.add_argument("--stages", nargs="+", default=STAGES, metavar="NAME")
    parser.add_argument("--folder", type=Path, default=Path("benchmarks/data"), help="made files and outputs")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="of the configuration")
    arguments = parser.parse_args()
    n_events = int(arguments.events)
    data, out = make_log(arguments.folder, n_events), arguments.folder / f"blocks-{n_events}"
    ubp = [sys.executable, "-m", "jobs.cli"]
    flags = ["--data", str(data), "--out", str(out), "--config", "default"]
    if arguments.set:
        flags += ["--set", *arguments.set]
    subprocess.run([*ubp, "run", *flags, "--to", "split"], check=True)
    n_clients = len(np.load(data / "input" / "relevant_clients.npy"))
    print(f"{n_events:,} events, {n_clients:,} relevant clients")
    for stage in arguments.stages:
        took = measure([*ubp, stage, *flags])
        print(f"{stage:<14} {took.wall_s:7.1f} s {took.cpu_s:8.1f} CPU s {took.peak_gib:6.2f} GiB", flush=True)


if __name__ == "__main__":
    main()
