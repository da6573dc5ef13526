"""What each block of the profile is worth: the variants that are scored, and the file that holds their scores."""

import itertools
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from pyspark.sql import SparkSession

from conf.pipeline import PipelineConfig
from jobs.blocks.table import Block, collect_blocks, collect_digests
from jobs.evaluation.comparison import Comparisons, compare_entries, figures
from jobs.evaluation.scores import EntryScores
from jobs.profiles.composition import list_own_blocks
from jobs.storage.delta_tables import read_table
from jobs.storage.files import digest, read_json
from jobs.storage.workspace import Workspace
from jobs.transforms.windows import ENTRY_MODE, read_windows
from schemas.tables import LABELS, WINDOWS
from schemas.tasks import TaskScore

log = logging.getLogger(__name__)

Ablation = dict[str, Any]
"""``ablation.json``, see ``AblationFile``."""

RUN_ABLATE = "run `ubp ablate`, which writes it"

ALL, ONLY, WITHOUT = "all", "only", "without"


@dataclass(frozen=True)
class VariantOfFile:
    """One composition that was scored: ``all`` blocks, ``only`` one of them, or all ``without`` one."""

    name: str
    kind: str
    block: str | None
    width: int
    scores: dict[str, TaskScore]


@dataclass(frozen=True)
class AblationFile:
    """What ``ablation.json`` must hold.

    Attributes
    ----------
    made_of : what the scores depend on, by name, see ``describe_sources``
    seconds : that making each block took, see ``read_block_seconds``; of an imported one nothing is known
    """

    blocks: list[str]
    repeats: int
    variants: list[VariantOfFile]
    made_of: dict[str, str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)


def describe_sources(
    spark: SparkSession, config: PipelineConfig, workspace: Workspace, blocks: Sequence[str]
) -> dict[str, str]:
    """Digests of all that an ablation of these blocks depends on, by name: a later run that changes one outdates it.

    The blocks of ``ensemble`` are among them: one that no client has, or that the run has got since, is in no variant,
    and would make another ablation. A block that is missing has an empty digest. Popularities count the train window's
    purchases, so they stand for the labels, whose table is large and whose files are others after each write.
    """
    blocks = list(dict.fromkeys([*list_own_blocks(config, collect_blocks(spark, workspace)), *blocks]))
    found = collect_digests(spark, workspace, blocks, read_windows(spark, workspace).input_end)
    # without the names of its blocks: each block has a digest of its own
    ensemble = {name: value for name, value in asdict(config.ensemble).items() if name != "blocks"}
    windows = read_table(spark, workspace, WINDOWS).collect()
    labels = read_table(spark, workspace, LABELS).orderBy("task", "label").collect()
    return {
        **{f"block {name}": found.get(name, "") for name in blocks},
        "labels": digest([windows, labels]),
        "settings of ensemble and probe": digest([ensemble, config.probe.of_a_score()]),
    }


def list_variants(blocks: Sequence[Block]) -> dict[str, list[Block]]:
    """Name of each variant, such as ``only product_buy`` -> its blocks: each alone, all but each, all.

    Of two blocks or fewer, all but each is another alone and is left out.
    """
    variants = {f"{ONLY} {block.name}": [block] for block in blocks}
    if len(blocks) > 2:
        for block in blocks:
            variants[f"{WITHOUT} {block.name}"] = [other for other in blocks if other is not block]
    return {**variants, ALL: list(blocks)}


def describe(
    variants: Mapping[str, Sequence[Block]], widths: dict[str, int], scores: EntryScores, n_repeats: int
) -> dict[str, Any]:
    """What ``ablation.json`` holds: the blocks, and each variant with its width and scores as in ``scores.json``."""
    described = []
    for name in variants:
        kind, _, block = name.partition(" ")  # no block has a space in its name
        results = {task: figures(result) for task, result in scores[name].items()}
        described.append({"name": name, "kind": kind, "block": block or None, "width": widths[name], "scores": results})
    return {"blocks": [block.name for block in variants[ALL]], "repeats": n_repeats, "variants": described}


def compare_to_whole(ablation: Ablation) -> Comparisons:
    """Each profile without a block against that of all blocks."""
    variants = ablation["variants"]
    without, whole = ([each["name"] for each in variants if each["kind"] == kind] for kind in (WITHOUT, ALL))
    return compare_entries({each["name"]: each["scores"] for each in variants}, itertools.product(without, whole))


def read_ablation(spark: SparkSession, config: PipelineConfig, workspace: Workspace) -> Ablation | None:
    """``ablation.json`` of ``ubp ablate``; None where there is none, or it is another run's, as in mode ``entry``."""
    path = workspace.out / "ablation.json"
    if config.windows.mode == ENTRY_MODE or not path.exists():
        return None
    ablation: Ablation = read_json(path, AblationFile, RUN_ABLATE)
    now = describe_sources(spark, config, workspace, ablation["blocks"])
    made_of = ablation.get("made_of", {})
    if changed := [name for name, digest in now.items() if made_of.get(name) != digest]:
        names = f"{', '.join(changed[:3])}{', ...' if len(changed) > 3 else ''}"
        log.warning("  %s left out: it was made with another %s; run `ubp ablate` again", path.name, names)
        return None
    return ablation
