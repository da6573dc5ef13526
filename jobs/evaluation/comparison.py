"""Which entries the repeats of the probe tell apart.

Repeat r has the same seed and the same order of rows for every entry, so entries are compared repeat by repeat: by a
paired t-test, corrected by Holm's method for all comparisons of a table.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
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

# an error that is uniform over 1e-4 has the variance 1e-8 / 12; a difference has two of them
ROUNDING = 1e-4 / math.sqrt(6)
"""Standard deviation that rounding gives the difference of two scores: each is rounded to 4 places."""


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


def figures(result: TaskScore) -> dict[str, Any]:
    """What ``scores.json`` holds: no value that is None, and nothing about repeats where there is one."""
    found = {name: value for name, value in asdict(result).items() if value is not None}
    if result.n_repeats == 1:
        del found["n_repeats"]
    return found


def mean_score(result: Result) -> float:
    """The mean over the repeats, or the one score."""
    return float(result.get("mean", result["score"]))


def result_of(results: Mapping[str, Result], column: str) -> Result:
    """An entry's result on a task, empty where it has none, or on the sum over its tasks, in the same form.

    The sum has mean, std and ``repeats`` where all tasks have as many repeats, two or more. None of its numbers is
    rounded.
    """
    # without a score there is no sum either, and not one of 0
    if column != SUM or not results:
        return results.get(column, {})
    total: dict[str, Any] = {"score": sum(results[task]["score"] for task in TASKS if task in results)}
    of_tasks = [result.get("repeats", ()) for result in results.values()]
    if len({len(repeats) for repeats in of_tasks}) == 1 and len(of_tasks[0]) > 1:
        # the tasks of a repeat share its seed: the deviation of their sum is not to be had from their deviations
        sums = [sum(repeat) for repeat in zip(*of_tasks, strict=True)]
        total |= {"mean": fmean(sums), "std": stdev(sums), "repeats": sums}
    return total


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
            own, others = (result_of(scores[name], column).get("repeats", ()) for name in (entry, other))
            if len(own) == len(others) > 1:
                # the variances of the tasks' rounding errors add up in the sum
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
    # in closed form: no Python package that ubp requires has the distribution
    angle = math.atan(abs(t) / math.sqrt(n_freedom))
    is_odd = n_freedom % 2
    # the sum's terms: cos, 2/3 cos^3, 2/3 4/5 cos^5, ... where n is odd; 1, 1/2 cos^2, 1/2 3/4 cos^4, ... where even
    term, total = math.cos(angle) if is_odd else 1.0, 0.0
    for power in range(is_odd, n_freedom - 1, 2):
        total += term
        term *= (power + 1) / (power + 2) * math.cos(angle) ** 2
    within = math.sin(angle) * total
    return 1 - (2 / math.pi * (angle + within) if is_odd else within)


def reject_by_holm(p_values: Mapping[Any, float]) -> dict[Any, bool]:
    """Which hypotheses of no difference fall, so that a true one is among them with at most ``LEVEL`` (Holm 1979)."""
    outcomes, is_below = {}, True
    # from the least p-value on: the first that is too large ends it, and all after it stand
    for n_before, (name, p_value) in enumerate(sorted(p_values.items(), key=lambda item: item[1])):
        is_below = is_below and p_value <= LEVEL / (len(p_values) - n_before)
        outcomes[name] = is_below
    return outcomes


def describe_comparisons(comparisons: Comparisons) -> str:
    """How a table tells entries apart, for the note below it."""
    return f"paired t-tests, {len(comparisons)} in this table, Holm correction, level {LEVEL:.0%}"
