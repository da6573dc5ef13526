"""The score table: one row per entry, one column per task, their sum and the Borda points."""

from collections.abc import Sequence
from dataclasses import dataclass

from conf.evaluation import ProbeSettings
from jobs.evaluation.comparison import NOISE, Scores, Spread, compare_results, sum_spread, task_spread
from ml.metrics.challenge import borda
from schemas.tasks import PROPENSITY, TASKS

DETAILS = ("auroc", "novelty", "diversity")
MISSING = "-"


@dataclass(frozen=True)
class Standing:
    """How one entry stands to another on the tasks that both have a score on.

    Attributes
    ----------
    above, below : tasks on which its score is higher, or lower; of repeats, those where the means differ by more than
        noise
    level : tasks on which repeats cannot tell the two apart, or the scores are equal
    """

    above: int = 0
    below: int = 0
    level: int = 0

    @property
    def n_tasks(self) -> int:
        """Tasks that both have a score on."""
        return self.above + self.below + self.level


@dataclass(frozen=True)
class Cell:
    """One number of the table, as it is shown.

    Attributes
    ----------
    is_best : no other number of the column is higher
    spread : ``mean ± standard deviation`` over the repeats, None without repeats
    is_in_noise : its mean is within the noise of the column's highest, as is another's: they cannot be told apart
    """

    text: str
    is_best: bool = False
    spread: str | None = None
    is_in_noise: bool = False


@dataclass(frozen=True)
class ScoreRow:
    """One entry's line: a cell per column of ``score_columns``."""

    entry: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Ranked:
    """One entry's place by Borda points; entries with equal points share it."""

    place: int
    entry: str
    points: int


def task_title(task: str) -> str:
    """A task's name in a table's head: ``propensity_sku`` -> ``sku``."""
    return task.removeprefix("propensity_")


def score_columns() -> list[str]:
    """Heads of the score table's columns, after the entry's."""
    return [*map(task_title, TASKS), "sum", "Borda"]


def build_score_rows(scores: Scores) -> list[ScoreRow]:
    """The score table, best of each column marked (every one of equals), and those that repeats cannot tell apart."""
    points = _borda_points(scores)
    columns = [
        _column(
            [task_score(scores, entry, task) for entry in scores],
            ".4f",
            [task_spread(scores[entry].get(task, {})) for entry in scores],
        )
        for task in TASKS
    ]
    sums = [sum_of_scores(scores, entry) for entry in scores]
    columns.append(_column(sums, ".4f", [sum_spread(scores[entry]) for entry in scores]))
    columns.append(_column([points[entry] for entry in scores], "d"))
    return [ScoreRow(entry, cells) for entry, cells in zip(scores, zip(*columns, strict=True), strict=True)]


def build_detail_rows(scores: Scores) -> list[ScoreRow]:
    """AUROC, novelty and diversity of each propensity task, best marked; columns by task, then detail."""
    columns = [
        _column([scores[entry].get(task, {}).get(detail) for entry in scores], ".4f")
        for task in PROPENSITY
        for detail in DETAILS
    ]
    return [ScoreRow(entry, cells) for entry, cells in zip(scores, zip(*columns, strict=True), strict=True)]


def rank_entries(scores: Scores) -> list[Ranked]:
    """Entries by falling Borda points, then in the order of ``scores``."""
    points = _borda_points(scores)
    ranking = sorted(scores, key=lambda entry: -points[entry])
    return [Ranked(1 + sum(p > points[entry] for p in points.values()), entry, points[entry]) for entry in ranking]


def task_score(scores: Scores, entry: str, task: str) -> float | None:
    """An entry's score on a task, None where it has none."""
    return scores[entry].get(task, {}).get("score")


def stand_to(scores: Scores, entry: str, other: str) -> Standing:
    """How an entry stands to another."""
    shared = [task for task in TASKS if task in scores[entry] and task in scores[other]]
    differences = [compare_results(scores[entry][task], scores[other][task]) for task in shared]
    above, below = sum(each > 0 for each in differences), sum(each < 0 for each in differences)
    return Standing(above, below, len(differences) - above - below)


def rivals(scores: Scores, entry: str) -> list[str]:
    """The entries whose sum of scores repeats cannot tell from an entry's, or is higher; none where noise is unknown.

    Sums over other tasks do not compare.
    """
    own, tasks = sum_spread(scores[entry]), scores[entry].keys()
    others = {other: sum_spread(of) for other, of in scores.items() if other != entry and of.keys() == tasks}
    return [
        other
        for other, spread in others.items()
        if own and spread and (spread.mean > own.mean or spread.is_within_noise_of(own))
    ]


