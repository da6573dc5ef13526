"""The stages in the order they run, and the run that goes on from the last finished one."""

import hashlib
import importlib
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyspark.sql import SparkSession

from conf.load import to_yaml
from conf.settings import PipelineConfig
from jobs.metrics_log import append_metrics, lines_of_stage, read_metrics
from jobs.progress import spark_progress
from jobs.stage_settings import (
    FINISHED,
    PROGRESS,
    changed_progress,
    check_settings,
    forget_stages,
    note_end,
    read_progress,
)
from jobs.workspace import Workspace
from ml.folders import replace_text

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Stage:
    """One step of the pipeline: ``jobs/<module>.py`` has ``run(spark, config, workspace)``."""

    name: str
    module: str
    about: str
    needs: tuple[str, ...] = ()
    """The stages that write what this one reads: those that must have run, whoever starts it."""
    needs_targets: bool = False
    """Left out in mode ``entry``, where the profiles have seen the target windows."""
    reads_ingested: bool = False
    """Reads the tables that ingest wrote: takes ``--as-of``."""
    saves_config: bool = True
    """Its settings become ``config.yaml``; not where it works beside the run that ``--out`` holds."""

    @property
    def all_needs(self) -> list[str]:
        """Its needs, what these need, and so on, in the order of the stages."""
        found = set(self.needs)
        for stage in reversed(STAGES):  # each needs earlier ones only
            if stage.name in found:
                found.update(stage.needs)
        return [name for name in STAGE_NAMES if name in found]

    @property
    def outdates(self) -> list[str]:
        """Itself and the stages whose output is made of its own: what is done again after it."""
        return [stage.name for stage in STAGES if self.name == stage.name or self.name in stage.all_needs]

    def run(self, spark: SparkSession, config: PipelineConfig, workspace: Workspace, **options: Any) -> None:
        """Do the stage's work and log how long it took.

        Until it ends well, neither its own output nor what is made of it counts as done.

        Parameters
        ----------
        options : what the stage's own ``run`` takes beyond the three
        """
        check_settings(workspace.out / PROGRESS, self.all_needs, self.name, config)
        self._begin(config, workspace)
        log.info("%s: %s", self.name, self.about)
        started, n_lines = time.monotonic(), len(read_metrics(workspace.metrics))
        with spark_progress(spark.sparkContext, self.name), lines_of_stage(self.name):
            importlib.import_module(f"jobs.{self.module}").run(spark, config, workspace, **options)
        seconds = time.monotonic() - started
        note_end(workspace, self.name, config)
        own = [line for line in read_metrics(workspace.metrics)[n_lines:] if line.get("stage") == self.name]
        n_rows = sum(line.get("table/rows", 0) for line in own)
        figures = {"stage": self.name, "stage/seconds": round(seconds, 2), "stage/rows": n_rows}
        append_metrics(workspace.metrics, figures)
        told = {"stage": self.name, "seconds": round(seconds, 2), "rows": n_rows}
        log.info("%s: done in %.1f s, %s rows written", self.name, seconds, f"{n_rows:,}", extra=told)

    def _begin(self, config: PipelineConfig, workspace: Workspace) -> None:
        with changed_progress(workspace.out / PROGRESS) as saved:
            if set(STAGE_NAMES) <= set(saved.get(FINISHED, [])):
                saved[FINISHED] = []  # a complete run begins anew, whatever was run alone since
            forget_stages(saved, self.outdates)
            if self.saves_config:
                _save_config(config, workspace.out / "config.yaml")


STAGES = (
    Stage("ingest", "ingest_events", "source files -> typed events, quarantine"),
    Stage(
        "split",
        "split_windows",
        "window boundaries and the clients to profile",
        needs=("ingest",),
        reads_ingested=True,
    ),
    Stage("vocabulary", "build_vocabularies", "items -> token ids", needs=("ingest", "split"), reads_ingested=True),
    Stage(
        "sequences",
        "build_sequences",
        "each client's last token ids, in event order",
        needs=("ingest", "split", "vocabulary"),
        reads_ingested=True,
    ),
    Stage("train", "train_ensemble", "one BERT4Rec per behaviour", needs=("vocabulary", "sequences")),
    Stage(
        "baseline",
        "build_baseline",
        "the organisers' aggregated features as an entry",
        needs=("ingest", "split"),
        reads_ingested=True,
    ),
    Stage(
        "embed",
        "infer_embeddings",
        "profiles and their entries",
        needs=("ingest", "split", "vocabulary", "sequences", "train", "baseline"),
        reads_ingested=True,
    ),
    Stage(
        "targets",
        "build_targets",
        "labels per task, window and client",
        needs=("ingest", "split"),
        needs_targets=True,
        reads_ingested=True,
    ),
    Stage(
        "probe",
        "evaluate_probe",
        "scores of every entry on the six tasks",
        needs=("split", "baseline", "embed", "targets"),
        needs_targets=True,
    ),
    Stage(
        "report",
        "report",
        "score table and report.html",
        needs=("ingest", "split", "vocabulary", "sequences", "train", "embed", "probe"),
    ),
)
STAGE_NAMES = [stage.name for stage in STAGES]
INGEST = STAGE_NAMES[0]


def _save_config(config: PipelineConfig, path: Path) -> None:
    text = to_yaml(config)
    # stages that start at once have an earlier one's before them, and need not write the same file
    if not path.exists() or path.read_bytes() != text.encode():
        replace_text(path, text)


def find_stage(name: str) -> Stage:
    """The stage of this name."""
    return STAGES[STAGE_NAMES.index(name)]


def run_stage(name: str, spark: SparkSession, config: PipelineConfig, workspace: Workspace) -> None:
    """Run one stage by its name."""
    find_stage(name).run(spark, config, workspace)


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
