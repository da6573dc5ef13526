"""The report's figures as inline SVG. Colours become CSS variables of the page, so that both its themes fit."""

import functools
import io
import re
import textwrap
from collections.abc import Callable, Iterable, Mapping
from itertools import pairwise
from typing import Concatenate, ParamSpec

import numpy as np
from markupsafe import Markup
from matplotlib import rc_context, rcdefaults, rcParams
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch
from matplotlib.path import Path
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator, PercentFormatter
from numpy.typing import NDArray

from jobs.evaluation.comparison import Scores
from jobs.reporting.facts import ProfileMap, SequenceFacts, VocabularyFacts
from jobs.reporting.history import Points
from jobs.reporting.tables import task_title, tasks_without_score
from schemas.blocks import BASELINE
from schemas.tasks import TASKS

THIRD, HALF, WIDE = 3.5, 4.9, 6.0
"""Inches of a figure that takes so much of the page's width; the page scales it."""

# no two colours are equal, not even nearly the same ones: each is replaced by a CSS variable of its own
INK, MUTED, GRID = "#101112", "#707172", "#e0e1e2"
GAIN, LOSS, REFERENCE = "#0a72b0", "#d0600a", "#909192"
SERIES: tuple[str, ...] = ("#0172b2", "#e69f01", "#019e73", "#cc79a7", "#d55e01", "#56b4e9", "#8c6d31")
SERIES += ("#332289", "#44aa9a", "#882256", "#999934", "#5c6571")
"""Okabe and Ito's palette, then Tol's muted one: legible to colour-blind readers."""
BANDS = ("#b0b1b2", "#a1c9e1", "#61a9d1", "#2181b1", "#015181", "#012141")
"""From no activity to much."""

_VARIABLES = {INK: "--ink", MUTED: "--muted", GRID: "--grid", GAIN: "--gain", LOSS: "--loss", REFERENCE: "--reference"}
_VARIABLES |= {colour: f"--series-{number}" for number, colour in enumerate(SERIES)}
_VARIABLES |= {colour: f"--band-{number}" for number, colour in enumerate(BANDS)}

NAME_LENGTH = 24
"""Characters of a line of a name beside its bar: a figure has no room for the longest entries in one."""

_BAND_FLOORS = (0, 1, 4, 16, 64, 256)
_LAYERS = 8
"""Parts of a map's sample that are drawn one over the other, so that no colour hides the others."""
_STYLE = {
    "svg.fonttype": "none",  # text stays text: it can be searched, and takes the page's font
    "text.parse_math": False,  # a $ in a name is a $
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
    "lines.linewidth": 1.6,
    "text.color": INK,
    "xtick.color": GRID,
    "ytick.color": GRID,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
}

_Inputs = ParamSpec("_Inputs")


class InlineFigure(Markup):
    """An SVG element for the page; a notebook shows it with the colours of the light theme."""

    def _repr_html_(self) -> str:
        colours = {f"var({variable})": colour for colour, variable in _VARIABLES.items()}
        coloured = re.sub(r"var\(--[\w-]+\)", lambda found: colours[found[0]], self)
        return f'<div style="background: white; max-width: 640px">{coloured}</div>'


def _inline_svg(
    draw: Callable[Concatenate[str, _Inputs], Figure],
) -> Callable[Concatenate[str, _Inputs], InlineFigure]:
    """Make a function that draws a figure return it as SVG.

    The figure's title, its first argument, tells it from others of the page; with the docstring's first line it is the
    alternative text.
    """
    about = (draw.__doc__ or draw.__name__).splitlines()[0]

    @functools.wraps(draw)
    def render(title: str, *args: _Inputs.args, **kwargs: _Inputs.kwargs) -> InlineFigure:
        # in hexadecimal: an id holds no blank, and a title may be any behaviour's name
        name = f"{draw.__name__}-{title.encode().hex()}"
        with rc_context():
            rcdefaults()  # not what a matplotlibrc of the user's says
            # without a salt ids are random, and no two pages equal
            rcParams.update({**_STYLE, "svg.hashsalt": name})
            stream = io.StringIO()
            draw(title, *args, **kwargs).savefig(stream, format="svg", metadata={"Date": None}, transparent=True)
        return InlineFigure(_for_page(stream.getvalue(), name, Markup.escape(f"{title}. {about}")))

    return render


