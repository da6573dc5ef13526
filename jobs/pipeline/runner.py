"""A run of all stages, which goes on from the last finished one."""

import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path

from pyspark.sql import SparkSession

from conf.load import to_yaml
from conf.pipeline import PipelineConfig
from jobs.pipeline.registry import INGEST, STAGE_NAMES, STAGES, Stage
from jobs.storage.provenance import FINISHED, PROGRESS, changed_progress, check_settings, read_progress
from jobs.storage.workspace import Workspace

log = logging.getLogger(__name__)


def run_stages(
    spark: SparkSession, config: PipelineConfig, workspace: Workspace, first: str | None = None, last: str | None = None
) -> None:
    """Run the stages from ``first`` to ``last``.

    Without ``first``, a run of the same configuration and data that died goes on after its last finished
    stage; a complete one starts over. With ``workspace.as_of`` ingest is left out.
    """
    progress = RunProgress.load(workspace, config)
    start = STAGE_NAMES.index(first) if first else progress.next_stage()
    stop = STAGE_NAMES.index(last) + 1 if last else len(STAGES)
    reasons = {stage: _reason_to_leave_out(stage, config, workspace) for stage in STAGES[start:stop]}
    _check_settings_of_others(progress.path, [stage for stage, reason in reasons.items() if not reason], config)
    if start and not first:
        log.info("going on after %s, the last finished stage (--restart begins anew)", STAGE_NAMES[start - 1])
    for stage, reason in reasons.items():
        if reason:
            log.info("%s: left out: %s", stage.name, reason)
        else:
            stage.run(spark, config, workspace)
        progress.finish(stage.name)


def _reason_to_leave_out(stage: Stage, config: PipelineConfig, workspace: Workspace) -> str | None:
    if stage.needs_targets and config.windows.mode == "entry":
        return "in mode entry the profiles have seen the target windows"
    if stage.name == INGEST and workspace.as_of is not None:
        return f"the stages after it read ingest {workspace.as_of} (--as-of)"
    return None


def _check_settings_of_others(progress: Path, running: Sequence[Stage], config: PipelineConfig) -> None:
    """Refuse a run before its first stage where a later one would be refused for what no stage of the run makes."""
    names = [stage.name for stage in running]
    for stage in running:
        check_settings(progress, [name for name in stage.all_needs if name not in names], stage.name, config)


class RunProgress:
    """Which stages of a run are finished, kept in ``OUT/progress.json``."""

    def __init__(self, path: Path, fingerprint: str, finished: list[str]) -> None:
        self.path, self.fingerprint, self.finished = path, fingerprint, finished

    @classmethod
    def load(cls, workspace: Workspace, config: PipelineConfig) -> "RunProgress":
        """Progress of this very run: another configuration, data directory or ingest starts from nothing."""
        path = workspace.out / PROGRESS
        told = f"{workspace.resolved_data}\n{workspace.as_of}\n{workspace.named_tables}{to_yaml(config)}"
        fingerprint = hashlib.sha256(told.encode()).hexdigest()
        saved = read_progress(path)
        return cls(path, fingerprint, saved["finished"] if saved.get("fingerprint") == fingerprint else [])

    def next_stage(self) -> int:
        """Index of the first stage that is not finished; 0 after a complete run."""
        for index, name in enumerate(STAGE_NAMES):
            if name not in self.finished:
                return index
        return 0

    def finish(self, name: str) -> None:
        """Note a stage as finished; those after it must run again."""
        before = STAGE_NAMES[: STAGE_NAMES.index(name)]
        self.finished = [other for other in self.finished if other in before] + [name]
        with changed_progress(self.path) as saved:
            saved.update({"fingerprint": self.fingerprint, FINISHED: self.finished})
