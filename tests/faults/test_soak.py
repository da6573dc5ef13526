"""Ten full runs in one process tree: what a run takes, it gives back."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from fault_runs import Shop, tell

pytestmark = pytest.mark.faults

N_RUNS, SETTLED = 10, 3
SCRIPT = """
import gc, os, sys, tempfile, threading
import psutil
from jobs.cli import main

def figures():
    gc.collect()
    me = psutil.Process()
    children = me.children(recursive=True)
    java = [p for p in children if "java" in p.name()]
    return {
        "Python MiB": me.memory_info().rss / 2**20, "threads": me.num_threads(), "open files": me.num_fds(),
        "JVM threads": sum(p.num_threads() for p in java), "JVM open files": sum(p.num_fds() for p in java),
        "JVM MiB": sum(p.memory_info().rss for p in java) / 2**20,
        "processes": len(children),
        "temporary entries": sum(len(d) + len(f) for _, d, f in os.walk(tempfile.gettempdir())),
        "temporary folders": len(os.listdir(tempfile.gettempdir())),
    }

for number in range(int(sys.argv[1])):
    assert main(["run", "--restart", *sys.argv[2:]]) == 0
    print(*(f"{name}={value:.0f}" for name, value in figures().items()), sep=";", file=sys.__stdout__, flush=True)
"""


def test_ten_runs_do_not_grow(shop: Shop, tmp_path: Path) -> None:
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    flags = shop.command(tmp_path / "out")[4:]
    n_ranks = ["--set", "training.n_ranks=2"]
    environment = {**os.environ, "TMPDIR": str(temporary)}
    with (tmp_path / "figures").open("w") as stream:
        command = [sys.executable, "-c", SCRIPT, str(N_RUNS), *flags, *n_ranks]
        done = subprocess.run(command, stdout=stream, stderr=subprocess.PIPE, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    lines = [line for line in (tmp_path / "figures").read_text().splitlines() if line.startswith("Python MiB=")]
    tell("\n".join(lines))
    runs = [dict(part.split("=") for part in line.split(";")) for line in lines]
    assert len(runs) == N_RUNS
    for name, most in {"Python MiB": 1.1, "JVM MiB": 1.25, "threads": 1, "open files": 1, "JVM threads": 1.1,
                       "JVM open files": 1.1, "processes": 1, "temporary folders": 1}.items():  # fmt: skip
        first, last = (float(runs[number][name]) for number in (SETTLED, -1))
        assert last <= most * first + 2, f"{name} grew from {first:g} after run {SETTLED + 1} to {last:g}"
    assert list(temporary.iterdir()) == [], "temporary files outlive the process"
