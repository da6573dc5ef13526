"""A run of all stages that are not up to date."""

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from conf.pipeline import PipelineConfig
from jobs.pipeline.out_of_date import INGEST, find_outdated, require_up_to_date
from jobs.pipeline.registry import STAGE_NAMES, STAGES, Stage, describe_call
from jobs.storage.provenance import MODELS, read_records
from jobs.storage.workspace import Workspace

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

log = logging.getLogger(__name__)


class Step(NamedTuple):
    """One stage of a run.

    Attributes
    ----------
    outputs : what it makes
    why_not : what the log says of a stage that does not run, None of one that does
    why_again : what the log says before it runs
    """

    stage: Stage
    outputs: Sequence[str]
    why_not: str | None = None
    why_again: Sequence[str] = ()


def run_stages(
    spark: "SparkSession",
    config: PipelineConfig,
    workspace: Workspace,
    first: str | None = None,
    last: str | None = None,
) -> None:
    """Run the stages from ``first`` to ``last``, or those of them that ``plan_run`` finds out of date.

    With ``workspace.as_of`` ingest is left out.

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
    elif not first and (start := STAGES.index(plan[0].stage)):
        log.info("going on after %s, up to which all is up to date (--restart begins anew)", STAGE_NAMES[start - 1])
    planned = [output for step in plan if not step.why_not for output in step.outputs]
    for stage, outputs, why_not, why_again in plan:
        for text in why_again:
            log.info("%s runs again: %s", stage.name, text)
        if why_not:
            log.info("%s: %s", stage.name, why_not)
        elif len(outputs) < len(stage.outputs(config)):  # some of the models
            only = [output.removeprefix(MODELS) for output in outputs]
            stage.run(spark, config, workspace, planned=planned, only=only)
        else:
            stage.run(spark, config, workspace, planned=planned)


def plan_run(
    config: PipelineConfig, workspace: Workspace, first: str | None = None, last: str | None = None
) -> list[Step]:
    """The stages that ``run_stages`` comes to.

    Without ``first`` those run whose output is missing or out of date, for this configuration, data and ingest, and
    those that read what this run makes; the plan begins with the first of them, and is empty where there is none.

    Raises
    ------
    OutdatedError
        If a stage reads what no stage of this run makes and what is out of date.
    """
    stop = STAGE_NAMES.index(last) + 1 if last else len(STAGES)
    records = read_records(workspace)
    call = describe_call(config, workspace, reads_ingested=True, records=records)  # once: it looks at each source file
    plan: list[Step] = []
    # what this run makes: all that reads it runs too, though its records say that it is up to date
    fresh: set[str] = set()
    for stage in STAGES[STAGE_NAMES.index(first) if first else 0 : stop]:
        outputs = stage.outputs(config)
        reads_fresh = not fresh.isdisjoint(stage.inputs(config))
        if not first and not reads_fresh:
            # without a record too, as an earlier version left it, which ``find_outdated`` may take as it is
            outputs = [each for each in outputs if each not in records or find_outdated([each], records, call)]
        if why_not := _reason_to_leave_out(stage, config, workspace):
            step = Step(stage, [], f"left out: {why_not}")
        elif not outputs:
            step = Step(stage, [], "up to date")
        else:
            found = {} if first or reads_fresh else find_outdated(outputs, records, call)
            reasons = [each.text for of_output in found.values() for each in of_output if each.kind != "not made"]
            step = Step(stage, outputs, why_again=list(dict.fromkeys(reasons)))  # each reason once
            fresh.update(outputs)
        if fresh or first:
            plan.append(step)
    for stage in (step.stage for step in plan if not step.why_not):
        # all of them before the first begins: a run that cannot end should not replace anything
        require_up_to_date(stage.name, stage.inputs(config), records, stage.as_reader(call), fresh)
    return plan


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


def _reason_to_leave_out(stage: Stage, config: PipelineConfig, workspace: Workspace) -> str | None:
    if stage.is_left_out(config):
        return "in mode entry the profiles have seen the target windows"
    if stage.name == INGEST and workspace.as_of is not None:
        return f"the stages after it read ingest {workspace.as_of} (--as-of)"
    return None
