"""The ablation table: what each block of the profile is worth, alone and to all of them together."""

from dataclasses import dataclass
from typing import Any

from jobs.evaluation.ablation import ALL, ONLY, WITHOUT, Ablation, compare_to_whole
from jobs.evaluation.comparison import SUM, Comparisons, Scores, describe_comparisons, mean_score
from jobs.reporting.tables import MISSING, Rows, build_score_rows
from schemas.tasks import TASKS


@dataclass(frozen=True)
class Change:
    """How a score changes when a block is left out.

    Attributes
    ----------
    text : signed, of repeats between the means; ``MISSING`` where a side has no score
    helps : the block raises the score, None where there is no change to tell of
    is_in_noise : repeats do not tell the change from none
    """

    text: str
    helps: bool | None = None
    is_in_noise: bool = False


def rows_alone(ablation: Ablation) -> Rows:
    """The scores of each block alone, then of all blocks, as in the score table; its Borda points are left out."""
    return {name: cells[:-1] for name, cells in build_score_rows(scores_alone(ablation)).items()}


def scores_alone(ablation: Ablation) -> Scores:
    """The scores of each block alone, then of all blocks."""
    variants = [variant for kind in (ONLY, ALL) for variant in _of_kind(ablation, kind)]
    return {variant["block"] or "all blocks": variant["scores"] for variant in variants}


def rows_without(ablation: Ablation) -> dict[str, list[Change]]:
    """Block -> what leaving it out changes: each task, then their sum; empty where the whole profile was not scored."""
    whole = next(iter(_of_kind(ablation, ALL)), None)
    if whole is None:
        return {}
    comparisons = compare_to_whole(ablation)
    return {variant["block"]: _changes(variant, whole, comparisons) for variant in _of_kind(ablation, WITHOUT)}


def noise_of_changes(ablation: Ablation) -> str:
    """Which of the changes of ``rows_without`` may be noise."""
    comparisons = compare_to_whole(ablation)
    if not len(comparisons):
        return "How much of a change is noise is unknown: it takes probe.repeats, 3 or more."
    return f"Grey: repeats do not tell it from no change ({describe_comparisons(comparisons)})."


def _of_kind(ablation: Ablation, kind: str) -> list[dict[str, Any]]:
    return [variant for variant in ablation["variants"] if variant["kind"] == kind]


def _changes(variant: dict[str, Any], whole: dict[str, Any], comparisons: Comparisons) -> list[Change]:
    less, full = variant["scores"], whole["scores"]
    by_column = {task: mean_score(less[task]) - mean_score(full[task]) for task in less if task in full}
    by_column[SUM] = sum(by_column.values())
    changes = []
    for column in (*TASKS, SUM):
        if column not in by_column:
            changes.append(Change(MISSING))
            continue
        shown = round(by_column[column], 4) + 0.0  # no negative zero
        text = f"{shown:+.4f}".replace("-", "\N{MINUS SIGN}")
        is_in_noise = comparisons.tell_apart(column, variant["name"], whole["name"]) is False
        changes.append(Change(text, shown < 0 if shown else None, is_in_noise))
    return changes
