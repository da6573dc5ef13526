"""What ``metrics.jsonl`` tells of a run: stage times, table rows, training curves; of reruns, the newest."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from statistics import fmean, median
from typing import Any

Lines = list[dict[str, Any]]
Points = list[tuple[float, float]]

MAX_POINTS = 400
"""Points of one curve: more than a figure's pixels tell nothing."""


@dataclass(frozen=True)
class TrainingHistory:
    """The newest training run of one behaviour; curves are (step, figure of an interval), by step.

    Attributes
    ----------
    loss : mean training loss
    epochs : the validation line of each epoch, by epoch
    sequences_per_second : all ranks together
    wait_pct : share of the interval that rank 0 spent waiting for the feed
    peak_gib : the most memory that rank 0's process has held so far
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
        """The most memory held, GiB."""
        return max((peak for _, peak in self.peak_gib), default=None)


@dataclass(frozen=True)
class StageRun:
    """The newest run of one stage.

    Attributes
    ----------
    tables : the ``table`` lines that it wrote, in order
    """

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
    """The newest run of each of these stages that ran, with the tables it wrote."""
    newest = newest_by([line for line in lines if _is_end(line)], "stage")
    return [
        StageRun(name, newest[name]["stage/seconds"], _tables_of(newest[name], lines))
        for name in names
        if name in newest
    ]


def _is_end(line: dict[str, Any]) -> bool:
    """Whether the line is a stage's last; each of its lines carries its name."""
    return "stage/seconds" in line


def _tables_of(stage: dict[str, Any], lines: Lines) -> Lines:
    """The table lines of the stage since its last end, but those of a run that died in between.

    Lines of older versions carry no stage: those since the end of any are taken for its own.
    """
    earlier = lines[: lines.index(stage)]
    since_own, since_any = _after_end(earlier, stage["stage"]), _after_end(earlier)
    own = [line for line in since_own if line.get("stage") == stage["stage"]]
    unknown = [line for line in since_any if "stage" not in line]
    written = newest_by(own + unknown, "table").values()
    # times are logged in whole seconds
    start = datetime.fromisoformat(stage["time"]) - timedelta(seconds=stage["stage/seconds"] + 1)
    return [line for line in written if start <= datetime.fromisoformat(line["time"])]


def _after_end(lines: Lines, name: str | None = None) -> Lines:
    """The lines after the last end of a stage, or of any."""
    ends = [place for place, line in enumerate(lines) if _is_end(line) and name in (None, line["stage"])]
    return lines[ends[-1] + 1 :] if ends else lines


def training_histories(lines: Lines, behaviours: Iterable[str]) -> dict[str, TrainingHistory]:
    """The newest run of each behaviour that was trained; older runs have another ``run`` id."""
    newest = {name: line.get("run") for name, line in newest_by(lines, "behaviour").items()}
    return {
        name: _history([line for line in lines if line.get("behaviour") == name and line.get("run") == newest[name]])
        for name in behaviours
        if name in newest
    }


def thin(points: Points, at_most: int = MAX_POINTS) -> Points:
    """``points`` as means of equal runs of neighbours, at most so many."""
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