def _for_page(svg: str, name: str, about: str) -> str:
    """One SVG element whose ids are its own, with the page's colours and nothing that reaches beyond it."""
    # matplotlib's style is of *: within a page it would hold for all of it
    svg = re.sub(r"<metadata>.*?</metadata>|<defs>\s*<style.*?</defs>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    # without a size of its own the figure takes the width that the page gives it
    svg = re.sub(r' (?:width|height)="[\d.]+pt"', "", svg, count=2)
    svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", svg)
    svg = re.sub("|".join(_VARIABLES), lambda found: f"var({_VARIABLES[found[0]]})", svg)
    svg = re.sub(r"<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)  # nothing refers to groups
    svg = re.sub(r"<[^>]+>", _shorten, re.sub(r">\s+<", "><", svg))
    return svg.replace("<svg ", f'<svg role="img" aria-label="{about}" ', 1)


def _shorten(tag: re.Match[str]) -> str:
    """A tag with its coordinates to the tenth of a point, and without line breaks."""
    rounded = re.sub(r"\d+\.\d{2,}", lambda number: f"{float(number[0]):.1f}", tag[0])
    return re.sub(r"\s+", " ", rounded)


def palette(names: Iterable[str]) -> dict[str, str]:
    """A colour for each behaviour, the same in every figure; of more than twelve names some share one."""
    return {name: SERIES[number % len(SERIES)] for number, name in enumerate(names)}


@_inline_svg
def draw_task_scores(title: str, scores: Scores, task: str) -> Figure:
    """Score of every entry on one task, as bars that start at the baseline's score."""
    entries = list(scores)
    results = {entry: of_entry[task] for entry, of_entry in scores.items() if task in of_entry}
    values = {entry: result["score"] for entry, result in results.items()}
    start = values.get(BASELINE, min(values.values()))
    shifts = {entry: value - start for entry, value in values.items()}
    spreads = {entry: result["std"] for entry, result in results.items() if "std" in result}
    ends = {entry: [results[entry]["mean"] + side * std for side in (-1, 1)] for entry, std in spreads.items()}
    # 0 is the start of the bars. Equal scores have no span, and an axis needs one
    reach = [0.0, *shifts.values(), *(end - start for of_entry in ends.values() for end in of_entry)]
    span = max(reach) - min(reach) or 1e-3
    figure, axes, lines = _named_bars(title, THIRD, entries)
    for line, entry in zip(lines, entries, strict=True):
        if entry not in results:
            continue
        value = values[entry]
        side, colour, align = (1, GAIN, "left") if value >= start else (-1, LOSS, "right")
        axes.barh(line, value - start, left=start, height=0.62, color=colour)
        axes.text(value + side * 0.03 * span, line, f"{value:.4f}", va="center", ha=align, fontsize=7.5)
        if entry in ends:
            axes.plot(ends[entry], [line + 0.36] * 2, color=INK, linewidth=0.9)
    axes.axvline(start, color=REFERENCE, linewidth=1)
    # beyond the bars there is room for their numbers
    axes.set(xlabel="score", xlim=(start + min(reach) - 0.42 * span, start + max(reach) + 0.42 * span))
    axes.xaxis.set_major_locator(MaxNLocator(4))
    return figure


def draw_scores(scores: Scores) -> dict[str, InlineFigure]:
    """``draw_task_scores`` for every task that has a score."""
    missing = tasks_without_score(scores)
    return {task: draw_task_scores(task_title(task), scores, task) for task in TASKS if task not in missing}


@_inline_svg
def draw_curves(
    title: str,
    curves: Mapping[str, Points],
    colours: Mapping[str, str],
    axis_labels: tuple[str, str],
    width: float = HALF,
    marks: Mapping[str, tuple[float, float]] | None = None,
    *,
    from_zero: bool = False,
) -> Figure:
    """One line per behaviour."""
    figure, axes = _axes(title, width, 2.6 if width > THIRD else 1.9)
    for name, points in curves.items():
        xs, ys = zip(*points, strict=True) if points else ((), ())
        # one point makes no line: it is a dot
        axes.plot(xs, ys, color=colours[name], marker="o" if len(points) == 1 else None, markersize=3.5)
    for name, mark in (marks or {}).items():
        axes.plot(*mark, "o", markersize=5.5, color=colours[name])
    axes.set(xlabel=axis_labels[0], ylabel=axis_labels[1])
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(_short))
    axes.yaxis.set_major_formatter(FuncFormatter(_short))
    if from_zero:
        axes.set_ylim(bottom=0)
    return figure


@_inline_svg
def draw_sequence_lengths(title: str, facts: SequenceFacts, kept: int, colour: str, longest: int) -> Figure:
    """Events per client before truncation, as a share of the behaviour's clients; dashed: the number kept."""
    figure, axes = _axes(title, THIRD, 1.8)
    powers, clients = zip(*facts.histogram, strict=True)
    axes.bar(powers, [n / facts.n_clients for n in clients], width=0.88, align="edge", color=colour)
    # a bar begins at its power of two; the line stands at the first length that is truncated
    axes.axvline(np.log2(kept + 1), color=INK, linewidth=1, linestyle=(0, (3, 2)))
    axes.set_xticks(range(0, 40, 3), [_short(2**power) for power in range(0, 40, 3)])
    axes.set_xlim(0, max(longest.bit_length(), 7))  # after the ticks, which widen it
    axes.set(xlabel="events of a client")
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.grid(visible=False, axis="x")
    return figure


@_inline_svg
def draw_vocabularies(title: str, facts: Mapping[str, VocabularyFacts], colours: Mapping[str, str]) -> Figure:
    """Events of an item by its rank in the vocabulary, one line per behaviour, both axes logarithmic."""
    figure, axes = _axes(title, HALF, 2.7)
    for name, fact in facts.items():
        axes.plot(*zip(*fact.curve, strict=True), color=colours[name])
    axes.set(xlabel="rank of the item", ylabel="events of the item", xscale="log", yscale="log")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(_short))
        axis.set_minor_locator(NullLocator())
    return figure