def unknown_noise_note(scores: Scores) -> str | None:
    """What to know before results that were not repeated are compared; None where all were, or there is one entry."""
    results = [result for of_entry in scores.values() for result in of_entry.values()]
    if len(scores) < 2 or all(map(task_spread, results)):
        return None
    return "Scored once: how much of a difference is noise is unknown. Repeats tell (probe.repeats, 3 or more)."


def sum_of_scores(scores: Scores, entry: str) -> float:
    """An entry's sum over the tasks that have a score."""
    return sum(score for task in TASKS if (score := task_score(scores, entry, task)) is not None)


def tasks_without_score(scores: Scores) -> list[str]:
    """Tasks on which no entry has a score."""
    return [task for task in TASKS if all(task_score(scores, entry, task) is None for entry in scores)]


def probe_note(probe: ProbeSettings) -> str | None:
    """What to know before scores are compared with others'; None for the challenge's own probe."""
    if probe.is_official:
        return None
    official = ProbeSettings()
    changed = [
        f"{name.replace('_', ' ')} {getattr(probe, name)} instead of {value}"
        for name, value in vars(official).items()
        if not name.startswith("_") and name != "repeats" and getattr(probe, name) != value
    ]
    relation = "is narrower than" if probe.hidden_size < official.hidden_size else "differs from"
    return (
        f"The probe {relation} the challenge's ({', '.join(changed)}): "
        "these scores compare with each other, within this run, and not with published ones."
    )


def noise_note(scores: Scores) -> str | None:
    """What the marks of noise and the spreads mean; None where no entry was scored more than once."""
    repeats = sorted({int(result.get("n_repeats") or 1) for tasks in scores.values() for result in tasks.values()})
    if not repeats or repeats[-1] == 1:
        return None
    return (
        f"over {' or '.join(map(str, repeats))} seeds and row orders, its mean cannot be told from the highest of the "
        f"column: they differ by less than {NOISE:g} standard errors of the difference. A sum's spread takes the tasks "
        "as independent."
    )


def format_score_table(scores: Scores, note: str | None = None) -> str:
    """The score table as aligned plain text, a star after the best of each column, then the note.

    With repeats, a tilde marks what they cannot tell from the highest mean, and a second table shows the spreads.
    """
    rows, noise = build_score_rows(scores), noise_note(scores)
    blank = "  " if noise else " "
    heads = ["entry", *(title + blank for title in score_columns())]
    text = _align_table([heads, *([row.entry, *(_marked(cell, blank) for cell in row.cells)] for row in rows)])
    text += ["", "* best in its column"]
    if noise:
        spreads = [[row.entry, *(cell.spread or MISSING for cell in row.cells[:-1])] for row in rows]
        text += [f"~ {noise}", "", "Mean ± standard deviation:"]
        text += _align_table([["entry", *score_columns()[:-1]], *spreads])
    return "\n".join([*text, *filter(None, [unknown_noise_note(scores), note])]) + "\n"


def _marked(cell: Cell, blank: str) -> str:
    marks = ("*" if cell.is_best else " ") + ("~" if cell.is_in_noise else " ")
    return cell.text + marks[: len(blank)]


def _align_table(lines: list[list[str]]) -> list[str]:
    """Lines of equal widths, the first column to the left, a rule below the heads."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = [_align(line, widths) for line in lines]
    return [text[0], "-" * sum(widths, 2 * (len(widths) - 1)), *text[1:]]


def _align(cells: list[str], widths: list[int]) -> str:
    first, *numbers = [
        cell.rjust(width) if place else cell.ljust(width)
        for place, (cell, width) in enumerate(zip(cells, widths, strict=True))
    ]
    return "  ".join([first, *numbers]).rstrip()


def _borda_points(scores: Scores) -> dict[str, int]:
    plain = {
        entry: {task: score for task in TASKS if (score := task_score(scores, entry, task)) is not None}
        for entry in scores
    }
    return borda(plain)


def _column(
    values: Sequence[float | None], spec: str, spreads: Sequence[Spread | None] | None = None
) -> tuple[Cell, ...]:
    best = max((value for value in values if value is not None), default=None)
    spreads = spreads or [None] * len(values)
    highest = max((spread for spread in spreads if spread), key=lambda spread: spread.mean, default=None)
    is_close = [bool(spread and highest and spread.is_within_noise_of(highest)) for spread in spreads]
    return tuple(
        Cell(MISSING)
        if value is None
        else Cell(
            format(value, spec),
            is_best=value == best,
            spread=f"{spread.mean:.4f} ± {spread.std:.4f}" if spread else None,
            is_in_noise=close and sum(is_close) > 1,
        )
        for value, spread, close in zip(values, spreads, is_close, strict=True)
    )
