"""The data stages on one core and on two: how far the work spreads.

    python benchmarks/scaling.py --visits 20e6

Runs ubp's side of ``benchmarks/sequences.py`` with ``local[1]`` and ``local[2]`` on the same simulated visits and
prints wall time, CPU time and memory of both, and what Spark's metrics say: tasks, and bytes shuffled per visit.
``docs/scaling.md`` extrapolates these to larger sizes.
"""

import argparse
import json
import logging
from pathlib import Path

from sequences import make_visits, run_side


def main() -> None:
    """Measure both and print them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--visits", type=float, default=20e6)
    parser.add_argument("--folder", type=Path, default=Path("benchmarks/data"), help="made files and outputs")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    data = make_visits(arguments.folder, int(arguments.visits))
    for n_cores in (1, 2):
        out = arguments.folder / f"{n_cores}-cores"
        measured, stages = run_side("ubp", data, out, n_cores)
        busy_s = measured.wall_s - stages.pop("start")
        told = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in stages.items())
        print(
            f"local[{n_cores}]: {busy_s:.1f} s after the start ({told}), CPU {measured.cpu_s:.1f} s, "
            f"{measured.peak_gib:.2f} GiB"
        )
        for name, work in json.loads((out / "work.json").read_text()).items():
            per_visit = work["shuffled_bytes"] / arguments.visits
            print(f"  {name}: {work['n_tasks']} tasks, {per_visit:.2f} bytes shuffled per visit")


if __name__ == "__main__":
    main()
