"""The score table: one row per entry, one column per task, their sum and the Borda points."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

from conf.evaluation import ProbeSettings
from jobs.evaluation.comparison import (
    SUM,
    Comparisons,
    Scores,
    compare_entries,
    describe_comparisons,
    mean_score,
    result_of,
)
from ml.metrics.challenge import borda
from schemas.blocks import BASELINE, ORACLE
from schemas.tasks import PROPENSITY, TASKS

DETAILS = ("auroc", "novelty", "diversity")
MISSING = "-"


class Standing(NamedTuple):
    """On how many tasks an entry's score is above another's, below it, and level with it.

    Level are equal scores and those that repeats do not tell apart. Of repeats, the means are compared.
    """

    above: int = 0
    below: int = 0
    level: int = 0


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


Rows = dict[str, tuple[Cell, ...]]
"""Entry -> a cell for each column of a table."""


@dataclass(frozen=True)
class Ranked:
    """One entry's place, from 1, by Borda points; entries with equal points share it."""

    place: int
    entry: str
    points: int


def task_title(task: str) -> str:
    """A task's name in a table's head: ``propensity_sku`` -> ``sku``."""
    return task.removeprefix("propensity_")


def score_columns() -> list[str]:
    """Heads of the score table's columns, after the entry's."""
    return [*map(task_title, TASKS), SUM, "Borda"]


def judged(scores: Scores) -> Scores:
    """The scores without those of ``oracle``, which shows how far profiles could come and is no rival of theirs."""
    # alone it is judged as any other: a table needs a row
    return {entry: of_entry for entry, of_entry in scores.items() if entry != ORACLE} or scores


def build_score_rows(scores: Scores) -> Rows:
    """The score table, best of each column marked (every one of equals), and those that repeats do not tell apart.

    ``oracle`` stands in it without marks and points.
    """
    others = judged(scores)
    comparisons = compare_entries(others)
    columns = [_score_cells(others, column, comparisons) for column in (*TASKS, SUM)]
    columns.append(_mark_best(_borda_points(others), "d"))
    rows = {entry: tuple(column[entry] for column in columns) for entry in others}
    for entry, of_entry in scores.items():
        if entry not in rows:
            # as the only entry of a table it would be the best of each column
            alone = [_score_cells({entry: of_entry}, column, Comparisons({}))[entry] for column in (*TASKS, SUM)]
            rows[entry] = (*(replace(cell, is_best=False) for cell in alone), Cell(MISSING))
    return rows


def build_way_rows(scores: Scores) -> Rows:
    """Each entry's share of the way from ``baseline`` to ``oracle``, by task and in the sum, the largest marked.

    Nothing where one of the two has no score, and no number where the oracle is not above the baseline.
    """
    if not {BASELINE, ORACLE} <= scores.keys():
        return {}
    entries, columns = [entry for entry in scores if entry not in (BASELINE, ORACLE)], []
    for column in (*TASKS, SUM):
        levels = {entry: mean_score(result) for entry, of in scores.items() if (result := result_of(of, column))}
        start, end = levels.get(BASELINE, 0.0), levels.get(ORACLE, 0.0)
        way = {entry: (level - start) / (end - start) for entry, level in levels.items()} if end > start else {}
        columns.append(_mark_best({entry: way.get(entry) for entry in entries}, ".0%"))
    return {entry: tuple(column[entry] for column in columns) for entry in entries}


def build_detail_rows(scores: Scores) -> Rows:
    """AUROC, novelty and diversity of each propensity task; columns by task, then detail.

    The best is marked, but for ``oracle``.
    """
    columns = [
        _mark_best({entry: scores[entry].get(task, {}).get(detail) for entry in scores}, ".4f", judged(scores))
        for task in PROPENSITY
        for detail in DETAILS
    ]
    return {entry: tuple(column[entry] for column in columns) for entry in scores}


def rank_entries(scores: Scores) -> list[Ranked]:
    """Entries by falling Borda points, then in the order of ``scores``."""
    points = _borda_points(scores)
    ranking = sorted(scores, key=lambda entry: -points[entry])
    return [Ranked(1 + sum(p > points[entry] for p in points.values()), entry, points[entry]) for entry in ranking]


def stand_to(scores: Scores, entry: str, other: str) -> Standing:
    """How an entry stands to another on the tasks that both have a score on."""
    # all entries are compared, so that Holm's correction is that of the table
    comparisons, above, below, level = compare_entries(scores), 0, 0, 0
    for task in scores[entry].keys() & scores[other].keys():
        own, others = mean_score(scores[entry][task]), mean_score(scores[other][task])
        if own == others or comparisons.tell_apart(task, entry, other) is False:
            level += 1
        elif own > others:
            above += 1
        else:
            below += 1
    return Standing(above, below, level)


def rivals(scores: Scores, entry: str) -> list[str]:
    """The entries whose sum repeats do not tell from an entry's, or is higher; none where the noise is unknown."""
    comparisons = compare_entries(scores)
    sums = {name: mean_score(result_of(of_entry, SUM)) for name, of_entry in scores.items()}
    found = []
    for other in scores:
        is_apart = comparisons.tell_apart(SUM, entry, other)
        if is_apart is False or (is_apart and sums[other] > sums[entry]):
            found.append(other)
    return found


