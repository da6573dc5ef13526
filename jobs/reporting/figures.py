"""The report's figures as inline SVG. Colours become CSS variables of the page, so that both its themes fit."""

import functools
import io
import re
from collections.abc import Callable, Mapping
from typing import Any, ParamSpec

import numpy as np
from markupsafe import Markup
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator, PercentFormatter

from conf.settings import BehaviourSettings
from jobs.reporting.facts import ProfileMap, SequenceFacts, VocabularyFacts
from jobs.reporting.history import Points, TrainingHistory
from jobs.reporting.tables import Scores, task_score, task_title
from schemas.tasks import TASKS

WIDTH = 10.4
"""Inches of a full-width figure; the page scales it."""

INK, MUTED, GRID = "#101112", "#707172", "#e0e1e2"
GAIN, LOSS, REFERENCE = "#0a72b0", "#d0600a", "#909192"
SERIES = ("#0172b2", "#e69f01", "#019e73", "#cc79a7", "#d55e01", "#56b4e9", "#8c6d31")
"""Okabe and Ito's palette, legible to colour-blind readers."""
BANDS = ("#b0b1b2", "#a1c9e1", "#61a9d1", "#2181b1", "#015181", "#012141")
"""From no activity to much."""

_VARIABLES = {INK: "--ink", MUTED: "--muted", GRID: "--grid", GAIN: "--gain", LOSS: "--loss", REFERENCE: "--reference"}
_VARIABLES |= {colour: f"--series-{place}" for place, colour in enumerate(SERIES)}
_VARIABLES |= {colour: f"--band-{place}" for place, colour in enumerate(BANDS)}

_BAND_FLOORS = (0, 1, 4, 16, 64, 256)
_STYLE = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 8.5,
    "axes.titlesize": 9,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 8.5,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": GRID,
    "axes.facecolor": "none",
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.facecolor": "none",
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "text.color": INK,
    "xtick.color": GRID,
    "ytick.color": GRID,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
}

_Inputs = ParamSpec("_Inputs")


def _inline_svg(draw: Callable[_Inputs, Figure]) -> Callable[_Inputs, Markup]:
    """Make a function that draws a figure return it as SVG; its docstring's first line is the alternative text."""
    about = (draw.__doc__ or draw.__name__).splitlines()[0]

    @functools.wraps(draw)
    def render(*args: _Inputs.args, **kwargs: _Inputs.kwargs) -> Markup:
        with rc_context({**_STYLE, "svg.hashsalt": draw.__name__}):
            stream = io.StringIO()
            draw(*args, **kwargs).savefig(stream, format="svg", metadata={"Date": None}, transparent=True)
        return Markup(_for_page(stream.getvalue(), draw.__name__, about))

    return render


