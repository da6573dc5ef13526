"""What ``metrics.jsonl`` holds of a run: stage times, table rows, training curves; of reruns, the newest."""

from array import array
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from jobs.storage.metrics_log import begins_training

Lines = list[dict[str, Any]]
Points = list[tuple[float, float]]
Curve = NDArray[np.float64]

CURVES = ("train/loss", "train/sequences_per_second", "feed/wait_pct", "memory/peak_gib")


@dataclass(frozen=True)
class TrainingHistory:
    """The newest training run of one encoder; curves are float64 [n, 2], (step, figure of an interval), by step.

    Attributes
    ----------
    epochs : the validation line of each epoch, by epoch
    sequences_per_second : all ranks together
    wait_pct : share of the interval that rank 0 spent waiting for the feed
    peak_gib : the most memory that rank 0's process has used so far
    """

    loss: Curve
    sequences_per_second: Curve
    wait_pct: Curve
    peak_gib: Curve
    epochs: Lines

    @property
    def ndcg(self) -> Points:
        """(epoch, NDCG@10) of the held-out clients."""
        return [(line["epoch"], line["validation/ndcg@10"]) for line in self.epochs]

    @property
    def best_epoch(self) -> dict[str, Any]:
        """The validation line of the best NDCG@10, the first of equals; empty where no client was held out."""
        return max(self.epochs, key=lambda line: line["validation/ndcg@10"], default={})

    def over_progress(self, curve: Curve) -> Curve:
        """A curve over the share of the training that is done, in percent: trainings of other lengths compare so."""
        return curve * (100 / self.loss[-1, 0] if len(self.loss) else 1, 1)

    @property
    def last_loss(self) -> float | None:
        """Of the last interval."""
        return float(self.loss[-1, 1]) if len(self.loss) else None

    @property
    def median_rate(self) -> float | None:
        """Sequences per second, median over intervals."""
        return float(np.median(self.sequences_per_second[:, 1])) if len(self.sequences_per_second) else None

    @property
    def mean_wait_pct(self) -> float | None:
        """Share of the time spent waiting for the feed, mean over intervals."""
        return float(self.wait_pct[:, 1].mean()) if len(self.wait_pct) else None

    @property
    def top_peak_gib(self) -> float | None:
        """The most memory used, GiB."""
        return float(self.peak_gib[:, 1].max()) if len(self.peak_gib) else None


@dataclass(frozen=True)
class StageRun:
    """The newest run of one stage, and the ``table`` lines that it wrote, in order."""

    name: str
    seconds: float
    tables: Lines

    @property
    def n_rows(self) -> int:
        """Rows of all its tables."""
        return sum(line["table/rows"] for line in self.tables)


def newest_by(lines: Lines, key: str) -> dict[str, dict[str, Any]]:
    """The last line of each value of ``key`` (``table``, ``source``), in the order of those last lines."""
    found: dict[str, dict[str, Any]] = {}
    for line in lines:
        if key in line:
            found.pop(line[key], None)
            found[line[key]] = line
    return found


def stage_runs(lines: Lines, names: Iterable[str]) -> list[StageRun]:
    """The newest run of each of these stages that ran, with the tables that it wrote.

    These are the table lines of the stage since its last end, but those of a run that died in between. Lines of older
    versions carry no stage: those since the end of any stage are taken for its own.
    """
    runs: dict[str, StageRun] = {}
    own: dict[str, Lines] = defaultdict(list)
    without_stage: Lines = []
    for line in lines:
        name = line.get("stage")
        if name is None:
            without_stage.append(line)
        elif "stage/seconds" not in line:
            own[name].append(line)
        else:
            # times are logged in whole seconds
            start = datetime.fromisoformat(line["time"]) - timedelta(seconds=line["stage/seconds"] + 1)
            written = newest_by(own.pop(name, []) + without_stage, "table").values()
            tables = [table for table in written if start <= datetime.fromisoformat(table["time"])]
            runs[name] = StageRun(name, line["stage/seconds"], tables)
            without_stage = []
    return [runs[name] for name in names if name in runs]


def split_training(lines: Iterable[dict[str, Any]]) -> tuple[Lines, dict[str, TrainingHistory]]:
    """The lines that are of no training, and of each encoder the newest training, kills within it included.

    The lines are read once. Of the hundreds of thousands that a long training logs, only the numbers of the curves are
    kept, 64 bytes a line.
    """
    others: Lines = []
    runs: dict[str, _Run] = {}
    for line in lines:
        if "behaviour" not in line:
            others.append(line)
            continue
        name = line["behaviour"]
        if name not in runs or begins_training(line, runs[name].last_step):
            runs[name] = _Run()
        runs[name].add(line)
    return others, {name: run.history() for name, run in runs.items()}


def thin(curve: ArrayLike, at_most: int = 400) -> Points:
    """A curve ([n, 2]) as means of equal runs of neighbours, at most so many: a figure has no pixels for more."""
    points = np.asarray(curve, np.float64).reshape(-1, 2)
    size = -(-len(points) // at_most) or 1
    means = [points[start : start + size].mean(axis=0).tolist() for start in range(0, len(points), size)]
    return [(x, y) for x, y in means]


class _Run:
    """What is kept of a run while its lines are read."""

    def __init__(self) -> None:
        self.last_step = 0
        self._epochs: dict[int, dict[str, Any]] = {}
        self._curves = {key: array("d") for key in CURVES}

    def add(self, line: dict[str, Any]) -> None:
        self.last_step = line["step"]
        if "begins_at" in line:
            self._drop_after(line["begins_at"])
        if "validation/ndcg@10" in line:
            self._epochs[line["epoch"]] = line
        for key, numbers in self._curves.items():
            if key in line:
                numbers.extend((line["step"], line[key]))

    def _drop_after(self, step: int) -> None:
        """Drop what a kill has lost: the training goes on from the checkpoint of this step."""
        self._epochs = {epoch: line for epoch, line in self._epochs.items() if line["step"] <= step}
        for numbers in self._curves.values():
            while numbers and numbers[-2] > step:
                del numbers[-2:]

    def history(self) -> TrainingHistory:
        # in the order of CURVES
        loss, rates, waits, peaks = (_newest_of_each_step(numbers) for numbers in self._curves.values())
        return TrainingHistory(loss, rates, waits, peaks, [self._epochs[epoch] for epoch in sorted(self._epochs)])


def _newest_of_each_step(numbers: "array[float]") -> Curve:
    """In logs of earlier versions, steps that a kill had lost are there twice: the later line counts."""
    backwards = np.array(numbers).reshape(-1, 2)[::-1]
    return backwards[np.unique(backwards[:, 0], return_index=True)[1]]
