"""The stages in the order they run, and the run that goes on from the last finished one."""

import hashlib
import importlib
import json
import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyspark.sql import SparkSession

from conf.load import save_config, to_yaml
from conf.settings import PipelineConfig
from jobs.metrics_log import append_metrics, read_metrics
from jobs.progress import spark_progress
from jobs.stage_settings import check_settings, note_settings, read_progress
from jobs.workspace import Workspace
from ml.folders import replace_text

log = logging.getLogger(__name__)

PROGRESS = "progress.json"


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

    def run(self, spark: SparkSession, config: PipelineConfig, workspace: Workspace, **options: Any) -> None:
        """Do the stage's work and log how long it took.

        Parameters
        ----------
        options : what the stage's own ``run`` takes beyond the three
        """
        progress = workspace.out / PROGRESS
        check_settings(progress, STAGE_NAMES[: STAGE_NAMES.index(self.name)], self.name, config)
        log.info("%s: %s", self.name, self.about)
        started, n_lines = time.monotonic(), len(read_metrics(workspace.metrics))
        with spark_progress(spark.sparkContext, self.name):
            importlib.import_module(f"jobs.{self.module}").run(spark, config, workspace, **options)
        seconds = time.monotonic() - started
        note_settings(progress, self.name, config)
        n_rows = sum(line.get("table/rows", 0) for line in read_metrics(workspace.metrics)[n_lines:])
        figures = {"stage": self.name, "stage/seconds": round(seconds, 2), "stage/rows": n_rows}
        append_metrics(workspace.metrics, figures)
        told = {"stage": self.name, "seconds": round(seconds, 2), "rows": n_rows}
        log.info("%s: done in %.1f s, %s rows written", self.name, seconds, f"{n_rows:,}", extra=told)


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
        needs=("split", "vocabulary", "sequences", "train", "baseline"),
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


def run_stage(name: str, spark: SparkSession, config: PipelineConfig, workspace: Workspace) -> None:
    """Run one stage by its name."""
    STAGES[STAGE_NAMES.index(name)].run(spark, config, workspace)


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
    if start:
        check_settings(progress.path, STAGE_NAMES[:start], STAGE_NAMES[start], config)
    save_config(config, workspace.out / "config.yaml")
    if start and not first:
        log.info("going on after %s, the last finished stage (--restart begins anew)", STAGE_NAMES[start - 1])
    for stage in STAGES[start:stop]:
        if stage.needs_targets and config.windows.mode == "entry":
            log.info("%s: left out: in mode entry the profiles have seen the target windows", stage.name)
        elif stage.name == INGEST and workspace.as_of is not None:
            log.info("%s: left out: the stages after it read ingest %d (--as-of)", stage.name, workspace.as_of)
        else:
            stage.run(spark, config, workspace)
        progress.finish(stage.name)


class RunProgress:
    """Which stages of a run are finished, kept in ``OUT/progress.json``."""

    def __init__(self, path: Path, fingerprint: str, finished: list[str]) -> None:
        self.path, self.fingerprint, self.finished = path, fingerprint, finished

    @classmethod
    def load(cls, workspace: Workspace, config: PipelineConfig) -> "RunProgress":
        """Progress of this very run: another configuration, data directory or ingest starts from nothing."""
        path = workspace.out / PROGRESS
        data = workspace.challenge and workspace.challenge.resolve()
        told = f"{data}\n{workspace.as_of}\n{workspace.named_tables}{to_yaml(config)}"
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
        now = {"fingerprint": self.fingerprint, "finished": self.finished}
        replace_text(self.path, json.dumps(read_progress(self.path) | now))
