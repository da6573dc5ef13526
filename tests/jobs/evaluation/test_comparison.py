"""Paired tests of repeats, against published quantiles and against what chance does."""

import numpy as np
import pytest

from jobs.evaluation.comparison import compare_entries, paired_p_value, reject_by_holm, result_of, t_tail


@pytest.mark.parametrize(
    ("n_freedom", "at_5_percent", "at_1_percent"),
    [
        (1, 12.706, 63.657),
        (2, 4.303, 9.925),
        (3, 3.182, 5.841),
        (4, 2.776, 4.604),
        (9, 2.262, 3.250),
        (30, 2.042, 2.750),
    ],
)
def test_the_tail_of_student_is_that_of_published_tables(
    n_freedom: int, at_5_percent: float, at_1_percent: float
) -> None:
    assert t_tail(at_5_percent, n_freedom) == pytest.approx(0.05, abs=1e-4)
    assert t_tail(-at_1_percent, n_freedom) == pytest.approx(0.01, abs=1e-4)
    assert t_tail(0.0, n_freedom) == 1.0


def test_differences_are_paired_and_their_order_does_not_matter() -> None:
    first, second = [0.51, 0.62, 0.43], [0.50, 0.60, 0.42]
    # mean .0133, standard error .0033: t = 4 with 2 degrees of freedom
    assert paired_p_value(first, second) == pytest.approx(t_tail(4.0, 2))
    assert paired_p_value(second, first) == pytest.approx(t_tail(4.0, 2))
    assert paired_p_value(first, second[::-1]) > 0.5


def test_equal_differences_are_certain_only_as_far_as_rounding_lets_them() -> None:
    assert paired_p_value([0.6, 0.7], [0.6, 0.7], 1e-5) == 1.0
    assert paired_p_value([0.6001, 0.7001], [0.6, 0.7], 1e-4) > 0.3
    assert paired_p_value([0.7, 0.8], [0.6, 0.7], 1e-4) < 0.001


def test_holm_rejects_from_the_smallest_on_until_one_stands() -> None:
    p_values = {"a": 0.02, "b": 0.012, "c": 0.3, "d": 0.04}
    assert reject_by_holm(p_values) == {"a": False, "b": True, "c": False, "d": False}
    # the third alone would fall below .05 / 2
    assert reject_by_holm({"a": 0.01, "b": 0.03, "c": 0.024}) == {"a": True, "c": True, "b": True}
    assert reject_by_holm({}) == {}


def of_repeats(*tasks: list[float]) -> dict[str, dict[str, object]]:
    names = ("churn", "conversion", "propensity_sku", "propensity_price")
    return {name: {"score": scores[0], "repeats": scores} for name, scores in zip(names, tasks, strict=False)}


def test_equal_entries_are_told_apart_in_no_more_than_one_of_twenty_tables() -> None:
    generator = np.random.default_rng(0)
    n_wrong = 0
    for _ in range(400):
        rows = generator.normal(0.7, 0.01, (5, 4, 3))  # entries, tasks, repeats
        scores = {f"entry {number}": of_repeats(*tasks.tolist()) for number, tasks in enumerate(rows)}
        comparisons = compare_entries(scores)
        assert len(comparisons) == 10 * 5
        n_wrong += any(comparisons.outcomes.values())
    assert n_wrong <= 20


def test_a_sum_is_compared_by_its_sums_and_only_over_the_same_tasks() -> None:
    scores = {
        "a": of_repeats([0.7, 0.6], [0.5, 0.6]),
        "b": of_repeats([0.2, 0.1], [0.5, 0.6]),
        "c": of_repeats([0.7, 0.6]),
        "once": {"churn": {"score": 0.9}},
    }
    assert result_of(scores["a"], "sum")["repeats"] == pytest.approx([1.2, 1.2])
    comparisons = compare_entries(scores)
    assert sorted(comparisons.outcomes) == [
        ("churn", "a", "b"), ("churn", "a", "c"), ("churn", "b", "c"), ("conversion", "a", "b"), ("sum", "a", "b"),
    ]  # fmt: skip
    assert comparisons.tell_apart("sum", "b", "a") is True
    assert comparisons.tell_apart("churn", "c", "a") is False
    assert comparisons.tell_apart("churn", "once", "a") is None
    assert len(compare_entries(scores, [("a", "b")])) == 3


def test_holm_rejects_nothing_after_the_first_that_stands() -> None:
    # .04 is below .05 / 1, but .03 is above .05 / 2
    assert reject_by_holm({"a": 0.03, "b": 0.04}) == {"a": False, "b": False}


@pytest.mark.parametrize(("n_repeats", "n_pairs", "is_apart"), [(3, 1, False), (4, 4, True)])
def test_the_rounding_of_a_sum_is_that_of_its_four_tasks(n_repeats: int, n_pairs: int, is_apart: bool) -> None:
    # one unit of the last place in each task: t is 8.5 of a level of 9.9, and 9.8 of 9.5
    scores = {name: of_repeats(*[[0.6] * n_repeats] * 4) for name in "bcde"}
    scores["a"] = of_repeats(*[[0.6001] * n_repeats] * 4)
    pairs = [("a", "b"), ("c", "d"), ("c", "e"), ("d", "e")][:n_pairs]
    assert compare_entries(scores, pairs).tell_apart("sum", "a", "b") is is_apart
