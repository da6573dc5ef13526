"""How far two results may be told apart."""

import math
from dataclasses import dataclass

from schemas.tasks import TaskScore

Result = dict[str, float | None]
Scores = dict[str, dict[str, Result]]
"""``scores.json``: entry -> task -> score, auroc, novelty, diversity, and with repeats mean, std, n_repeats; a task
without an AUROC is absent."""

ScoresFile = dict[str, dict[str, TaskScore]]
"""What ``scores.json`` must hold."""

RUN_PROBE = "run the stage probe (`ubp run --from probe`), which writes it"


NOISE = 2.0
"""Standard errors of a difference of means, below which it counts as noise."""


@dataclass(frozen=True)
class Spread:
    """A score over repeats, which differ in seed and row order.

    Attributes
    ----------
    std : standard deviation, with n - 1
    standard_error : of the mean
    """

    mean: float
    std: float
    standard_error: float

    def is_within_noise_of(self, other: "Spread") -> bool:
        """Whether the means differ by less than ``NOISE`` standard errors of their difference, or not at all."""
        difference = abs(self.mean - other.mean)
        return difference < NOISE * math.hypot(self.standard_error, other.standard_error) or difference == 0


def task_spread(result: Result) -> Spread | None:
    """Mean and deviation of one task's result in ``scores.json``; None where it was scored once."""
    mean, std, n_repeats = (result.get(name) for name in ("mean", "std", "n_repeats"))
    if mean is None or std is None or n_repeats is None:
        return None
    return Spread(mean, std, std / math.sqrt(n_repeats))


def compare_results(own: Result, other: Result) -> float:
    """The difference of two results in ``scores.json``, of repeats that of the means; 0 where it may be noise."""
    spreads = task_spread(own), task_spread(other)
    if spreads[0] and spreads[1]:
        is_noise = spreads[0].is_within_noise_of(spreads[1])
        return 0.0 if is_noise else spreads[0].mean - spreads[1].mean
    return (own.get("score") or 0.0) - (other.get("score") or 0.0)


def sum_spread(results: dict[str, Result]) -> Spread | None:
    """Of the sum over tasks, as if they were independent; None where a task was scored once only."""
    spreads = [task_spread(result) for result in results.values()]
    known = [spread for spread in spreads if spread]
    if not known or len(known) < len(spreads):
        return None
    mean = sum(spread.mean for spread in known)
    std, standard_error = (
        math.hypot(*values) for values in zip(*((s.std, s.standard_error) for s in known), strict=True)
    )
    return Spread(mean, std, standard_error)
