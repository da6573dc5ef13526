"""The score table: one row per entry, one column per task, their sum and the Borda points."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from conf.evaluation import ProbeSettings
from jobs.evaluation.comparison import (
    SUM,
    Comparisons,
    Scores,
    compare_entries,
    describe_comparisons,
    mean_score,
    sum_spread,
    task_spread,
)
from ml.metrics.challenge import borda
from schemas.tasks import PROPENSITY, TASKS

DETAILS = ("auroc", "novelty", "diversity")
MISSING = "-"


@dataclass(frozen=True)
class Standing:
    """How one entry stands to another on the tasks that both have a score on.

    Attributes
    ----------
    above, below : tasks on which its score is higher, or lower; of repeats, its mean, where they tell the two apart
    level : tasks on which repeats do not tell the two apart, or the scores are equal
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
    is_in_noise : it has the column's highest mean and repeats do not tell another from it, or it is such another
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
    return [*map(task_title, TASKS), SUM, "Borda"]


def build_score_rows(scores: Scores) -> list[ScoreRow]:
    """The score table, best of each column marked (every one of equals), and those that repeats do not tell apart."""
    comparisons = compare_entries(scores)
    columns = [_column_of_scores(scores, column, comparisons) for column in (*TASKS, SUM)]
    columns.append(_column(_borda_points(scores), "d"))
    return [ScoreRow(entry, tuple(column[entry] for column in columns)) for entry in scores]


def build_detail_rows(scores: Scores) -> list[ScoreRow]:
    """AUROC, novelty and diversity of each propensity task, best marked; columns by task, then detail."""
    columns = [
        _column({entry: scores[entry].get(task, {}).get(detail) for entry in scores}, ".4f")
        for task in PROPENSITY
        for detail in DETAILS
    ]
    return [ScoreRow(entry, tuple(column[entry] for column in columns)) for entry in scores]


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
    comparisons, differences = compare_entries(scores), []
    for task in TASKS:
        if task in scores[entry] and task in scores[other]:
            is_level = comparisons.tell_apart(task, entry, other) is False
            differences.append(0.0 if is_level else mean_score(scores[entry][task]) - mean_score(scores[other][task]))
    above, below = sum(each > 0 for each in differences), sum(each < 0 for each in differences)
    return Standing(above, below, len(differences) - above - below)


def rivals(scores: Scores, entry: str) -> list[str]:
    """The entries whose sum repeats do not tell from an entry's, or is higher; none where the noise is unknown."""
    comparisons, own = compare_entries(scores), sum_spread(scores[entry])
    found = []
    for other, of_other in scores.items():
        is_apart, spread = comparisons.tell_apart(SUM, entry, other), sum_spread(of_other)
        if is_apart is False or (is_apart and own and spread and spread.mean > own.mean):
            found.append(other)
    return found


def unknown_noise_note(scores: Scores) -> str | None:
    """What to know before results whose noise is unknown are compared; None where there are none, or one entry."""
    results = [result for of_entry in scores.values() for result in of_entry.values()]
    unknown = [result for result in results if not result.get("repeats")]
    if len(scores) < 2 or not unknown:
        return None
    if any(map(task_spread, unknown)):
        return (
            "How much of a difference is noise is unknown: an earlier version wrote these scores without those of each "
            "repeat. The probe, run again, writes them."
        )
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
    """What the marks of noise mean; None where repeats compare no two entries."""
    comparisons = compare_entries(scores)
    if not len(comparisons):
        return None
    return (
        "the repeats, which differ in seed and row order, do not tell it from the highest mean of the column "
        f"({describe_comparisons(comparisons)})."
    )


def has_spreads(scores: Scores) -> bool:
    """Whether an entry was scored more than once."""
    return any(task_spread(result) for of_entry in scores.values() for result in of_entry.values())


def format_score_table(scores: Scores, note: str | None = None) -> str:
    """The score table as aligned plain text, a star after the best of each column, then the note.

    With repeats, a tilde marks what they do not tell from the highest mean, and a second table shows the spreads.
    """
    rows, noise = build_score_rows(scores), noise_note(scores)
    blank = "  " if noise else " "
    heads = ["entry", *(title + blank for title in score_columns())]
    text = _align_table([heads, *([row.entry, *(_marked(cell, blank) for cell in row.cells)] for row in rows)])
    text += ["", "* best in its column"]
    if noise:
        text.append(f"~ {noise}")
    if has_spreads(scores):
        spreads = [[row.entry, *(cell.spread or MISSING for cell in row.cells[:-1])] for row in rows]
        text += ["", "Mean ± standard deviation:", *_align_table([["entry", *score_columns()[:-1]], *spreads])]
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


def _column_of_scores(scores: Scores, column: str, comparisons: Comparisons) -> dict[str, Cell]:
    """Each entry's cell for a task or the sum."""
    if column == SUM:
        values: dict[str, float | None] = {entry: sum_of_scores(scores, entry) for entry in scores}
        spreads = {entry: sum_spread(scores[entry]) for entry in scores}
    else:
        values = {entry: task_score(scores, entry, column) for entry in scores}
        spreads = {entry: task_spread(scores[entry].get(column, {})) for entry in scores}
    means = {entry: spread.mean for entry, spread in spreads.items() if spread}
    highest = max(means, key=lambda entry: means[entry], default="")
    close = {entry for entry in means if comparisons.tell_apart(column, entry, highest) is False}
    return {
        entry: replace(
            cell,
            spread=f"{spread.mean:.4f} ± {spread.std:.4f}" if (spread := spreads[entry]) else None,
            is_in_noise=entry in close or bool(close and entry == highest),
        )
        for entry, cell in _column(values, ".4f").items()
    }


def _column(values: Mapping[str, float | None], spec: str) -> dict[str, Cell]:
    """Each entry's cell for a number, the highest marked."""
    best = max((value for value in values.values() if value is not None), default=None)
    return {
        entry: Cell(MISSING) if value is None else Cell(format(value, spec), is_best=value == best)
        for entry, value in values.items()
    }
