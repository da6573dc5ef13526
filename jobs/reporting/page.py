"""Renders ``report.html``: one page with its styles and figures inside."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from conf.load import to_yaml
from conf.settings import PipelineConfig
from jobs.reporting import figures
from jobs.reporting.facts import ProfileMap, SequenceFacts, VocabularyFacts
from jobs.reporting.history import Lines, TrainingHistory, newest_by, training_histories
from jobs.reporting.tables import (
    DETAILS,
    MISSING,
    Scores,
    build_detail_rows,
    build_score_rows,
    probe_note,
    rank_entries,
    score_columns,
    sum_of_scores,
    task_title,
    tasks_without_score,
)
from schemas.tasks import PROPENSITY


@dataclass(frozen=True)
class RunFacts:
    """What the page tells, besides the configuration.

    Attributes
    ----------
    metrics : the lines of ``metrics.jsonl``
    windows : the one row of ``tables/windows``
    absent : behaviour -> share of relevant clients without an event
    quarantine : (source, reason, rows)
    """

    scores: Scores
    metrics: Lines
    windows: Mapping[str, Any]
    n_clients: int
    n_active: int
    sequences: dict[str, SequenceFacts]
    vocabularies: dict[str, VocabularyFacts]
    absent: dict[str, float]
    quarantine: list[tuple[str, str, int]]
    profile_map: ProfileMap | None


@dataclass(frozen=True)
class BehaviourRow:
    """One behaviour's line in the tables of the page."""

    name: str
    max_sequence_length: int
    absent: float
    sequences: SequenceFacts | None
    vocabulary: VocabularyFacts | None
    training: TrainingHistory | None


def render_page(facts: RunFacts, config: PipelineConfig, stage_names: list[str]) -> str:
    """The page as HTML: the same inputs give the same text.

    Parameters
    ----------
    stage_names : the stages whose times are shown, in that order
    """
    histories = training_histories(facts.metrics, config.behaviours)
    stages = newest_by(facts.metrics, "stage")
    seconds = {name: stages[name]["stage/seconds"] for name in stage_names if name in stages}
    context = {
        "facts": facts,
        "config": config,
        "config_yaml": to_yaml(config),
        "behaviours": _behaviour_rows(facts, config, histories),
        "stage_seconds": seconds,
        "tables": newest_by(facts.metrics, "table"),
        "figures": _draw(facts, config, histories, seconds),
        **(_score_context(facts.scores, config) if facts.scores else {}),
    }
    return _environment().get_template("report.html").render(context)


def _score_context(scores: Scores, config: PipelineConfig) -> dict[str, Any]:
    return {
        "score_columns": score_columns(),
        "score_rows": build_score_rows(scores),
        "detail_tasks": [task_title(task) for task in PROPENSITY],
        "detail_columns": DETAILS,
        "detail_rows": build_detail_rows(scores),
        "ranking": rank_entries(scores),
        "sums": {entry: sum_of_scores(scores, entry) for entry in scores},
        "undefined_tasks": [task_title(task) for task in tasks_without_score(scores)],
        "note": probe_note(config.probe),
    }


def _behaviour_rows(
    facts: RunFacts, config: PipelineConfig, histories: Mapping[str, TrainingHistory]
) -> list[BehaviourRow]:
    return [
        BehaviourRow(
            name,
            settings.max_sequence_length,
            facts.absent[name],
            facts.sequences.get(name),
            facts.vocabularies.get(name),
            histories.get(name),
        )
        for name, settings in config.behaviours.items()
    ]


def _draw(
    facts: RunFacts,
    config: PipelineConfig,
    histories: Mapping[str, TrainingHistory],
    stage_seconds: Mapping[str, float],
) -> dict[str, Markup]:
    """The figures that there are data for."""
    drawn = {"absent": figures.draw_absent_shares(facts.absent)}
    if any(facts.scores.values()):
        drawn["scores"] = figures.draw_scores(facts.scores)
    if histories:
        drawn["training"] = figures.draw_training(histories)
    if facts.sequences:
        drawn["lengths"] = figures.draw_sequence_lengths(facts.sequences, config.behaviours)
    if facts.vocabularies:
        drawn["vocabularies"] = figures.draw_vocabularies(facts.vocabularies)
    if facts.profile_map:
        drawn["map"] = figures.draw_profile_map(facts.profile_map)
    if stage_seconds:
        drawn["stages"] = figures.draw_stage_times(stage_seconds)
    return drawn


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("jobs", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"count": _count, "share": _share, "number": _number, "day": _day, "duration": _duration}
    return environment


def _count(value: float | None) -> str:
    return MISSING if value is None else f"{value:,.0f}"


def _share(value: float | None) -> str:
    return MISSING if value is None else f"{value:.1%}"


def _number(value: float | None, digits: int = 4) -> str:
    return MISSING if value is None else f"{value:,.{digits}f}"


def _day(value: datetime) -> str:
    return f"{value:%-d %B %Y}"


def _duration(seconds: float) -> str:
    """``75`` -> ``1 min 15 s``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{seconds:.1f} s"
