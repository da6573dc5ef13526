import re
from importlib import resources

import numpy as np
import pytest

from jobs.reporting.facts import ProfileMap, SequenceFacts, VocabularyFacts, principal_plane
from jobs.reporting.figures import (
    css_variable,
    draw_absent_shares,
    draw_curves,
    draw_profile_map,
    draw_scores,
    draw_sequence_lengths,
    draw_task_scores,
    draw_vocabularies,
    map_bands,
    palette,
)

SCORES = {"baseline": {"churn": {"score": 0.6}}, "ensemble": {"churn": {"score": 0.7123}}}
MAP = ProfileMap(np.array([[0.0, 0.0], [1.0, 1.0], [2.0, 0.5]]), (0.75, 0.25), np.array([0, 3, 300]))


def draw_churn(**of_ensemble: float) -> str:
    scores = {**SCORES, "ensemble": {"churn": {"score": 0.7123, **of_ensemble}}}
    return draw_task_scores("churn", scores, "churn")


def draw_absent(name: str = "product_buy", title: str = "absent") -> str:
    return draw_absent_shares(title, {name: 0.25}, palette([name]))


def test_a_figure_is_one_svg_that_reaches_for_nothing_outside_it():
    svg = draw_churn()
    assert svg.startswith('<svg role="img" aria-label="churn. Score of every entry')
    assert "0.7123" in svg
    assert set(re.findall(r"https?://[^\"'<]+", svg)) == {"http://www.w3.org/1999/xlink", "http://www.w3.org/2000/svg"}
    assert "<image" not in svg


def test_only_tasks_with_a_score_have_a_figure():
    assert list(draw_scores(SCORES)) == ["churn"]
    assert draw_scores({"baseline": {}}) == {}


def test_an_entry_without_a_score_keeps_its_line_and_the_lowest_is_the_start_without_a_baseline():
    svg = draw_task_scores("churn", {"a": {}, "b": {"churn": {"score": 0.5}}, "c": {"churn": {"score": 0.6}}}, "churn")
    assert all(f">{name}</text>" in svg for name in "abc")
    assert svg.count("fill: var(--gain)") == 2


def test_a_spread_draws_a_line_below_its_bar():
    ink = "stroke: var(--ink)"
    assert draw_churn(mean=0.71, std=0.01).count(ink) == draw_churn().count(ink) + 1


def test_a_spread_wider_than_the_bars_is_within_the_axes():
    assert float(max(re.findall(r">(0\.\d+)</text>", draw_churn(mean=0.71, std=0.2)))) >= 0.8


def test_twelve_names_have_colours_of_their_own_in_both_themes():
    page = (resources.files("jobs.reporting.templates") / "report.html").read_text()
    variables = {css_variable(colour) for colour in palette("abcdefghijkl").values()}
    assert len(variables) == 12
    assert all(page.count(f"{variable[4:-1]}: #") == 2 for variable in variables)


@pytest.mark.parametrize("name", ["+".join(["ensemble", "counters"] * 9), "a" * 120], ids=["profile", "one word"])
@pytest.mark.filterwarnings("error")
def test_the_longest_name_leaves_room_for_its_bar(name):
    for svg in draw_task_scores("churn", {name: {"churn": {"score": 0.5}}}, "churn"), draw_absent(name):
        assert "".join(re.findall(r"<text[^>]*>([^<]*)</text>", svg)).replace(" ", "").find(name) >= 0


def test_equal_inputs_draw_equal_figures():
    assert draw_churn() == draw_churn()


def test_two_figures_share_no_id():
    first, second = (re.findall(r'\bid="([^"]+)"', draw_absent(title=title)) for title in ("one", "two"))
    assert len(set(first)) == len(first) > 0
    assert not set(first) & set(second)


def test_references_inside_a_figure_point_into_it():
    svg = draw_absent()
    references = set(re.findall(r'(?:href="#|url\(#)([^")]+)', svg))
    assert references
    assert references - set(re.findall(r'\bid="([^"]+)"', svg)) == set()


def test_names_are_escaped_and_never_read_as_formulas():
    svg = draw_absent("$<b>$", '"<i>"')
    assert "$&lt;b&gt;$" in svg
    assert 'aria-label="&#34;&lt;i&gt;&#34;. Share' in svg


def test_colours_are_variables_of_the_page_and_colours_again_in_a_notebook():
    svg = draw_absent()
    assert set(re.findall(r"#[0-9a-f]{6}\b", svg)) == set()
    assert "var(" not in svg._repr_html_()


def test_coordinates_are_rounded_and_shown_numbers_are_not():
    svg = draw_churn()
    tags, texts = re.findall(r"<[^>]+>", svg), re.findall(r">([^<>]+)</text>", svg)
    assert "0.7123" in texts
    assert not [tag for tag in tags if re.search(r"\d\.\d{2}", tag)]


@pytest.mark.parametrize("points", [[], [(50, 4.0)], [(50, 4.0), (100, 3.0)]])
def test_a_curve_of_any_length_draws(points):
    svg = draw_curves("Loss", {"page_visit": points}, palette(["page_visit"]), ("step", "nats"))
    assert ("var(--series-0)" in svg) == (len(points) > 0)


def test_a_behaviour_has_its_colour_by_its_place_among_all():
    colours = palette(["product_buy", "page_visit"])
    svg = draw_vocabularies("v", {"page_visit": VocabularyFacts(2, [(1, 7), (2, 3)])}, colours)
    assert "--series-1" in svg
    assert "--series-0" not in svg


def test_lengths_name_their_behaviour():
    facts = SequenceFacts(3, 9, 2, 5, 1, [(0, 1), (2, 2)])
    assert ">page_visit</text>" in draw_sequence_lengths("page_visit", facts, 64, palette(["a"])["a"], 5)


def test_the_map_and_its_legend_have_a_colour_per_band_of_activity():
    svg = draw_profile_map("map", MAP)
    assert set(re.findall(r"--band-\d", svg)) == {"--band-0", "--band-1", "--band-5"}
    assert list(map_bands(MAP)) == ["none", "1 to 3", "256 and more"]
    assert "first principal axis (75% of variance)" in svg


def test_the_map_draws_a_dot_for_every_client():
    paths = re.findall(r'<path d="([^"]*)"[^>]*stroke: var\(--band', draw_profile_map("map", MAP))
    assert sum(path.count("M") for path in paths) == 3
    assert all(re.fullmatch(r"(M (\S+ \S+) L \2 ?)+", path) for path in paths)


def test_the_principal_plane_keeps_the_widest_directions_first():
    vectors = np.array([[0.0, -3.0, 0.0], [0.0, 3.0, 0.0], [1.0, 0.0, 0.0], [-1.0, 0.0, 0.0]])
    points, explained = principal_plane(vectors)
    np.testing.assert_allclose(points, [[-3, 0], [3, 0], [0, 1], [0, -1]], atol=1e-12)
    assert explained == pytest.approx((0.9, 0.1))