def unknown_noise_note(scores: Scores) -> str | None:
    """What to know before results whose noise is unknown are compared; None where there are none, or one entry."""
    results = [result for of_entry in scores.values() for result in of_entry.values()]
    unknown = [result for result in results if not result.get("repeats")]
    if len(scores) < 2 or not unknown:
        return None
    if any("std" in result for result in unknown):
        return (
            "How much of a difference is noise is unknown: an earlier version wrote these scores without those of each "
            "repeat. The probe, run again, writes them."
        )
    return "Scored once: how much of a difference is noise is unknown. Repeats tell (probe.repeats, 3 or more)."


def tasks_without_score(scores: Scores) -> list[str]:
    """Tasks on which no entry has a score."""
    return [task for task in TASKS if all(task not in of_entry for of_entry in scores.values())]


def probe_note(probe: ProbeSettings) -> str | None:
    """What to know before scores are compared with others'; None for the challenge's own probe."""
    official = ProbeSettings()
    changed = [
        f"{name.replace('_', ' ')} {value} instead of {getattr(official, name)}"
        for name, value in probe.of_a_score().items()
        if getattr(official, name) != value
    ]
    if not changed:
        return None
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
    return any("std" in result for of_entry in scores.values() for result in of_entry.values())


def format_score_table(scores: Scores, note: str | None = None) -> str:
    """The score table as aligned plain text, a star after the best of each column, then the note.

    With repeats, a tilde marks what they do not tell from the highest mean, and a second table shows the spreads.
    """
    rows, noise, way = build_score_rows(scores), noise_note(judged(scores)), build_way_rows(scores)
    # room for the marks: the star, and with repeats the tilde
    blank = "  " if noise else " "
    heads = ["entry", *(title + blank for title in score_columns())]
    text = _align_table([heads, *([entry, *(_marked(cell, blank) for cell in cells)] for entry, cells in rows.items())])
    text += ["", "* best in its column"]
    if noise:
        text.append(f"~ {noise}")
    if has_spreads(scores):
        spreads = [[entry, *(cell.spread or MISSING for cell in cells[:-1])] for entry, cells in rows.items()]
        text += ["", "Mean ± standard deviation:", *_align_table([["entry", *score_columns()[:-1]], *spreads])]
    if way:
        shares = [[entry, *(_marked(cell, " ") for cell in cells)] for entry, cells in way.items()]
        heads = ["entry", *(title + " " for title in score_columns()[:-1])]
        text += ["", f"Share of the way from {BASELINE} to {ORACLE}:", *_align_table([heads, *shares])]
    return "\n".join([*text, *filter(None, [unknown_noise_note(scores), note])]) + "\n"


def _marked(cell: Cell, blank: str) -> str:
    marks = ("*" if cell.is_best else " ") + ("~" if cell.is_in_noise else " ")
    return cell.text + marks[: len(blank)]


def _align_table(lines: list[list[str]]) -> list[str]:
    """Lines of equal widths, the first column to the left, a rule below the heads."""
    first, *others = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = []
    for name, *cells in lines:
        aligned = [cell.rjust(width) for cell, width in zip(cells, others, strict=True)]
        text.append("  ".join([name.ljust(first), *aligned]).rstrip())
    return [text[0], "-" * (first + sum(2 + width for width in others)), *text[1:]]


def _borda_points(scores: Scores) -> dict[str, int]:
    # of the first repeat alone, which is the organisers' run
    return borda({entry: {task: result["score"] for task, result in own.items()} for entry, own in scores.items()})


def _score_cells(scores: Scores, column: str, comparisons: Comparisons) -> dict[str, Cell]:
    """Each entry's cell for a task or the sum."""
    results = {entry: result_of(of_entry, column) for entry, of_entry in scores.items()}
    cells = _mark_best({entry: result.get("score") for entry, result in results.items()}, ".4f")
    means = {entry: result["mean"] for entry, result in results.items() if "std" in result}
    highest = max(means, key=lambda entry: means[entry], default="")
    close = {entry for entry in means if comparisons.tell_apart(column, entry, highest) is False}
    # no entry is compared with itself: the highest is marked where another is
    if close:
        close.add(highest)
    for entry, mean in means.items():
        spread = f"{mean:.4f} ± {results[entry]['std']:.4f}"
        cells[entry] = replace(cells[entry], spread=spread, is_in_noise=entry in close)
    return cells


def _mark_best(values: Mapping[str, float | None], spec: str, rivals: Collection[str] | None = None) -> dict[str, Cell]:
    """Each entry's cell for a number, the highest marked, as they are shown: sums of equal scores may round apart.

    Parameters
    ----------
    rivals : entries that may be marked; None for all
    """
    rivals = values if rivals is None else rivals
    best = max((value for entry in rivals if (value := values[entry]) is not None), default=None)
    shown = {entry: MISSING if value is None else format(value, spec) for entry, value in values.items()}
    highest = None if best is None else format(best, spec)
    return {entry: Cell(text, is_best=text == highest and entry in rivals) for entry, text in shown.items()}
