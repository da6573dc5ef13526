"""Which entries the repeats of the probe tell apart.

Repeat r has the same seed and the same order of rows for every entry, so entries are compared repeat by repeat: by a
paired t-test, corrected by Holm's method for all comparisons of a table.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import fmean, stdev
from typing import Any

from schemas.tasks import TASKS, TaskScore

Result = Mapping[str, Any]
"""One task's result in ``scores.json``: score, auroc, novelty, diversity, and with repeats mean, std, n_repeats and
``repeats``, the score of each."""

Scores = dict[str, dict[str, Result]]
"""``scores.json``: entry -> task -> result; a task without an AUROC is absent."""

ScoresFile = dict[str, dict[str, TaskScore]]
"""What ``scores.json`` must hold."""

RUN_PROBE = "run the stage probe (`ubp run --from probe`), which writes it"

LEVEL = 0.05
"""Probability that a table tells any two entries apart that are equal."""

SUM = "sum"
"""Stands beside the tasks for the sum over them."""

ROUNDING = 1e-4 / math.sqrt(6)
"""Standard deviation that rounding gives the difference of two scores: each is rounded to 4 places."""


@dataclass(frozen=True)
class Spread:
    """A score over repeats, which differ in seed and row order; ``std`` with n - 1 degrees of freedom."""

    mean: float
    std: float


@dataclass(frozen=True)
class Comparisons:
    """The comparisons that a table makes.

    Attributes
    ----------
    outcomes : (task or ``SUM``, entry, other) -> whether the repeats tell the two apart
    """

    outcomes: Mapping[tuple[str, str, str], bool]

    def __len__(self) -> int:
        return len(self.outcomes)

    def tell_apart(self, column: str, entry: str, other: str) -> bool | None:
        """Whether the repeats tell two entries apart; None where they were not compared: the noise is unknown."""
        return self.outcomes.get((column, entry, other), self.outcomes.get((column, other, entry)))


def task_spread(result: Result) -> Spread | None:
    """Mean and deviation of one task's result; None where it was scored once."""
    mean, std = result.get("mean"), result.get("std")
    return None if mean is None or std is None else Spread(mean, std)


def mean_score(result: Result) -> float:
    """The mean over the repeats, or the one score."""
    spread = task_spread(result)
    return spread.mean if spread else float(result["score"])


def sum_spread(results: Mapping[str, Result]) -> Spread | None:
    """Mean and deviation of the sum over tasks; None where the scores of each repeat are not known."""
    sums = repeated_scores(results, SUM)
    return Spread(fmean(sums), stdev(sums)) if sums else None


def repeated_scores(results: Mapping[str, Result], column: str) -> list[float] | None:
    """An entry's score in each repeat on a task, or on the sum over its tasks.

    None where there are not two repeats, or the file is of a version that kept none of them.
    """
    of_tasks = [results[task].get("repeats") for task in results if column in (task, SUM)]
    n_repeats = {len(scores or ()) for scores in of_tasks}
    if len(n_repeats) != 1 or min(n_repeats) < 2:
        return None
    return [sum(scores) for scores in zip(*of_tasks, strict=True)]


def compare_entries(scores: Scores, pairs: Iterable[tuple[str, str]] | None = None) -> Comparisons:
    """The comparisons of a table of scores, on each task and on the sum over tasks that two entries share.

    Parameters
    ----------
    pairs : of entries; all where none are given: a table of which the best is sought compares each with each
    """
    p_values = {}
    for entry, other in combinations(scores, 2) if pairs is None else pairs:
        columns = [task for task in TASKS if task in scores[entry] and task in scores[other]]
        if scores[entry].keys() == scores[other].keys():
            columns.append(SUM)
        for column in columns:
            own, others = (repeated_scores(scores[name], column) for name in (entry, other))
            if own and others and len(own) == len(others):
                n_tasks = len(columns) - 1 if column == SUM else 1
                p_values[column, entry, other] = paired_p_value(own, others, ROUNDING * math.sqrt(n_tasks))
    return Comparisons(reject_by_holm(p_values))


def paired_p_value(first: Sequence[float], second: Sequence[float], least_std: float = 0.0) -> float:
    """Two-sided p-value of Student's t-test on the differences of paired scores.

    Parameters
    ----------
    least_std : of the differences; few rounded numbers may be equal by chance, which is no certainty
    """
    differences = [one - other for one, other in zip(first, second, strict=True)]
    n, mean = len(differences), fmean(differences)
    std = max(stdev(differences), least_std)
    if mean == 0 or std == 0:
        return float(mean == 0)
    return t_tail(mean / (std / math.sqrt(n)), n - 1)


def t_tail(t: float, n_freedom: int) -> float:
    """Probability that Student's t is as far from zero as ``t``, or farther (Abramowitz and Stegun, 26.7.3 and 4)."""
    angle = math.atan(abs(t) / math.sqrt(n_freedom))
    is_odd = n_freedom % 2
    # the sum's terms: cos, 2/3 cos^3, 2/3 4/5 cos^5, ... where n is odd; 1, 1/2 cos^2, 1/2 3/4 cos^4, ... where even
    term, total = math.cos(angle) if is_odd else 1.0, 0.0
    for power in range(is_odd, n_freedom - 1, 2):
        total += term
        term *= (power + 1) / (power + 2) * math.cos(angle) ** 2
    within = math.sin(angle) * total
    return 1 - (2 / math.pi * (angle + within) if is_odd else within)


def reject_by_holm(p_values: Mapping[Any, float], level: float = LEVEL) -> dict[Any, bool]:
    """Which hypotheses of no difference fall, so that a true one is among them with at most ``level`` (Holm 1979)."""
    outcomes, is_below = {}, True
    for n_before, (name, p_value) in enumerate(sorted(p_values.items(), key=lambda item: item[1])):
        is_below = is_below and p_value <= level / (len(p_values) - n_before)
        outcomes[name] = is_below
    return outcomes


def describe_comparisons(comparisons: Comparisons) -> str:
    """How a table tells entries apart, for the note below it."""
    return f"paired t-tests, {len(comparisons)} in this table, Holm correction, level {LEVEL:.0%}"
