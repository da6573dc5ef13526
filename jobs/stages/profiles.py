"""profile: profiles composed of blocks, and the entries.

Reads ``blocks``, ``block_columns``, ``windows``, ``clients`` and the entries that ``ensemble.blocks`` names by their
folders, which become blocks; writes ``profiles`` and, in ``entries``, one folder per profile and per block.

The file is not ``profile.py``: beside a script that spark-submit runs, that would hide the standard library's module of
the name, which pyspark imports.
"""

import logging

from pyspark.sql import SparkSession

from conf.pipeline import PipelineConfig
from jobs.blocks.imported import import_blocks
from jobs.blocks.table import collect_blocks
from jobs.profiles.composition import collect_profile_blocks, compose_profiles, read_own_ids
from jobs.profiles.export import FEATURE_NAMES, export_blocks, export_profiles
from jobs.storage.delta_tables import exists, read_as_files, read_table, read_version, write_table
from jobs.storage.metrics_log import append_metrics
from jobs.storage.workspace import Workspace
from jobs.transforms.windows import read_windows
from schemas.blocks import BASELINE, ENSEMBLE, ON_REQUEST
from schemas.columns import PROFILE
from schemas.tables import BLOCKS, CLIENTS, PROFILES

log = logging.getLogger(__name__)


def run(spark: SparkSession, config: PipelineConfig, workspace: Workspace) -> None:
    """Write the table of profiles: ``ensemble`` and, with further blocks, ``ensemble+NAME``; then the entries."""
    cutoff = read_windows(spark, workspace).input_end
    clients = read_table(spark, workspace, CLIENTS)
    import_blocks(config.ensemble, clients, cutoff, workspace)
    own, further = collect_profile_blocks(spark, config, workspace, cutoff)
    profiles = {ENSEMBLE: own}
    if further:
        profiles["+".join([ENSEMBLE, *(block.name for block in further)])] = own + further
    former = set()  # of an earlier run of this stage
    if exists(spark, workspace.table(PROFILES.name)):
        # not by ``read_table``: an earlier version's table has fewer columns
        rows = read_version(spark, workspace.table(PROFILES.name))
        former = {row[PROFILE] for row in rows.select(PROFILE).distinct().collect()}
    ids = read_own_ids(spark, config, workspace)
    models = {block.name: block.made_from for block in own if block.name in config.encoders}
    rows = compose_profiles(spark, workspace, profiles, cutoff, config.ensemble, ids, models)
    write_table(rows, workspace, PROFILES, keep_partitions=True, is_log=True)
    composed = read_as_files(spark, workspace, PROFILES)
    export_profiles(composed, {name: workspace.entry(name) for name in profiles}, clients.count())
    made = collect_blocks(spark, workspace)
    exported = {block.name: block for block in own + further}
    if BASELINE in made:  # to compare with, though no profile needs it
        exported[BASELINE] = made[BASELINE]
    export_blocks(
        read_as_files(spark, workspace, BLOCKS),
        read_as_files(spark, workspace, CLIENTS),
        cutoff,
        {workspace.entry(name): block for name, block in exported.items()},
        composed,
    )
    written = [workspace.entry(name).relative_to(workspace.out).as_posix() for name in [*profiles, *exported]]
    append_metrics(workspace.metrics, {"folders": written})
    # the probe scores all that lies in ``entries``: those of an earlier run too, whose blocks may have gone since. A
    # user may have put entries of such names there
    blocks = {name for name in {*made, *config.encoders, *ON_REQUEST} if _is_of_block(workspace, name)}
    for name in sorted((former | blocks) - {*profiles, *exported}):
        if workspace.remove(workspace.entry(name)):
            log.info("  entry %s: removed: this run has no such profile or block", name)


def _is_of_block(workspace: Workspace, name: str) -> bool:
    """Whether an entry was made of a block by this stage, here or in the store."""
    mark, copy = workspace.entry(name) / FEATURE_NAMES, workspace.working_copy
    return mark.exists() or bool(copy and copy.store.describe(copy.name_of(mark)))


if __name__ == "__main__":
    from jobs.cli import main_stage

    main_stage("profile")
