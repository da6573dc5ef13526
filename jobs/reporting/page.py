"""Renders ``report.html``: one page with its styles and figures inside."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from conf.load import to_yaml
from conf.pipeline import PipelineConfig
from jobs.evaluation.ablation import Ablation
from jobs.evaluation.comparison import SUM, Scores, result_of
from jobs.reporting import figures, tables
from jobs.reporting.ablation import noise_of_changes, rows_alone, rows_without, scores_alone
from jobs.reporting.facts import ProfileMap, SequenceFacts, VocabularyFacts
from jobs.reporting.history import Lines, TrainingHistory, newest_by, stage_runs, thin
from schemas.blocks import BASELINE
from schemas.tasks import PROPENSITY


@dataclass(frozen=True)
class RunFacts:
    """What the page shows, besides the configuration.

    Attributes
    ----------
    metrics : the lines of ``metrics.jsonl``, but for those of training
    histories : encoder -> its newest training, by ``metrics.jsonl``; of an earlier configuration's too
    windows : the one row of ``tables/windows``
    absent : block -> share of relevant clients that are not present
    quarantine : (source, reason, rows)
    ablation : ``ablation.json``, None where there is none
    """

    scores: Scores
    metrics: Lines
    histories: dict[str, TrainingHistory]
    windows: Mapping[str, Any]
    n_clients: int
    n_active: int
    sequences: dict[str, SequenceFacts]
    vocabularies: dict[str, VocabularyFacts]
    absent: dict[str, float]
    quarantine: list[tuple[str, str, int]]
    profile_map: ProfileMap | None
    ablation: Ablation | None = None


@dataclass(frozen=True)
class Verdict:
    """The page's first sentence.

    Attributes
    ----------
    first : the entries with the most Borda points
    total : the first one's sum of scores
    rivals : entries whose sum repeats do not tell from the first one's, or is higher
    standing : of the first one to the baseline; zeros where several are first, or there is nothing to compare
    """

    first: list[str]
    points: int
    total: float
    rivals: tuple[str, ...] = ()
    standing: tables.Standing = field(default_factory=tables.Standing)


def render_page(facts: RunFacts, config: PipelineConfig, stage_names: list[str]) -> str:
    """The page as HTML: the same inputs give the same text.

    Parameters
    ----------
    stage_names : the stages whose times are shown, in that order
    """
    # an encoder of merged behaviours is no behaviour, and not every behaviour has an encoder
    names = list(dict.fromkeys((*config.behaviours, *config.encoders)))
    histories = {name: facts.histories[name] for name in names if name in facts.histories}
    colours = figures.palette(names)
    bands = figures.map_bands(facts.profile_map) if facts.profile_map else {}
    context = {
        "facts": facts,
        "config": config,
        "config_yaml": to_yaml(config),
        "kept": {name: stream.max_length for name, stream in config.streams().items()},
        "streams": [*config.behaviours, *config.merged_streams()],
        "n_events": sum(facts.sequences[name].n_events for name in config.counted_streams() if name in facts.sequences),
        "vocabulary_sizes": [
            facts.vocabularies[name].n_items for name in config.behaviours if name in facts.vocabularies
        ],
        "histories": histories,
        "colours": {name: figures.css_variable(colour) for name, colour in colours.items()},
        "stages": stage_runs(facts.metrics, stage_names),
        "sources": newest_by(facts.metrics, "source"),
        "figures": _draw(facts, config, histories, colours),
        "bands": {label: figures.css_variable(colour) for label, colour in bands.items()},
        **(_score_context(facts.scores, config) if facts.scores else {}),
    }
    if facts.ablation:
        seconds = {name: f"{made_in:,.1f} s" for name, made_in in facts.ablation.get("seconds", {}).items()}
        alone = rows_alone(facts.ablation)
        context |= {
            "ablation_columns": tables.score_columns()[:-1],
            "alone_rows": {name: (*cells, tables.Cell(seconds.get(name, ""))) for name, cells in alone.items()},
            "without_rows": rows_without(facts.ablation),
            "noise_alone": tables.noise_note(scores_alone(facts.ablation)),
            "noise_of_changes": noise_of_changes(facts.ablation),
        }
    return _environment().get_template("report.html").render(context)


def tell_verdict(scores: Scores) -> Verdict:
    """Which entry is first, and how it stands to the baseline."""
    ranking = tables.rank_entries(scores)
    first = [ranked.entry for ranked in ranking if ranked.place == 1]
    verdict = Verdict(first, ranking[0].points, result_of(scores[first[0]], SUM)["score"])
    if len(first) > 1:
        return verdict
    verdict = replace(verdict, rivals=tuple(tables.rivals(scores, first[0])))
    if BASELINE not in scores or first[0] == BASELINE:
        return verdict
    return replace(verdict, standing=tables.stand_to(scores, first[0], BASELINE))


def _score_context(scores: Scores, config: PipelineConfig) -> dict[str, Any]:
    judged, missing = tables.judged(scores), tables.tasks_without_score(scores)
    return {
        # left out and not None: the template asks whether it is defined
        **({"verdict": tell_verdict(judged)} if any(judged.values()) else {}),
        "score_columns": tables.score_columns(),
        "score_rows": tables.build_score_rows(scores),
        "detail_tasks": [tables.task_title(task) for task in PROPENSITY],
        "detail_columns": tables.DETAILS,
        "detail_rows": tables.build_detail_rows(scores),
        "ranking": tables.rank_entries(judged),
        "way_rows": tables.build_way_rows(scores),
        "sums": {entry: result_of(of_entry, SUM)["score"] for entry, of_entry in scores.items() if of_entry},
        "tasks_not_asked": [tables.task_title(task) for task in missing if task not in config.probe.tasks],
        "undefined_tasks": [tables.task_title(task) for task in missing if task in config.probe.tasks],
        "note": tables.probe_note(config.probe),
        "has_spreads": tables.has_spreads(scores),
        "noise": tables.noise_note(judged),
        "unknown_noise": tables.unknown_noise_note(judged),
    }


def _draw(
    facts: RunFacts, config: PipelineConfig, histories: Mapping[str, TrainingHistory], colours: Mapping[str, str]
) -> dict[str, Any]:
    """The figures that there are data for; several of one kind by name."""
    drawn: dict[str, Any] = {
        "absent": figures.draw_absent_shares(
            "Absent clients", facts.absent, {name: colours[name] for name in config.encoders}
        ),
        "scores": figures.draw_scores(facts.scores),
        "training": draw_training(histories, colours),
        "lengths": draw_lengths(facts.sequences, config, colours),
    }
    if facts.vocabularies:
        drawn["vocabularies"] = figures.draw_vocabularies("Vocabulary", facts.vocabularies, colours)
    if facts.profile_map:
        drawn["map"] = figures.draw_profile_map("Map of profiles", facts.profile_map)
    return drawn


def draw_training(
    histories: Mapping[str, TrainingHistory], colours: Mapping[str, str]
) -> dict[str, figures.InlineFigure]:
    """The curves of all behaviours; empty where nothing was trained."""
    if not histories:
        return {}
    kept = {name: (run.best_epoch["epoch"], run.best_epoch["validation/ndcg@10"])
            for name, run in histories.items() if run.best_epoch}  # fmt: skip
    loss = {name: thin(run.loss) for name, run in histories.items()}
    drawn = {"loss": figures.draw_curves("Training loss", loss, colours, ("step", "nats"))}
    for key, title, curve, unit in (
        ("rate", "Speed", "sequences_per_second", "sequences/s"),
        ("wait", "Wait for the feed", "wait_pct", "% of the time"),
        ("memory", "Peak memory", "peak_gib", "GiB"),
    ):
        # a figure of a third of the width has room for few points
        curves = {name: thin(run.over_progress(getattr(run, curve)), 50) for name, run in histories.items()}
        labels = ("% of the training", unit)
        drawn[key] = figures.draw_curves(title, curves, colours, labels, figures.THIRD, from_zero=key != "memory")
    ndcg = {name: run.ndcg for name, run in histories.items()}
    labels = ("epoch", "NDCG@10")
    drawn["validation"] = figures.draw_curves("Validation", ndcg, colours, labels, marks=kept, from_zero=True)
    return drawn


def draw_lengths(
    sequences: Mapping[str, SequenceFacts], config: PipelineConfig, colours: Mapping[str, str]
) -> dict[str, figures.InlineFigure]:
    """The lengths of each stream's sequences, on one scale."""
    longest = max((fact.max_length for fact in sequences.values()), default=1)
    return {
        name: figures.draw_sequence_lengths(name, fact, config.streams()[name].max_length, colours[name], longest)
        for name, fact in sequences.items()
    }


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("jobs.reporting", "templates"),
        autoescape=True,
        undefined=StrictUndefined,  # a wrong name in the template fails, and is not shown as nothing
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "count": lambda value: _shown(value, ",.0f"),
        "share": lambda value: _shown(value, ".1%"),
        "number": lambda value, digits=4: _shown(value, f",.{digits}f"),
        "day": lambda value: f"{value:%-d %B %Y}",
        "duration": _duration,
    }
    return environment


def _shown(value: float | None, spec: str) -> str:
    return tables.MISSING if value is None else format(value, spec)


def _duration(seconds: float) -> str:
    """``75`` -> ``1 min 15 s``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{seconds:.1f} s"
