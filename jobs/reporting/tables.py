"""The score table: one row per entry, one column per task, their sum and the Borda points."""

from dataclasses import dataclass

from conf.settings import ProbeSettings
from ml.metrics import borda
from schemas.tasks import PROPENSITY, TASKS

Scores = dict[str, dict[str, dict[str, float | None]]]
"""``scores.json``: entry -> task -> score, auroc, novelty, diversity; a task without an AUROC is absent."""

DETAILS = ("auroc", "novelty", "diversity")
MISSING = "-"


@dataclass(frozen=True)
class Cell:
    """One number of the table, as it is shown."""

    text: str
    is_best: bool = False


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
    """The score table, best of each column marked (every one of equals)."""
    points = _borda_points(scores)
    columns = [_column([task_score(scores, entry, task) for entry in scores], ".4f") for task in TASKS]
    columns.append(_column([sum_of_scores(scores, entry) for entry in scores], ".4f"))
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
        if not name.startswith("_") and getattr(probe, name) != value
    ]
    relation = "is narrower than" if probe.hidden_size < official.hidden_size else "differs from"
    return (
        f"The probe {relation} the challenge's ({', '.join(changed)}): "
        "these scores compare with each other, within this run, and not with published ones."
    )


def format_score_table(scores: Scores, note: str | None = None) -> str:
    """The score table as aligned plain text, a star after the best of each column, then the note."""
    lines = [["entry", *(f"{title} " for title in score_columns())]]
    for row in build_score_rows(scores):
        lines.append([row.entry, *(f"{cell.text}{'*' if cell.is_best else ' '}" for cell in row.cells)])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = [_align(line, widths) for line in lines]
    text.insert(1, "-" * sum(widths, 2 * (len(widths) - 1)))
    text += ["", "* best in its column"]
    return "\n".join([*text, *([note] if note else [])]) + "\n"


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


def _column(values: list[float | None], spec: str) -> tuple[Cell, ...]:
    best = max((value for value in values if value is not None), default=None)
    return tuple(
        Cell(MISSING) if value is None else Cell(format(value, spec), is_best=value == best) for value in values
    )
