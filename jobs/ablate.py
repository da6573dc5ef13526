"""ablate: what each block of the profile is worth, on the six tasks.

Composes each block alone, all but each, and all, scores them as the probe scores entries, and writes
``ablation.json``. The composed entries are removed when they are scored.
"""

import json
import logging
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pyspark.sql import SparkSession

from conf.settings import PipelineConfig
from jobs.blocks import StoredBlock, open_blocks, write_profiles
from jobs.evaluate_probe import Scores, figures, score_entries
from jobs.io import read_table
from jobs.json_files import digest
from jobs.probe_units import digest_entry
from jobs.reporting.tables import Result, compare_results, task_spread
from jobs.transforms.moments import collect_moments
from jobs.workspace import Workspace
from ml.folders import replace_text
from schemas.errors import EntryError
from schemas.tables import LABELS, WINDOWS
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
    sources = describe_sources(spark, config, workspace, [block.name for block in blocks])
    folder = workspace.out / ".ablation"
    try:
        widths = {
            variant.name: write_profiles(variant.parts, moments, folder / variant.name, config.ensemble)
            for variant in variants
        }
        scores = score_entries(spark, config, workspace, [folder / variant.name for variant in variants], wanted)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    found = describe(variants, widths, scores, config.probe.repeats) | {"made_of": sources}
    replace_text(workspace.out / "ablation.json", json.dumps(found, indent=2) + "\n")
    return found


def embedded_behaviours(config: PipelineConfig, workspace: Workspace) -> list[str]:
    """The behaviours that have an entry, in the configuration's order; EntryError if none has."""
    found = [name for name in config.behaviours if workspace.entry(name).is_dir()]
    if not found:
        raise EntryError(f"expected entries of behaviours in {workspace.entry('')}, found none; run embed first")
    return found


def describe_sources(
    spark: SparkSession, config: PipelineConfig, workspace: Workspace, blocks: Sequence[str]
) -> dict[str, str]:
    """Digests of all that an ablation of these blocks depends on, by name: a later run that changes one outdates it.

    An entry that is missing has an empty digest. Popularities count the train window's purchases, so they stand for
    the labels, whose table is large and whose files are others after each write.
    """
    entries = {f"entry {name}": workspace.entry(name) for name in blocks}
    settings = [
        {name: value for name, value in asdict(of).items() if name not in ("blocks", "repeats")}
        for of in (config.ensemble, config.probe)
    ]
    labels = read_table(spark, workspace, LABELS).orderBy("task", "label").collect()
    windows = read_table(spark, workspace, WINDOWS).collect()
    return {
        **{name: digest_entry(folder) if folder.is_dir() else "" for name, folder in entries.items()},
        "labels": digest([windows, labels]),
        "settings of ensemble and probe": digest(settings),
    }


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
        lines.append(_line(name, [f"{_mean(scores[task]):.4f}" for task in whole]))
        if name.startswith(WITHOUT):
            lines.append(_line("", [_change(scores[task], whole[task]) for task in whole]))
    is_repeated = found["repeats"] > 1
    of_repeats = f", means of {found['repeats']} repeats" if is_repeated else ""
    noise = "~ marks what may be noise" if is_repeated else "scored once: how much of it is noise is unknown"
    about = f"Scores{of_repeats}; below each score without a block, the difference to all blocks ({noise})."
    return "\n".join([*lines, about]) + "\n"


def _change(less: Result, whole: Result) -> str:
    is_noise = task_spread(less) is not None and compare_results(less, whole) == 0
    return f"{_mean(less) - _mean(whole):+.4f}{'~' if is_noise else ''}"


def _line(name: str, cells: Sequence[str]) -> str:
    return f"{name:<28}" + "".join(f"{cell:>12}" for cell in cells)


def _mean(result: Result) -> float:
    return result.get("mean", result["score"]) or 0.0
