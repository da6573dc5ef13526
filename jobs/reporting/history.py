"""What ``metrics.jsonl`` holds of a run: stage times, table rows, training curves; of reruns, the newest."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from statistics import fmean, median
from typing import Any

Lines = list[dict[str, Any]]
Points = list[tuple[float, float]]


@dataclass(frozen=True)
class TrainingHistory:
    """The newest training run of one behaviour; curves are (step, figure of an interval), by step.

    Attributes
    ----------
    epochs : the validation line of each epoch, by epoch
    sequences_per_second : all ranks together
    wait_pct : share of the interval that rank 0 spent waiting for the feed
    peak_gib : the most memory that rank 0's process has used so far
    """

    loss: Points
    epochs: Lines
    sequences_per_second: Points
    wait_pct: Points
    peak_gib: Points

    @property
    def ndcg(self) -> Points:
        """(epoch, NDCG@10) of the held-out clients."""
        return [(line["epoch"], line["validation/ndcg@10"]) for line in self.epochs]

    @property
    def best_epoch(self) -> dict[str, Any]:
        """The validation line of the best NDCG@10, the first of equals; empty where no client was held out."""
        return max(self.epochs, key=lambda line: line["validation/ndcg@10"], default={})

    def over_progress(self, points: Points) -> Points:
        """A curve over the share of the training that is done, in percent: trainings of other lengths compare so."""
        last = max((step for step, _ in self.loss), default=1)
        return [(100 * step / last, figure) for step, figure in points]

    @property
    def median_rate(self) -> float | None:
        """Sequences per second, median over intervals."""
        return median(rate for _, rate in self.sequences_per_second) if self.sequences_per_second else None

    @property
    def mean_wait_pct(self) -> float | None:
        """Share of the time spent waiting for the feed, mean over intervals."""
        return fmean(wait for _, wait in self.wait_pct) if self.wait_pct else None

    @property
    def top_peak_gib(self) -> float | None:
        """The most memory used, GiB."""
        return max((peak for _, peak in self.peak_gib), default=None)


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
    """The last line of each value of ``key`` (``stage``, ``table``), in the order of those last lines."""
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


def training_histories(lines: Lines, behaviours: Iterable[str]) -> dict[str, TrainingHistory]:
    """The newest run of each behaviour that was trained; older runs have another ``run`` id."""
    newest = {name: line.get("run") for name, line in newest_by(lines, "behaviour").items()}
    return {
        name: _history([line for line in lines if line.get("behaviour") == name and line.get("run") == newest[name]])
        for name in behaviours
        if name in newest
    }


def thin(points: Points, at_most: int = 400) -> Points:
    """``points`` as means of equal runs of neighbours, at most so many: a figure has no pixels for more."""
    size = -(-len(points) // at_most) or 1
    runs = [points[start : start + size] for start in range(0, len(points), size)]
    return [(fmean(x for x, _ in run), fmean(y for _, y in run)) for run in runs]


def _history(lines: Lines) -> TrainingHistory:
    # a resumed run repeats the steps and epochs it had not saved: the later line counts
    epochs = {line["epoch"]: line for line in lines if "validation/ndcg@10" in line}
    curves = [
        sorted({line["step"]: line[key] for line in lines if key in line}.items())
        for key in ("train/loss", "train/sequences_per_second", "feed/wait_pct", "memory/peak_gib")
    ]
    loss, rates, waits, peaks = curves
    return TrainingHistory(loss, [epochs[epoch] for epoch in sorted(epochs)], rates, waits, peaks)
