"""Stage ``report``: the score table on the terminal and ``report.html``, one self-contained page of the whole run."""

import logging
import sys

from pyspark.sql import SparkSession
from tqdm import tqdm

from conf.settings import PipelineConfig
from jobs.ablate import describe_sources, embedded_behaviours
from jobs.cli import main_stage
from jobs.io import read_table
from jobs.json_files import read_json
from jobs.metrics_log import read_metrics
from jobs.pipeline import STAGES
from jobs.reporting.ablation import RUN_ABLATE, Ablation, AblationFile
from jobs.reporting.facts import (
    collect_absent_shares,
    collect_client_counts,
    collect_profile_map,
    collect_quarantine,
    collect_sequence_facts,
    collect_vocabulary_facts,
)
from jobs.reporting.page import RunFacts, render_page
from jobs.reporting.tables import RUN_PROBE, Scores, ScoresFile, format_score_table, probe_note
from jobs.tracking import track_run
from jobs.workspace import Workspace
from ml.folders import replace_text
from schemas.tables import CLIENTS, EMBEDDINGS, QUARANTINE, SEQUENCES, VOCABULARIES, WINDOWS

log = logging.getLogger(__name__)

ENTRY = "ensemble"
"""The entry whose profiles are mapped."""


def run(spark: SparkSession, config: PipelineConfig, workspace: Workspace) -> None:
    """Write ``report.html`` from the run's tables, scores and metrics, and show the score table.

    Raises
    ------
    TableError
        If a stage that the page needs has not run, or one of its files is damaged.
    """
    scores = read_scores(config, workspace)
    facts = collect_facts(spark, config, workspace, scores)
    path = workspace.out / "report.html"
    replace_text(path, render_page(facts, config, stages_before(config)))
    table = format_score_table(scores, probe_note(config.probe)) if scores else "no scores in mode entry\n"
    if config.tracking.mlflow:
        track_run(config, workspace)
    tqdm.write(f"\n{table}\n{path}", file=sys.stdout)  # clears a progress bar that the text would run into


def read_scores(config: PipelineConfig, workspace: Workspace) -> Scores:
    """``scores.json``; empty in mode ``entry``, where a file there is another run's."""
    path = workspace.out / "scores.json"
    if config.windows.mode == "entry":
        return {}
    scores: Scores = read_json(path, ScoresFile, RUN_PROBE)
    return scores


def read_ablation(spark: SparkSession, config: PipelineConfig, workspace: Workspace) -> Ablation | None:
    """``ablation.json`` of ``ubp ablate``; None where there is none, or it is another run's, as in mode ``entry``."""
    path = workspace.out / "ablation.json"
    if config.windows.mode == "entry" or not path.exists():
        return None
    ablation: Ablation = read_json(path, AblationFile, RUN_ABLATE)
    blocks = dict.fromkeys([*embedded_behaviours(config, workspace), *ablation["blocks"]])
    now = describe_sources(spark, config, workspace, list(blocks))
    made_of = ablation.get("made_of", {})
    if changed := [name for name, digest in now.items() if made_of.get(name) != digest]:
        told = f"{', '.join(changed[:3])}{', ...' if len(changed) > 3 else ''}"
        log.warning("  %s left out: it was made with another %s; run `ubp ablate` again", path.name, told)
        return None
    return ablation


def stages_before(config: PipelineConfig) -> list[str]:
    """The stages that this run did before its report."""
    is_entry = config.windows.mode == "entry"
    return [stage.name for stage in STAGES[:-1] if not (is_entry and stage.needs_targets)]


def collect_facts(spark: SparkSession, config: PipelineConfig, workspace: Workspace, scores: Scores) -> RunFacts:
    """The small aggregates that the page shows."""
    sequences = read_table(spark, workspace, SEQUENCES)
    embeddings = read_table(spark, workspace, EMBEDDINGS)
    windows = read_table(spark, workspace, WINDOWS).first()
    assert windows is not None
    n_clients, n_active = collect_client_counts(read_table(spark, workspace, CLIENTS))
    return RunFacts(
        scores=scores,
        metrics=read_metrics(workspace.metrics),
        windows=windows.asDict(),
        n_clients=n_clients,
        n_active=n_active,
        sequences=collect_sequence_facts(sequences, config.behaviours),
        vocabularies=collect_vocabulary_facts(read_table(spark, workspace, VOCABULARIES), config.behaviours),
        absent=collect_absent_shares(embeddings, config.behaviours),
        quarantine=collect_quarantine(read_table(spark, workspace, QUARANTINE)),
        profile_map=collect_profile_map(embeddings, sequences, workspace.entry(ENTRY) / "embeddings.npy"),
        ablation=read_ablation(spark, config, workspace),
    )


if __name__ == "__main__":
    sys.exit(main_stage("report"))
