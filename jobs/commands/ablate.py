"""ablate: what each block of the profile is worth, on the six tasks.

Composes each block alone, all but each, and all, scores them as the probe scores entries, and writes
``ablation.json``. The composed profiles and their entries are removed when they are scored.
"""

import logging
from collections.abc import Sequence
from typing import Any

from pyspark.sql import SparkSession

from conf.pipeline import PipelineConfig
from jobs.blocks.imported import import_blocks
from jobs.evaluation.ablation import ALL, ONLY, WITHOUT, compare_to_whole, describe, describe_sources, list_variants
from jobs.evaluation.comparison import SUM, describe_comparisons, mean_score
from jobs.evaluation.scores import score_entries
from jobs.profiles.composition import collect_profile_blocks, compose_profiles
from jobs.profiles.export import export_profiles
from jobs.storage.delta_tables import read_table
from jobs.storage.files import write_json
from jobs.storage.metrics_log import read_block_seconds
from jobs.storage.workspace import Workspace
from jobs.transforms.windows import read_windows
from schemas.columns import PROFILE
from schemas.tables import CLIENTS, PROFILES

log = logging.getLogger(__name__)


def run(spark: SparkSession, config: PipelineConfig, workspace: Workspace) -> dict[str, Any]:
    """Write ``ablation.json``, the scores of each variant, and return its content, ``describe``."""
    cutoff = read_windows(spark, workspace).input_end
    clients = read_table(spark, workspace, CLIENTS)
    import_blocks(config.ensemble, clients, cutoff, workspace)
    own, further = collect_profile_blocks(spark, config, workspace, cutoff)
    blocks = own + further
    variants = list_variants(blocks)
    made_in = read_block_seconds(workspace.metrics)
    sources = describe_sources(spark, config, workspace, [block.name for block in blocks])
    folder = workspace.out / "ablation"
    entries = {name: folder / name for name in variants}
    try:
        with workspace.spark_folder(".ablation-profiles") as composed:
            rows = compose_profiles(spark, workspace, variants, cutoff, config.ensemble)
            # as the table is partitioned: an export reads the files of one profile
            rows.write.mode("overwrite").partitionBy(PROFILE).parquet(composed)
            profiles = spark.read.schema(PROFILES.ddl).parquet(composed)
            widths = export_profiles(profiles, entries, clients.count())
        # before they are scored: executors on other hosts fetch entries from the store
        workspace.push(folder.name)
        scores = score_entries(spark, config, workspace, list(entries.values()))
    finally:
        workspace.remove(folder)
    # what an imported entry took to make is not known: its line is of the time to read it
    imported = {name for name, entry in config.ensemble.named_blocks.items() if entry}
    seconds = {block.name: round(made_in[block.name], 1) for block in blocks if block.name in made_in.keys() - imported}
    found = describe(variants, widths, scores, config.probe.repeats) | {"made_of": sources, "seconds": seconds}
    write_json(workspace.out / "ablation.json", found, indent=2)
    return found


def format_ablation(found: dict[str, Any]) -> str:
    """The table of ``ablation.json`` for a terminal: scores of the blocks alone and of all, and what each adds."""
    comparisons = compare_to_whole(found)
    levels = {
        variant["name"]: {task: mean_score(result) for task, result in variant["scores"].items()}
        for variant in found["variants"]
    }
    for of_tasks in levels.values():
        of_tasks[SUM] = sum(of_tasks.values())
    whole = levels.pop(ALL)
    width = max(map(len, levels))

    def line(name: str, cells: Sequence[str]) -> str:
        return f"{name:<{width}}" + "".join(f"{cell:>12}" for cell in cells)

    lines = [line("", [*(column.removeprefix("propensity_") for column in whole), "seconds"])]
    for name, level in [*levels.items(), (ALL, whole)]:
        seconds = found["seconds"].get(name.removeprefix(f"{ONLY} "))
        cost = [] if seconds is None else [f"{seconds:,.1f}"]
        lines.append(line(name, [f"{level[column]:.4f}" for column in whole] + cost))
        if name.startswith(WITHOUT):
            marks = {column: "~" if comparisons.tell_apart(column, name, ALL) is False else "" for column in whole}
            lines.append(line("", [f"{level[column] - whole[column]:+.4f}{marks[column]}" for column in whole]))
    of_repeats = f", means of {found['repeats']} repeats" if found["repeats"] > 1 else ""
    noise = "how much of it is noise is unknown: it takes --repeats, 3 or more"
    if len(comparisons):
        noise = f"~ where repeats do not tell it from none: {describe_comparisons(comparisons)}"
    about = (
        f"Scores{of_repeats}; below each score without a block, the difference to all blocks ({noise}). Seconds: of "
        "making the block, an encoder's training included."
    )
    return "\n".join([*lines, about]) + "\n"