@_inline_svg
def draw_absent_shares(title: str, shares: Mapping[str, float], colours: Mapping[str, str]) -> Figure:
    """Share of the relevant clients that are not present, per block; those of no encoder are grey."""
    figure, axes, lines = _named_bars(title, HALF, shares)
    bars = axes.barh(lines, list(shares.values()), height=0.62, color=[colours.get(name, MUTED) for name in shares])
    axes.bar_label(bars, [f"{share:.1%}" for share in shares.values()], padding=3, fontsize=8)
    axes.set(xlabel="share of relevant clients", xlim=(0, 1.15))  # beyond a full bar there is room for its number
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1])
    axes.xaxis.set_major_formatter(PercentFormatter(1.0))
    return figure


@_inline_svg
def draw_profile_map(title: str, sample: ProfileMap) -> Figure:
    """Profiles on their first two principal axes, coloured by the client's number of events."""
    figure, axes = _axes(title, WIDE, 4.3)
    band = np.digitize(sample.n_events, _BAND_FLOORS) - 1
    for layer in range(_LAYERS):
        in_layer = np.arange(len(band)) % _LAYERS == layer
        for number, colour in enumerate(BANDS):
            points = sample.points[in_layer & (band == number)]
            if not len(points):
                continue
            # one path of strokes without length: a tenth of the text of as many markers
            path = Path(np.repeat(points, 2, axis=0), [Path.MOVETO, Path.LINETO] * len(points))
            path.should_simplify = False  # it would drop the strokes, which lead nowhere
            style = {"edgecolor": colour, "linewidth": 3.2, "capstyle": "round", "alpha": 0.85}
            axes.add_patch(PathPatch(path, fill=False, **style))
    axes.autoscale_view()
    across, up = sample.explained
    axes.set_xlabel(f"first principal axis ({across:.0%} of variance)")
    axes.set_ylabel(f"second principal axis ({up:.0%} of variance)")
    return figure


def map_bands(sample: ProfileMap) -> dict[str, str]:
    """What each colour of ``draw_profile_map`` stands for, of those that it uses: events -> colour."""
    ranges = [f"{floor} to {above - 1}" for floor, above in pairwise(_BAND_FLOORS)]
    labels = ["none", *ranges[1:], f"{_BAND_FLOORS[-1]} and more"]
    used = np.unique(np.digitize(sample.n_events, _BAND_FLOORS) - 1)
    return {labels[band]: BANDS[band] for band in used}


def css_variable(colour: str) -> str:
    """A figure's colour as the page names it."""
    return f"var({_VARIABLES[colour]})"


def _axes(title: str, width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots()
    axes.set_title(title)
    return figure, axes


def _named_bars(title: str, width: float, names: Iterable[str]) -> tuple[Figure, Axes, NDArray[np.float64]]:
    """A figure with a bar's place for each name, from the top, a long name in several lines; and where they are."""
    # a line breaks after a plus, or wherever it must
    labels = [textwrap.fill(name.replace("+", "+ "), NAME_LENGTH).replace("+ ", "+") for name in names]
    # a bar has room for a line and a third
    heights = np.maximum(1.0, [0.75 * (1 + label.count("\n")) for label in labels])
    lines = heights.cumsum() - heights / 2
    figure, axes = _axes(title, width, 0.6 + 0.2 * heights.sum())
    axes.set_yticks(lines, labels)
    axes.set_ylim(heights.sum() + 0.1, -0.1)
    axes.grid(visible=False, axis="y")
    return figure, axes, lines


def _short(value: float, _: object = None) -> str:
    """``1500`` -> ``1.5k``."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:.3g}"
