"""The ablation table: what each block of the profile is worth, alone and to all of them together."""

from dataclasses import dataclass
from typing import Any

from jobs.evaluation.ablation import ALL, ONLY, WITHOUT, Ablation
from jobs.evaluation.comparison import Result, Scores, Spread, sum_spread, task_spread
from jobs.reporting.tables import MISSING, ScoreRow, build_score_rows
from schemas.tasks import TASKS


@dataclass(frozen=True)
class Change:
    """How a score changes when a block is left out.

    Attributes
    ----------
    text : signed, of repeats between the means; ``MISSING`` where a side has no score
    helps : the block raises the score, None where there is no change to tell of
    is_in_noise : repeats cannot tell the change from none
    """

    text: str
    helps: bool | None = None
    is_in_noise: bool = False


@dataclass(frozen=True)
class ChangeRow:
    """One block left out: a change per task, then that of their sum."""

    block: str
    changes: tuple[Change, ...]


def rows_alone(ablation: Ablation) -> list[ScoreRow]:
    """The scores of each block alone, then of all blocks, as in the score table; its Borda points are left out."""
    variants = [variant for kind in (ONLY, ALL) for variant in _of_kind(ablation, kind)]
    scores: Scores = {variant["block"] or "all blocks": variant["scores"] for variant in variants}
    return [ScoreRow(row.entry, row.cells[:-1]) for row in build_score_rows(scores)]


def rows_without(ablation: Ablation) -> list[ChangeRow]:
    """The change of each score when one block is left out; empty where the whole profile was not scored."""
    whole = next(iter(_of_kind(ablation, ALL)), None)
    if whole is None:
        return []
    return [_change_row(variant, whole) for variant in _of_kind(ablation, WITHOUT)]


def _of_kind(ablation: Ablation, kind: str) -> list[dict[str, Any]]:
    return [variant for variant in ablation["variants"] if variant["kind"] == kind]


def _change_row(variant: dict[str, Any], whole: dict[str, Any]) -> ChangeRow:
    shared = [task for task in TASKS if task in variant["scores"] and task in whole["scores"]]
    less, full = ({task: of["scores"][task] for task in shared} for of in (variant, whole))
    changes = [_change(less[task], full[task]) if task in shared else Change(MISSING) for task in TASKS]
    by_score = sum(less[task]["score"] - full[task]["score"] for task in shared)
    return ChangeRow(variant["block"], (*changes, _signed(sum_spread(less), sum_spread(full), by_score)))


def _change(less: Result, whole: Result) -> Change:
    return _signed(task_spread(less), task_spread(whole), (less["score"] or 0.0) - (whole["score"] or 0.0))


def _signed(less: Spread | None, whole: Spread | None, by_score: float) -> Change:
    """How much a score changes, of repeats the mean, and whether that is within their noise."""
    shown = round(less.mean - whole.mean if less and whole else by_score, 4) + 0.0  # no negative zero
    text = f"{shown:+.4f}".replace("-", "\N{MINUS SIGN}")
    is_in_noise = bool(less and whole and less.is_within_noise_of(whole))
    return Change(text, shown < 0 if shown else None, is_in_noise)
