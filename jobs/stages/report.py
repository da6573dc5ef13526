"""Stage ``report``: the score table on the terminal and ``report.html``, one self-contained page of the whole run."""

import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from pyspark.sql import SparkSession
from pyspark.sql import functions as F
from tqdm import tqdm

from conf.pipeline import PipelineConfig
from jobs.blocks.table import collect_absent_shares
from jobs.evaluation.ablation import read_ablation
from jobs.evaluation.comparison import Scores
from jobs.evaluation.scores import read_scores
from jobs.reporting.facts import (
    collect_client_counts,
    collect_profile_map,
    collect_quarantine,
    collect_sequence_facts,
    collect_vocabulary_facts,
)
from jobs.reporting.history import split_training
from jobs.reporting.mlflow_runs import track_run
from jobs.reporting.page import RunFacts, render_page
from jobs.reporting.tables import format_score_table, probe_note
from jobs.runtime.logs import printable
from jobs.storage.delta_tables import read_table
from jobs.storage.files import write_text
from jobs.storage.metrics_log import append_metrics, read_metrics
from jobs.storage.provenance import read_records
from jobs.storage.stored_rows import timestamp_literal
from jobs.storage.workspace import Workspace
from jobs.transforms.windows import read_windows
from schemas.blocks import ACTIVITY, BASELINE, ENSEMBLE
from schemas.columns import BEHAVIOUR, CUTOFF, PROFILE
from schemas.tables import BLOCKS, CLIENTS, PROFILES, QUARANTINE, SEQUENCES, VOCABULARIES

log = logging.getLogger(__name__)


def run(spark: SparkSession, config: PipelineConfig, workspace: Workspace) -> None:
    """Write ``report.html`` from the run's tables, scores and metrics, and show the score table.

    Raises
    ------
    TableError
        If a stage that the page needs has not run, or one of its files is damaged.
    """
    scores = read_scores(config, workspace)
    facts = collect_facts(spark, config, workspace, scores)
    # the page first: the MLflow run takes it along
    path = workspace.out / "report.html"
    write_text(path, render_page(facts, config, stages_before(workspace, facts.metrics)))
    append_metrics(workspace.metrics, {"folders": [path.name]})
    table = format_score_table(scores, probe_note(config.probe)) if scores else "no scores in mode entry\n"
    if config.tracking.mlflow:
        track_run(config, workspace)
    tqdm.write(printable(f"\n{table}\n{path}"), file=sys.stdout)  # clears a progress bar that the text would run into


def stages_before(workspace: Workspace, metrics: Sequence[Mapping[str, Any]]) -> list[str]:
    """The stages whose output the run holds, in the order in which they last ended, by the lines of the log."""
    records = read_records(workspace).values()
    made = {record.stage for record in records if record.made and record.tables == workspace.named_tables}
    ended = [line["stage"] for line in reversed(metrics) if "stage/seconds" in line]
    return [name for name in dict.fromkeys(ended) if name in made][::-1]


def collect_facts(spark: SparkSession, config: PipelineConfig, workspace: Workspace, scores: Scores) -> RunFacts:
    """The small aggregates that the page shows."""
    sequences = read_table(spark, workspace, SEQUENCES)
    windows = read_windows(spark, workspace)
    blocks = read_table(spark, workspace, BLOCKS).where(F.col(CUTOFF) == timestamp_literal(windows.input_end))
    profiles = read_table(spark, workspace, PROFILES).where(F.col(PROFILE) == ENSEMBLE)
    metrics, histories = split_training(read_metrics(workspace.metrics))
    n_clients, n_active = collect_client_counts(read_table(spark, workspace, CLIENTS))
    return RunFacts(
        scores=scores,
        metrics=metrics,
        histories=histories,
        windows=asdict(windows),
        n_clients=n_clients,
        n_active=n_active,
        sequences=collect_sequence_facts(sequences, {name: of.max_length for name, of in config.streams().items()}),
        vocabularies=collect_vocabulary_facts(
            read_table(spark, workspace, VOCABULARIES), [*config.behaviours, *config.merged_streams()]
        ),
        absent=collect_absent_shares(blocks, [*config.encoders, ACTIVITY, BASELINE, *config.ensemble.named_blocks]),
        quarantine=collect_quarantine(read_table(spark, workspace, QUARANTINE)),
        profile_map=collect_profile_map(
            profiles, sequences.where(F.col(BEHAVIOUR).isin(config.counted_streams())), n_clients
        ),
        ablation=read_ablation(spark, config, workspace),
    )


if __name__ == "__main__":
    from jobs.cli import main_stage

    main_stage("report")
