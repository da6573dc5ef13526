"""A run of all stages, which goes on after the last one that is up to date."""

import logging
from dataclasses import replace
from typing import TYPE_CHECKING

from conf.pipeline import PipelineConfig
from jobs.pipeline.out_of_date import INGEST, find_outdated, require_up_to_date
from jobs.pipeline.registry import STAGE_NAMES, STAGES, Stage, describe_call
from jobs.storage.provenance import read_records
from jobs.storage.workspace import Workspace

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

log = logging.getLogger(__name__)


def run_stages(
    spark: "SparkSession",
    config: PipelineConfig,
    workspace: Workspace,
    first: str | None = None,
    last: str | None = None,
) -> None:
    """Run the stages from ``first`` to ``last``.

    Without ``first``, the first is the one whose output is missing or out of date, for this configuration, data and
    ingest; where none is, there is nothing to do. With ``workspace.as_of`` ingest is left out.

    Raises
    ------
    OutdatedError
        If a stage reads what no stage of this run makes and what is out of date, before the first one begins.
    """
    if not first and workspace.as_of is None and (changed := _changed_tables(spark, config, workspace)):
        log.info("%s runs again: expected the tables that it read, found %s", INGEST, ", ".join(changed))
        first = INGEST
    plan = plan_run(config, workspace, first, last)
    if not plan:
        log.info("nothing to do: %s to %s are up to date (--restart begins anew)", INGEST, last or STAGE_NAMES[-1])
    elif not first:
        begins, reason = plan[0]
        if start := STAGES.index(begins):
            log.info("going on after %s, the last finished stage (--restart begins anew)", STAGE_NAMES[start - 1])
        if not reason:
            _log_why_again(begins, config, workspace)
    planned = [output for stage, reason in plan if not reason for output in stage.outputs(config)]
    for stage, reason in plan:
        if reason:
            log.info("%s: left out: %s", stage.name, reason)
        else:
            stage.run(spark, config, workspace, planned=planned)


def plan_run(
    config: PipelineConfig, workspace: Workspace, first: str | None = None, last: str | None = None
) -> list[tuple[Stage, str | None]]:
    """The stages that ``run_stages`` comes to, each with the reason to leave it out, None where it runs.

    Raises
    ------
    OutdatedError
        If a stage reads what no stage of this run makes and what is out of date.
    """
    start = STAGE_NAMES.index(first) if first else find_start(config, workspace)
    stop = STAGE_NAMES.index(last) + 1 if last else len(STAGES)
    plan = [(stage, _reason_to_leave_out(stage, config, workspace)) for stage in STAGES[start:stop]]
    running = [stage for stage, reason in plan if not reason]
    fresh = [output for stage in running for output in stage.outputs(config)]
    records = read_records(workspace)
    call = describe_call(config, workspace, reads_ingested=True, records=records)  # once: it looks at each source file
    for stage in running:  # all of them before the first begins: a run that cannot end should not replace anything
        own_call = replace(call, reads_ingested=stage.reads_ingested)
        require_up_to_date(stage.name, stage.inputs(config), records, own_call, fresh)
    return plan


def find_start(config: PipelineConfig, workspace: Workspace) -> int:
    """Index of the first stage whose output is not up to date; the number of stages where each is."""
    records = read_records(workspace)
    call = describe_call(config, workspace, reads_ingested=True, records=records)
    for index, stage in enumerate(STAGES):
        outputs = stage.outputs(config)
        is_made = records.keys() >= set(outputs) and not find_outdated(outputs, records, call)
        # a stage that this run leaves out is no reason to start there, whatever its records say
        if not is_made and not _reason_to_leave_out(stage, config, workspace):
            return index
    return len(STAGES)


def _changed_tables(spark: "SparkSession", config: PipelineConfig, workspace: Workspace) -> list[str]:
    """The Delta tables in a catalog or a store that have another version than ingest read.

    Warns of inputs there that have no versions.
    """
    from jobs.inputs.readers import find_version  # not at the top: `ubp --help` does without Spark

    ingest = read_records(workspace).get(INGEST)
    if ingest is None or ingest.made is None:
        return []
    elsewhere = {each.location: each for each in config.mapping.inputs.values() if each.table or each.is_url}
    changed = []
    for location, settings in elsewhere.items():
        now, read = find_version(spark, settings, None), ingest.read.get(location)
        if now is None or read is None:
            log.warning("  %s: whether it has changed since ingest is not known; --from ingest reads it anew", location)
        elif now != read:
            changed.append(f"{location} at version {now}, not {read}")
    return changed


def _log_why_again(stage: Stage, config: PipelineConfig, workspace: Workspace) -> None:
    records = read_records(workspace)
    call = describe_call(config, workspace, reads_ingested=True, records=records)
    for reasons in find_outdated(stage.outputs(config), records, call).values():
        for reason in (reason for reason in reasons if reason.kind != "not made"):
            log.info("%s runs again: %s", stage.name, reason.text)


def _reason_to_leave_out(stage: Stage, config: PipelineConfig, workspace: Workspace) -> str | None:
    if stage.is_left_out(config):
        return "in mode entry the profiles have seen the target windows"
    if stage.name == INGEST and workspace.as_of is not None:
        return f"the stages after it read ingest {workspace.as_of} (--as-of)"
    return None
