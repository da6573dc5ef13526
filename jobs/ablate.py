"""ablate: what each block of the profile is worth, on the six tasks.

Composes each block alone, all but each, and all, scores them as the probe scores entries, and writes
``ablation.json``. The composed entries are removed when they are scored.
"""

import json
import logging
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pyspark.sql import SparkSession

from conf.settings import PipelineConfig
from jobs.blocks import StoredBlock, open_blocks, write_profiles
from jobs.evaluate_probe import Scores, figures, score_entries
from jobs.transforms.moments import collect_moments
from jobs.workspace import Workspace
from ml.folders import replace_text
from schemas.errors import EntryError
from schemas.tasks import TASKS

log = logging.getLogger(__name__)

ALL, ONLY, WITHOUT = "all", "only", "without"


@dataclass(frozen=True)
class Variant:
    """One composition to score.

    Attributes
    ----------
    kind : ``all``, ``only`` or ``without``
    block : the one that is alone or left out; None for all
    parts : the blocks that are composed
    """

    kind: str
    block: str | None
    parts: tuple[StoredBlock, ...]

    @property
    def name(self) -> str:
        """``all``, ``only product_buy`` or ``without product_buy``."""
        return self.kind if self.block is None else f"{self.kind} {self.block}"


def run(
    spark: SparkSession, config: PipelineConfig, workspace: Workspace, wanted: Sequence[str] = TASKS
) -> dict[str, Any]:
    """Write ``ablation.json``, the scores of each variant on the wanted tasks, and return its content, ``describe``."""
    blocks = open_blocks(workspace, embedded_behaviours(config, workspace), config.ensemble)
    variants = list_variants(blocks)
    moments = collect_moments(spark.sparkContext, blocks)
    folder = workspace.out / ".ablation"
    try:
        widths = {
            variant.name: write_profiles(variant.parts, moments, folder / variant.name, config.ensemble)
            for variant in variants
        }
        scores = score_entries(spark, config, workspace, [folder / variant.name for variant in variants], wanted)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    found = describe(variants, widths, scores, config.probe.repeats)
    replace_text(workspace.out / "ablation.json", json.dumps(found, indent=2) + "\n")
    return found


def embedded_behaviours(config: PipelineConfig, workspace: Workspace) -> list[str]:
    """The behaviours that have an entry, in the configuration's order; EntryError if none has."""
    found = [name for name in config.behaviours if workspace.entry(name).is_dir()]
    if not found:
        raise EntryError(f"expected entries of behaviours in {workspace.entry('')}, found none; run embed first")
    return found


def list_variants(blocks: Sequence[StoredBlock]) -> list[Variant]:
    """Each block alone, all but each, all; of two blocks or fewer, all but each is another alone and is left out."""
    only = [Variant(ONLY, block.name, (block,)) for block in blocks]
    without = [Variant(WITHOUT, block.name, tuple(other for other in blocks if other is not block)) for block in blocks]
    return [*only, *(without if len(blocks) > 2 else []), Variant(ALL, None, tuple(blocks))]


def describe(variants: Sequence[Variant], widths: dict[str, int], scores: Scores, n_repeats: int) -> dict[str, Any]:
    """What ``ablation.json`` holds: the blocks, and each variant with its width and scores as in ``scores.json``."""
    return {
        "blocks": [block.name for block in variants[-1].parts],
        "repeats": n_repeats,
        "variants": [
            {
                "name": variant.name,
                "kind": variant.kind,
                "block": variant.block,
                "width": widths[variant.name],
                "scores": {task: figures(result) for task, result in scores[variant.name].items()},
            }
            for variant in variants
        ],
    }


def format_ablation(found: dict[str, Any]) -> str:
    """The table of ``ablation.json`` for a terminal: scores of the blocks alone and of all, and what each adds."""
    variants = {variant["name"]: variant["scores"] for variant in found["variants"]}
    whole = variants.pop(ALL)
    lines = [_line("", [task.removeprefix("propensity_") for task in whole])]
    for name, scores in [*variants.items(), (ALL, whole)]:
        values = [_mean(scores[task]) for task in whole]
        lines.append(_line(name, [f"{value:.4f}" for value in values]))
        if name.startswith(WITHOUT):
            changes = [value - _mean(whole[task]) for value, task in zip(values, whole, strict=True)]
            lines.append(_line("", [f"{change:+.4f}" for change in changes]))
    of_repeats = f", means of {found['repeats']} repeats" if found["repeats"] > 1 else ""
    about = f"Scores{of_repeats}; below each score without a block, the difference to all blocks."
    return "\n".join([*lines, about]) + "\n"


def _line(name: str, cells: Sequence[str]) -> str:
    return f"{name:<28}" + "".join(f"{cell:>12}" for cell in cells)


def _mean(result: dict[str, float]) -> float:
    return result.get("mean", result["score"])
