"""What ``metrics.jsonl`` tells of a run: stage times, table rows, training curves; of reruns, the newest."""

from collections.abc import Iterable
from dataclasses import dataclass
from statistics import fmean, median
from typing import Any

Lines = list[dict[str, Any]]
Points = list[tuple[float, float]]

MAX_POINTS = 400
"""Points of one curve: more than a figure's pixels tell nothing."""


@dataclass(frozen=True)
class TrainingHistory:
    """The newest training run of one behaviour.

    Attributes
    ----------
    loss : (step, mean training loss of an interval), thinned to ``MAX_POINTS``
    epochs : the validation line of each epoch, by epoch
    sequences_per_second : median over intervals, all ranks together
    wait_pct : mean share of an interval spent waiting for the feed
    """

    loss: Points
    epochs: Lines
    sequences_per_second: float | None
    wait_pct: float | None

    @property
    def ndcg(self) -> Points:
        """(epoch, NDCG@10) of the held-out clients."""
        return [(line["epoch"], line["validation/ndcg@10"]) for line in self.epochs]

    @property
    def best_epoch(self) -> dict[str, Any]:
        """The validation line of the best NDCG@10, the first of equals; empty where no client was held out."""
        return max(self.epochs, key=lambda line: line["validation/ndcg@10"], default={})


def newest_by(lines: Lines, key: str) -> dict[str, dict[str, Any]]:
    """The last line of each value of ``key`` (``stage``, ``table``), in the order of those last lines."""
    found: dict[str, dict[str, Any]] = {}
    for line in lines:
        if key in line:
            found.pop(line[key], None)
            found[line[key]] = line
    return found


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
    losses = {line["step"]: line["train/loss"] for line in lines if "train/loss" in line}
    epochs = {line["epoch"]: line for line in lines if "validation/ndcg@10" in line}
    rates = [line["train/sequences_per_second"] for line in lines if "train/sequences_per_second" in line]
    waits = [line["feed/wait_pct"] for line in lines if "feed/wait_pct" in line]
    return TrainingHistory(
        thin(sorted(losses.items())),
        [epochs[epoch] for epoch in sorted(epochs)],
        median(rates) if rates else None,
        fmean(waits) if waits else None,
    )