def _for_page(svg: str, name: str, about: str) -> str:
    """One SVG element whose ids are its own, with the page's colours and nothing that reaches beyond it."""
    svg = re.sub(r"<metadata>.*?</metadata>|<defs>\s*<style.*?</defs>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    svg = re.sub(r' (?:width|height)="[\d.]+pt"', "", svg, count=2)
    svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", svg)
    svg = re.sub("|".join(_VARIABLES), lambda found: f"var({_VARIABLES[found[0]]})", svg)
    return svg.replace("<svg ", f'<svg role="img" aria-label="{about}" ', 1)


@_inline_svg
def draw_scores(scores: Scores, baseline: str = "baseline") -> Figure:
    """Score of every entry on each task, as bars that start at the baseline's score."""
    entries = list(scores)
    shown = [task for task in TASKS if any(task_score(scores, entry, task) is not None for entry in entries)]
    n_rows = -(-len(shown) // 3)
    figure, panels = _panels(n_rows, 3, 0.65 + 0.21 * len(entries), sharey=True)
    for task, axes in zip(shown, panels, strict=False):
        values = [task_score(scores, entry, task) for entry in entries]
        known = [value for value in values if value is not None]
        reference = values[entries.index(baseline)] if baseline in entries else None
        start = min(known) if reference is None else reference
        _bars_from(axes, values, start)
        axes.set_title(task_title(task))
        axes.set_yticks(range(len(entries)), entries)
        axes.set_ylim(len(entries) - 0.4, -0.6)
    for axes in panels[len(shown) :]:
        axes.set_visible(False)
    for axes in panels[max(len(shown) - 3, 0) : len(shown)]:
        axes.set_xlabel("score")
    return figure


def _bars_from(axes: Axes, values: list[float | None], start: float) -> None:
    known = [value for value in values if value is not None]
    span = max(max(known) - min(known), 1e-3)
    for place, value in enumerate(values):
        if value is None:
            continue
        axes.barh(place, value - start, left=start, height=0.62, color=GAIN if value >= start else LOSS)
        side = 1 if value >= start else -1
        align = "left" if side > 0 else "right"
        axes.text(value + side * 0.03 * span, place, f"{value:.4f}", va="center", ha=align, fontsize=7.5)
    axes.axvline(start, color=REFERENCE, linewidth=1)
    axes.set_xlim(min(known) - 0.42 * span, max(known) + 0.42 * span)
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.grid(visible=False, axis="y")


@_inline_svg
def draw_training(histories: Mapping[str, TrainingHistory]) -> Figure:
    """Training loss by step and NDCG@10 of held-out clients by epoch, one line per behaviour."""
    figure, (losses, ndcgs) = _panels(1, 2, 2.9)
    _curves(losses, {name: history.loss for name, history in histories.items()})
    _curves(ndcgs, {name: history.ndcg for name, history in histories.items()}, marker="o", markersize=3.5)
    losses.set(title="Training loss", xlabel="step", ylabel="cross-entropy, nats")
    ndcgs.set(title="Validation", xlabel="epoch", ylabel="NDCG@10")
    losses.xaxis.set_major_formatter(FuncFormatter(_short))
    ndcgs.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    for axes in (losses, ndcgs):
        axes.set_ylim(bottom=0)
    _legend(figure, losses)
    return figure


@_inline_svg
def draw_sequence_lengths(facts: Mapping[str, SequenceFacts], behaviours: Mapping[str, BehaviourSettings]) -> Figure:
    """Events per client before truncation, one panel per behaviour, as a share of its clients."""
    n_columns = min(max(len(facts), 3), 5)
    figure, panels = _panels(-(-len(facts) // n_columns), n_columns, 2.1, sharey=True, sharex=True)
    for place, (name, fact) in enumerate(facts.items()):
        axes = panels[place]
        powers, clients = zip(*fact.histogram, strict=True)
        axes.bar(powers, [n / fact.n_clients for n in clients], width=0.88, align="edge", color=_colour(place))
        axes.axvline(np.log2(behaviours[name].max_sequence_length + 1), color=INK, linewidth=1, linestyle=(0, (3, 2)))
        axes.set(title=name, xlabel="events of a client")
        axes.set_xticks(range(0, 40, 3), [_short(2**power) for power in range(0, 40, 3)])
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        axes.grid(visible=False, axis="x")
    top = max(fact.histogram[-1][0] for fact in facts.values()) + 1
    panels[0].set_xlim(0, max(top, 7))
    panels[0].set_ylabel("share of clients")
    for axes in panels[len(facts) :]:
        axes.set_visible(False)
    return figure


@_inline_svg
def draw_vocabularies(facts: Mapping[str, VocabularyFacts]) -> Figure:
    """Events of an item by its rank in the vocabulary, one line per behaviour, both axes logarithmic."""
    figure, (axes,) = _panels(1, 1, 2.9, width=WIDTH * 0.56)
    _curves(axes, {name: [(float(x), float(y)) for x, y in fact.curve] for name, fact in facts.items()})
    axes.set(xlabel="rank of the item", ylabel="events of the item", xscale="log", yscale="log")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(_short))
        axis.set_minor_locator(NullLocator())
    axes.legend(fontsize=8)
    return figure


@_inline_svg
def draw_absent_shares(shares: Mapping[str, float]) -> Figure:
    """Share of the relevant clients without an event, per behaviour."""
    figure, (axes,) = _panels(1, 1, 2.9, width=WIDTH * 0.44)
    _row_bars(axes, shares, [f"{share:.1%}" for share in shares.values()])
    axes.set(xlabel="share of relevant clients", xlim=(0, 1.15))
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1])
    axes.xaxis.set_major_formatter(PercentFormatter(1.0))
    return figure


@_inline_svg
def draw_stage_times(seconds: Mapping[str, float]) -> Figure:
    """Seconds that each stage took."""
    figure, (axes,) = _panels(1, 1, 0.7 + 0.22 * len(seconds))
    _row_bars(axes, seconds, [f"{value:,.1f} s" for value in seconds.values()])
    axes.set(xlabel="seconds", xlim=(0, max(seconds.values()) * 1.12))
    axes.xaxis.set_major_formatter(FuncFormatter(_short))
    return figure


@_inline_svg
def draw_profile_map(sample: ProfileMap) -> Figure:
    """Profiles on their first two principal axes, coloured by the client's number of events."""
    figure, (axes,) = _panels(1, 1, 4.6, width=WIDTH * 0.72)
    band = np.digitize(sample.n_events, _BAND_FLOORS) - 1
    for place, floor in enumerate(_BAND_FLOORS):
        points = sample.points[band == place]
        if len(points):
            label = _band_label(floor, _BAND_FLOORS[place + 1 :])
            axes.plot(*points.T, "o", markersize=3.2, alpha=0.8, color=BANDS[place], markeredgewidth=0, label=label)
    across, up = sample.explained
    axes.set_xlabel(f"first principal axis ({across:.0%} of variance)")
    axes.set_ylabel(f"second principal axis ({up:.0%} of variance)")
    axes.legend(
        title="events", loc="center left", bbox_to_anchor=(1.01, 0.5), markerscale=1.8, alignment="left", fontsize=8
    )
    return figure


def _band_label(floor: int, above: tuple[int, ...]) -> str:
    if floor == 0:
        return "none"
    return f"{floor} to {above[0] - 1}" if above else f"{floor} and more"


def _panels(
    n_rows: int, n_columns: int, row_height: float, width: float = WIDTH, **sharing: Any
) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(width, row_height * n_rows), layout="constrained")
    grid = figure.subplots(n_rows, n_columns, squeeze=False, **sharing)
    return figure, list(grid.flat)


def _curves(axes: Axes, curves: Mapping[str, Points], **style: Any) -> None:
    for place, (name, points) in enumerate(curves.items()):
        xs, ys = zip(*points, strict=True) if points else ((), ())
        axes.plot(xs, ys, color=_colour(place), label=name, **style)


def _legend(figure: Figure, axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels) or 1, fontsize=8)


def _row_bars(axes: Axes, values: Mapping[str, float], labels: list[str]) -> None:
    places = range(len(values))
    bars = axes.barh(places, list(values.values()), height=0.62, color=GAIN)
    axes.bar_label(bars, labels, padding=3, fontsize=8)
    axes.set_yticks(places, list(values))
    axes.set_ylim(len(values) - 0.4, -0.6)
    axes.grid(visible=False, axis="y")


def _colour(place: int) -> str:
    return SERIES[place % len(SERIES)]


def _short(value: float, _: object = None) -> str:
    """``1500`` -> ``1.5k``."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:.3g}"
