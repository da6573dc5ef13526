"""ablate: what each block of the profile is worth, on the six tasks.

Composes each block alone, all but each, and all, scores them as the probe scores entries, and writes
``ablation.json``. The composed profiles and their entries are removed when they are scored.
"""

import json
import logging
import shutil
from collections.abc import Sequence
from typing import Any

from pyspark.sql import SparkSession

from conf.pipeline import PipelineConfig
from jobs.blocks.imported import import_blocks
from jobs.evaluation.ablation import ALL, WITHOUT, describe, describe_sources, list_variants
from jobs.evaluation.comparison import Result, compare_results, task_spread
from jobs.evaluation.scores import score_entries
from jobs.profiles.composition import collect_profile_blocks, compose_profiles
from jobs.profiles.export import export_profiles
from jobs.storage.delta_tables import read_table
from jobs.storage.locations import spark_url
from jobs.storage.workspace import Workspace
from jobs.transforms.windows import collect_windows
from ml.files.atomic import replace_text
from schemas.columns import PROFILE
from schemas.tables import CLIENTS, PROFILES, WINDOWS
from schemas.tasks import TASKS

log = logging.getLogger(__name__)


def run(
    spark: SparkSession, config: PipelineConfig, workspace: Workspace, wanted: Sequence[str] = TASKS
) -> dict[str, Any]:
    """Write ``ablation.json``, the scores of each variant on the wanted tasks, and return its content, ``describe``."""
    cutoff = collect_windows(read_table(spark, workspace, WINDOWS)).input_end
    clients = read_table(spark, workspace, CLIENTS)
    import_blocks(config.ensemble, clients, cutoff, workspace)
    blocks = collect_profile_blocks(spark, config, workspace).all
    variants = list_variants(blocks)
    sources = describe_sources(spark, config, workspace, [block.name for block in blocks])
    folder = workspace.out / ".ablation"
    entries = {variant.name: folder / variant.name for variant in variants}
    composed = spark_url(folder / ".profiles")
    try:
        parts = {variant.name: variant.parts for variant in variants}
        rows = compose_profiles(spark, workspace, parts, cutoff, config.ensemble)
        rows.write.mode("overwrite").partitionBy(PROFILE).parquet(composed)
        profiles = spark.read.schema(PROFILES.ddl).parquet(composed)
        widths = export_profiles(profiles, entries, clients.count())
        scores = score_entries(spark, config, workspace, list(entries.values()), wanted)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    found = describe(variants, widths, scores, config.probe.repeats) | {"made_of": sources}
    replace_text(workspace.out / "ablation.json", json.dumps(found, indent=2) + "\n")
    return found


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
