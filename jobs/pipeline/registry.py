"""The stages in the order they run, and how one of them is run."""

import importlib
import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyspark.sql import SparkSession

from conf.load import to_yaml
from conf.pipeline import PipelineConfig
from jobs.runtime.progress import spark_progress
from jobs.storage.metrics_log import append_metrics, lines_of_stage, read_metrics
from jobs.storage.provenance import FINISHED, PROGRESS, changed_progress, check_settings, forget_stages, note_end
from jobs.storage.workspace import Workspace
from ml.files.atomic import replace_text

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Stage:
    """One step of the pipeline: its file has ``run(spark, config, workspace)``."""

    name: str
    about: str
    needs: tuple[str, ...] = ()
    """The stages that write what this one reads: those that must have run, whoever starts it."""
    needs_targets: bool = False
    """Left out in mode ``entry``, where the profiles have seen the target windows."""
    reads_ingested: bool = False
    """Reads the tables that ingest wrote: takes ``--as-of``."""
    saves_config: bool = True
    """Its settings become ``config.yaml``; not where it works beside the run that ``--out`` holds."""
    file: str = ""
    """Name of its file in ``jobs/stages``, where that is not its own."""

    @property
    def module(self) -> str:
        """Of its file, as it is imported."""
        return f"jobs.stages.{self.file or self.name}"

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
            importlib.import_module(self.module).run(spark, config, workspace, **options)
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
    Stage("ingest", "source files -> typed events, quarantine"),
    Stage(
        "split",
        "window boundaries and the clients to profile",
        needs=("ingest",),
        reads_ingested=True,
    ),
    Stage("vocabulary", "items -> token ids", needs=("ingest", "split"), reads_ingested=True),
    Stage(
        "sequences",
        "each client's last token ids, in event order",
        needs=("ingest", "split", "vocabulary"),
        reads_ingested=True,
    ),
    Stage("train", "one BERT4Rec per behaviour", needs=("vocabulary", "sequences")),
    Stage(
        "baseline",
        "the organisers' aggregated features as a block",
        needs=("ingest", "split"),
        reads_ingested=True,
    ),
    Stage(
        "counters",
        "how much each client did, and how recently, as a block",
        needs=("ingest", "split"),
        reads_ingested=True,
    ),
    Stage("embed", "each client's vectors, a block per encoder", needs=("split", "vocabulary", "sequences", "train")),
    Stage(
        "profile",
        "profiles composed of blocks, and their entries",
        needs=("split", "baseline", "counters", "embed"),
        file="profiles",
    ),
    Stage(
        "targets",
        "labels per task, window and client",
        needs=("ingest", "split"),
        needs_targets=True,
        reads_ingested=True,
    ),
    Stage(
        "probe",
        "scores of every entry on the six tasks",
        needs=("split", "profile", "targets"),
        needs_targets=True,
    ),
    Stage(
        "report",
        "score table and report.html",
        needs=(
            "ingest",
            "split",
            "vocabulary",
            "sequences",
            "train",
            "baseline",
            "counters",
            "embed",
            "profile",
            "probe",
        ),
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
