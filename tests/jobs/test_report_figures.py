import re

import numpy as np
import pytest

from conf.settings import BehaviourSettings
from jobs.reporting.facts import ProfileMap, SequenceFacts, VocabularyFacts, principal_plane
from jobs.reporting.figures import (
    draw_absent_shares,
    draw_profile_map,
    draw_scores,
    draw_sequence_lengths,
    draw_training,
    draw_vocabularies,
)
from jobs.reporting.history import TrainingHistory

SCORES = {"baseline": {"churn": {"score": 0.6}}, "ensemble": {"churn": {"score": 0.7123}}}


def test_a_figure_is_one_svg_that_reaches_for_nothing_outside_it():
    svg = draw_scores(SCORES)
    assert svg.startswith('<svg role="img" aria-label="Score of every entry')
    assert "0.7123" in svg
    assert set(re.findall(r"https?://[^\"'<]+", svg)) == {"http://www.w3.org/1999/xlink", "http://www.w3.org/2000/svg"}
    assert "<image" not in svg


def test_equal_inputs_draw_equal_figures():
    assert draw_scores(SCORES) == draw_scores(SCORES)


def test_two_figures_share_no_id():
    first, second = (
        re.findall(r'\bid="([^"]+)"', svg) for svg in (draw_scores(SCORES), draw_absent_shares({"b": 0.5}))
    )
    assert len(set(first)) == len(first)
    assert not set(first) & set(second)


def test_references_inside_a_figure_point_into_it():
    svg = draw_absent_shares({"product_buy": 0.25})
    assert set(re.findall(r'(?:href="#|url\(#)([^")]+)', svg)) <= set(re.findall(r'\bid="([^"]+)"', svg))


def test_names_are_escaped_and_never_read_as_formulas():
    assert "$&lt;b&gt;$" in draw_absent_shares({"$<b>$": 0.25})


def test_colours_are_variables_of_the_page():
    assert set(re.findall(r"#[0-9a-f]{6}\b", draw_absent_shares({"product_buy": 0.25}))) == set()


@pytest.mark.parametrize("loss", [[], [(50, 4.0)]])
def test_a_training_without_an_interval_or_a_validation_still_draws(loss):
    assert "page_visit" in draw_training({"page_visit": TrainingHistory(loss, [], None, None)})


def test_lengths_and_vocabularies_name_every_behaviour():
    lengths = {"page_visit": SequenceFacts(3, 9, 2, 5, 1, [(0, 1), (2, 2)])}
    assert "page_visit" in draw_sequence_lengths(lengths, {"page_visit": BehaviourSettings("url")})
    assert "page_visit" in draw_vocabularies({"page_visit": VocabularyFacts(2, [(1, 7), (2, 3)])})


def test_the_map_has_a_colour_per_band_of_activity():
    sample = ProfileMap(np.array([[0.0, 0.0], [1.0, 1.0], [2.0, 0.5]]), (0.75, 0.25), np.array([0, 3, 300]))
    svg = draw_profile_map(sample)
    assert set(re.findall(r"--band-\d", svg)) == {"--band-0", "--band-1", "--band-5"}
    assert "first principal axis (75% of variance)" in svg


def test_the_principal_plane_keeps_the_widest_directions_first():
    vectors = np.array([[0.0, -3.0, 0.0], [0.0, 3.0, 0.0], [1.0, 0.0, 0.0], [-1.0, 0.0, 0.0]])
    points, explained = principal_plane(vectors)
    np.testing.assert_allclose(points, [[-3, 0], [3, 0], [0, 1], [0, -1]], atol=1e-12)
    assert explained == pytest.approx((0.9, 0.1))
