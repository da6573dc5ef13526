"""The ablation table: what each block of the profile is worth, alone and to all of them together."""

from dataclasses import dataclass
from typing import Any

from jobs.reporting.tables import MISSING, ScoreRow, Scores, build_score_rows, task_spread
from schemas.tasks import TASKS

Ablation = dict[str, Any]
"""``ablation.json``: ``blocks``, ``repeats`` and ``variants``, each with name, kind, block, width and scores."""

ALL, ONLY, WITHOUT = "all", "only", "without"


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
    pairs = [(variant["scores"].get(task), whole["scores"].get(task)) for task in TASKS]
    changes = [_change(less, all_of_it) if less and all_of_it else None for less, all_of_it in pairs]
    total = sum(amount for amount, _ in filter(None, changes))
    shown = [_signed(*change) if change else Change(MISSING) for change in changes]
    return ChangeRow(variant["block"], (*shown, _signed(total, is_in_noise=False)))


def _change(less: dict[str, Any], whole: dict[str, Any]) -> tuple[float, bool]:
    """How much the score changes, of repeats the mean, and whether that is within their noise."""
    spread, spread_of_whole = task_spread(less), task_spread(whole)
    if spread is None or spread_of_whole is None:
        return less["score"] - whole["score"], False
    return spread.mean - spread_of_whole.mean, spread.is_within_noise_of(spread_of_whole)


def _signed(change: float, is_in_noise: bool) -> Change:
    shown = round(change, 4) + 0.0  # no negative zero
    text = f"{shown:+.4f}".replace("-", "\N{MINUS SIGN}")
    return Change(text, shown < 0 if shown else None, is_in_noise)
