"""``ubp probe --entry``: score entries from elsewhere; what ``--out`` lacks for that is made first."""

import logging
from dataclasses import replace
from typing import TYPE_CHECKING

from conf.pipeline import PipelineConfig
from jobs.inputs.challenge_directory import RELEVANT_CLIENTS
from jobs.inputs.data_files import check_data, lists_folder
from jobs.pipeline.out_of_date import find_reasons
from jobs.pipeline.registry import Stage, describe_call, find_stage
from jobs.storage.provenance import read_records
from jobs.storage.workspace import Workspace
from schemas.behaviours import PRODUCT_BUY
from schemas.errors import InputError

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

log = logging.getLogger(__name__)

PREPARED_BY = ("ingest", "split", "targets")
"""The stages that make what the probe reads besides entries, in their order."""


def prepare_tables(spark: "SparkSession", config: PipelineConfig, workspace: Workspace) -> None:
    """Run the stages whose tables the probe reads, those that have not ended well in the workspace.

    Where a file names the relevant clients, purchases are the only events that are read.

    Raises
    ------
    InputError
        If the workspace holds tables of another challenge directory than it names.
    """
    missing = list_unmade_stages(config, workspace)
    if not missing:
        return
    check_data(config, workspace)
    log.info("%s lacks what %s make: running them on %s", workspace.out, ", ".join(missing), workspace.challenge)
    # without such a file every client with an event is relevant: then all behaviours are read
    lists = lists_folder(config, workspace)
    if lists and (lists / RELEVANT_CLIENTS).exists():
        config = purchases_only(config)
    for name in missing:
        beside_run(find_stage(name)).run(spark, config, workspace)


def list_unmade_stages(config: PipelineConfig, workspace: Workspace) -> list[str]:
    """Those of ``PREPARED_BY`` that must run; InputError where one ran on another challenge directory, or its files."""
    records = read_records(workspace)
    call = describe_call(config, workspace, reads_ingested=False, records=records)
    found = {name: find_reasons(name, records, call) for name in PREPARED_BY}
    if changed := [each.text for of_stage in found.values() for each in of_stage if each.kind == "files"]:
        raise InputError(f"{changed[0]}; leave --data out to score on those tables, or choose another --out")
    reasons = {name: [each.kind for each in of_stage] for name, of_stage in found.items()}
    if others := {str(records[name].data) for name, kinds in reasons.items() if "data" in kinds}:
        raise InputError(
            f"--data {workspace.resolved_data}: expected the challenge directory that the tables of {workspace.out} "
            f"were made from, {', '.join(sorted(others))}; leave --data out to score on those, or choose another --out"
        )
    # other settings are the stages' own to refuse
    return [name for name, kinds in reasons.items() if set(kinds) - {"settings"}]


def beside_run(stage: Stage) -> Stage:
    """The stage as entries from elsewhere need it: it reads no profile of the run, and the run keeps its settings."""
    return replace(stage, needs=tuple(name for name in stage.needs if name in PREPARED_BY), saves_config=False)


def purchases_only(config: PipelineConfig) -> PipelineConfig:
    """The configuration without the behaviours that labels do not depend on."""
    return config.restricted_to(PRODUCT_BUY) if PRODUCT_BUY in config.behaviours else config
