"""Measures a command, or a part of this process, with all processes that it starts."""

import contextlib
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import psutil

POLL_SECONDS = 1.0
"""Reading the shared pages of a large process stops it for some milliseconds: not too often."""


@dataclass
class Measurement:
    """What a command took.

    Attributes
    ----------
    wall_s : from its start to its end
    cpu_s : user and system time of the whole process tree
    peak_gib : highest memory of the whole process tree at one time; pages that processes share count once (PSS)
    peaks_gib : the same of all processes of one name, such as ``java``, whenever theirs was
    """

    wall_s: float = 0.0
    cpu_s: float = 0.0
    peak_gib: float = 0.0
    peaks_gib: dict[str, float] = field(default_factory=dict)


def measure(command: Sequence[str]) -> Measurement:
    """Run a command to its end; CalledProcessError if it fails."""
    with subprocess.Popen(command) as process, _watched(psutil.Process(process.pid)) as measurement:
        code = process.wait()
    if code:
        raise subprocess.CalledProcessError(code, command)
    return measurement


@contextlib.contextmanager
def measure_self() -> Iterator[Measurement]:
    """Measure this process until the block ends; CPU time counts from the start of each process."""
    with _watched(psutil.Process()) as measurement:
        yield measurement


@contextlib.contextmanager
def _watched(root: psutil.Process) -> Iterator[Measurement]:
    measurement = Measurement()
    tree, started = _Tree(root), time.monotonic()
    sampler = threading.Thread(target=tree.watch, daemon=True)
    sampler.start()
    try:
        yield measurement
    finally:
        measurement.wall_s = time.monotonic() - started
        tree.is_done.set()
        sampler.join()
        measurement.cpu_s, measurement.peak_gib = tree.cpu_s, tree.peak_bytes / 2**30
        measurement.peaks_gib = {name: n_bytes / 2**30 for name, n_bytes in tree.peaks_bytes.items()}


class _Tree:
    """Looks at a process tree again and again; a process that ended keeps the CPU time last seen."""

    def __init__(self, root: psutil.Process) -> None:
        self.root, self.is_done = root, threading.Event()
        self.peak_bytes = 0
        self.peaks_bytes: dict[str, int] = {}
        self._cpu_s: dict[tuple[int, float], float] = {}

    @property
    def cpu_s(self) -> float:
        return sum(self._cpu_s.values())

    def watch(self) -> None:
        while not self.is_done.wait(POLL_SECONDS):
            with contextlib.suppress(psutil.Error):
                self._look([self.root, *self.root.children(recursive=True)])

    def _look(self, processes: Sequence[psutil.Process]) -> None:
        found: dict[str, int] = {}
        for process in processes:
            with contextlib.suppress(psutil.Error):
                times = process.cpu_times()
                self._cpu_s[process.pid, process.create_time()] = times.user + times.system
                name = process.name()
                found[name] = found.get(name, 0) + process.memory_full_info().pss
        self.peak_bytes = max(self.peak_bytes, sum(found.values()))
        for name, n_bytes in found.items():
            self.peaks_bytes[name] = max(self.peaks_bytes.get(name, 0), n_bytes)
