"""``metrics.jsonl``: every figure of a run, one JSON object a line, in the order they were measured."""

import contextlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jobs.runtime.progress import parse_line
from jobs.storage.files import append_line


@dataclass
class RunningStage:
    """Whose lines are added, and when the part that it is at began (``time.monotonic``)."""

    name: str
    since: float


# a context variable: a stage's threads get it with a copy of the context (jobs/runtime/side_by_side.py)
_running: ContextVar[RunningStage | None] = ContextVar("stage", default=None)


@contextlib.contextmanager
def lines_of_stage(name: str) -> Iterator[None]:
    """Stamp the lines that this process adds with a stage until the block ends; other stages may run meanwhile."""
    token = _running.set(RunningStage(name, time.monotonic()))
    try:
        yield
    finally:
        _running.reset(token)


def append_metrics(path: Path, values: Mapping[str, Any]) -> None:
    """Add one line, stamped with time and running stage; keys carry their unit (``stage/seconds``)."""
    stage = _running.get()
    stamp = {"time": datetime.now(UTC).isoformat(timespec="seconds"), **({"stage": stage.name} if stage else {})}
    append_line(path, json.dumps(stamp | dict(values)))


def append_blocks(path: Path, blocks: Sequence[str]) -> None:
    """Add how long blocks took that the running stage has just written: since it began, or wrote those before."""
    if blocks and (stage := _running.get()):
        began, stage.since = stage.since, time.monotonic()
        append_metrics(path, {"blocks": list(blocks), "blocks/seconds": stage.since - began})


def read_block_seconds(path: Path) -> dict[str, float]:
    """How long each block of the log took, the newest time it was made: an encoder's training, then its vectors.

    Blocks that one job writes, as those of the encoders, have equal shares of its time.
    """
    written: dict[str, float] = {}
    trained: dict[str, float] = {}
    last_step: dict[str, int] = {}
    for line in read_metrics(path):
        for name in line.get("blocks", []):
            written[name] = line["blocks/seconds"] / len(line["blocks"])
        if "behaviour" in line:
            name = line["behaviour"]
            before = 0.0 if begins_training(line, last_step.get(name, 0)) else trained.get(name, 0.0)
            # steps that were lost by a kill, and done twice, count twice
            trained[name], last_step[name] = before + line.get("train/seconds", 0.0), line["step"]
    return {name: seconds + trained.get(name, 0) for name, seconds in written.items()}


def begins_training(line: Mapping[str, Any], last_step: int) -> bool:
    """Whether a training from the start begins with a line of an encoder; a killed one goes on from a later step.

    Parameters
    ----------
    last_step : of the encoder's line before
    """
    if "begins_at" in line:
        return bool(line["begins_at"] == 0)
    # in logs of earlier versions, no line says where a training begins
    return "train/loss" in line and line["epoch"] == 1 and line["step"] <= last_step


class TensorBoard:
    """The same figures as TensorBoard files, one run per behaviour in ``folder``."""

    def __init__(self, folder: Path) -> None:
        from tensorboardX import SummaryWriter  # imported only by runs that ask for it

        # often enough to watch a training by; tensorboardX writes every two minutes by default
        self._open = lambda behaviour: SummaryWriter(str(folder / behaviour), flush_secs=10)
        self._writers: dict[str, Any] = {}

    def add(self, values: Mapping[str, Any]) -> None:
        """Plot each figure of a line (a key with ``/``) over the steps."""
        behaviour = values["behaviour"]
        writer = self._writers.get(behaviour) or self._writers.setdefault(behaviour, self._open(behaviour))
        for key, value in values.items():
            if "/" in key:
                writer.add_scalar(key, value, values["step"])

    def close(self) -> None:
        """Write what is still in memory."""
        for writer in self._writers.values():
            writer.close()


def log_size(path: Path) -> int:
    """Bytes of the log so far."""
    return path.stat().st_size if path.exists() else 0


def read_metrics(path: Path, start: int = 0) -> Iterator[dict[str, Any]]:
    """The lines from byte ``start`` on, oldest first, one at a time; none where nothing was logged yet.

    A long training logs hundreds of thousands of lines: who needs its own reads from where the log was before them.
    """
    if not path.exists():
        return
    with path.open("rb") as file:
        file.seek(start)
        for line in file:
            if (values := parse_line(line)) is not None:
                yield values
