from conf.evaluation import ProbeSettings
from jobs.reporting.history import newest_by, thin, training_histories
from jobs.reporting.tables import (
    MISSING,
    Cell,
    Ranked,
    Standing,
    build_detail_rows,
    build_score_rows,
    format_score_table,
    noise_note,
    probe_note,
    rank_entries,
    rivals,
    stand_to,
    tasks_without_score,
    unknown_noise_note,
)

SCORES = {
    "baseline": {"conversion": {"score": 0.6, "auroc": 0.6}, "propensity_sku": {"score": 0.7, "auroc": 0.65}},
    "product_buy": {"conversion": {"score": 0.55, "auroc": 0.55}, "propensity_sku": {"score": 0.71, "auroc": 0.6}},
    "ensemble": {"conversion": {"score": 0.6, "auroc": 0.6}, "propensity_sku": {"score": 0.8, "auroc": 0.75}},
}


def test_the_best_of_each_column_is_marked_and_equals_share_the_mark():
    marked = {row.entry: [cell.is_best for cell in row.cells] for row in build_score_rows(SCORES)}
    assert marked == {
        "baseline": [False, True, False, False, False, False, False, False],
        "product_buy": [False, False, False, False, False, False, False, False],
        "ensemble": [False, True, False, True, False, False, True, True],
    }


def test_a_task_without_score_is_shown_as_missing_and_named():
    assert build_score_rows(SCORES)[0].cells[0] == Cell(MISSING)
    assert tasks_without_score(SCORES) == ["churn", "propensity_category", "propensity_price", "propensity_new_sku"]


def test_the_sum_and_the_borda_points_are_over_the_tasks_that_have_a_score():
    assert [row.cells[-2:] for row in build_score_rows(SCORES)] == [
        (Cell("1.3000"), Cell("2")),
        (Cell("1.2600"), Cell("1")),
        (Cell("1.4000", True), Cell("4", True)),
    ]


def test_details_hold_a_cell_per_propensity_task_and_figure():
    rows = build_detail_rows(SCORES)
    assert [cell.text for cell in rows[2].cells] == [MISSING] * 3 + ["0.7500"] + [MISSING] * 8


def test_entries_with_equal_points_share_a_place():
    scores = {name: {"churn": {"score": score}} for name, score in [("a", 0.5), ("b", 0.7), ("c", 0.5)]}
    assert rank_entries(scores) == [Ranked(1, "b", 2), Ranked(2, "a", 1), Ranked(2, "c", 1)]


def test_the_note_names_what_differs_from_the_challenges_probe():
    assert probe_note(ProbeSettings(repeats=3)) is None
    assert "narrower than the challenge's (hidden size 64 instead of 2048)" in probe_note(ProbeSettings(hidden_size=64))
    assert "differs from the challenge's (epochs 1 instead of 3)" in probe_note(ProbeSettings(epochs=1))


def test_the_text_table_is_aligned_and_ends_with_the_note():
    assert format_score_table(SCORES, "Mind the probe.").splitlines() == [
        "entry        churn   conversion   category      sku   price   new_sku      sum   Borda",
        "---------------------------------------------------------------------------------------",
        "baseline         -       0.6000*         -   0.7000       -         -   1.3000       2",
        "product_buy      -       0.5500          -   0.7100       -         -   1.2600       1",
        "ensemble         -       0.6000*         -   0.8000*      -         -   1.4000*      4*",
        "",
        "* best in its column",
        "Scored once: how much of a difference is noise is unknown. Repeats tell (probe.repeats, 3 or more).",
        "Mind the probe.",
    ]


def repeated(score, mean, std, n_repeats=4):
    return {"churn": {"score": score, "auroc": score, "mean": mean, "std": std, "n_repeats": n_repeats}}


NOISY = {
    "baseline": repeated(0.71, 0.70, 0.01),
    "ensemble": repeated(0.70, 0.71, 0.01),
    "page_visit": repeated(0.69, 0.69, 0.01),
}


def test_entries_that_repeats_cannot_tell_from_the_highest_mean_are_marked_together():
    # standard errors .005 each: two means differ by noise below 2 * .005 * sqrt(2) = .0141
    cells = {row.entry: row.cells[0] for row in build_score_rows(NOISY)}
    assert cells["baseline"] == Cell("0.7100", is_best=True, spread="0.7000 ± 0.0100", is_in_noise=True)
    assert cells["ensemble"] == Cell("0.7000", spread="0.7100 ± 0.0100", is_in_noise=True)
    assert cells["page_visit"] == Cell("0.6900", spread="0.6900 ± 0.0100")


def test_the_bound_on_noise_is_two_standard_errors_of_the_difference():
    for other, is_in_noise in [(0.7142, False), (0.7141, True)]:
        scores = {"a": repeated(0.7, 0.70, 0.01), "b": repeated(0.7, other, 0.01)}
        assert [row.cells[0].is_in_noise for row in build_score_rows(scores)] == [is_in_noise] * 2


def test_equal_means_without_any_spread_cannot_be_told_apart():
    scores = {"a": repeated(0.7, 0.7, 0.0), "b": repeated(0.7, 0.7, 0.0), "c": repeated(0.7, 0.6999, 0.0)}
    assert [row.cells[0].is_in_noise for row in build_score_rows(scores)] == [True, True, False]


def test_a_sums_spread_adds_the_variances_of_its_tasks():
    tasks = {"churn": repeated(0.7, 0.7, 0.03)["churn"], "conversion": repeated(0.6, 0.6, 0.04)["churn"]}
    assert build_score_rows({"a": tasks})[0].cells[6].spread == "1.3000 ± 0.0500"
    once = {**tasks, "conversion": {"score": 0.6, "auroc": 0.6}}
    assert build_score_rows({"a": once})[0].cells[6].spread is None


def test_with_repeats_the_text_shows_marks_of_noise_and_a_table_of_spreads():
    lines = format_score_table(NOISY).splitlines()
    assert [line.split()[:2] for line in lines[2:5]] == [
        ["baseline", "0.7100*~"],
        ["ensemble", "0.7000"],
        ["page_visit", "0.6900"],
    ]
    assert lines[3].split()[2] == "~"
    assert lines[7].startswith("~ over 4 seeds and row orders, its mean cannot be told from the highest")
    assert lines[-3:][1].split()[:4] == ["ensemble", "0.7100", "±", "0.0100"]
    assert noise_note(SCORES) is None
    assert unknown_noise_note(NOISY) is None
    assert unknown_noise_note({"baseline": SCORES["baseline"]}) is None


def test_one_entry_stands_above_another_only_by_more_than_noise():
    assert stand_to(NOISY, "ensemble", "baseline") == Standing(level=1)
    assert stand_to(NOISY, "ensemble", "page_visit") == Standing(above=1)
    assert stand_to(NOISY, "page_visit", "ensemble") == Standing(below=1)
    # of results that were not repeated, the scores count
    assert stand_to(SCORES, "ensemble", "product_buy") == Standing(above=2)
    assert stand_to(SCORES, "ensemble", "baseline") == Standing(above=1, level=1)


def test_rivals_are_those_whose_sum_is_higher_or_within_the_noise():
    assert rivals(NOISY, "ensemble") == ["baseline"]
    assert rivals(NOISY, "page_visit") == ["baseline", "ensemble"]
    assert rivals(SCORES, "product_buy") == []
    other_tasks = {**NOISY, "more": {**NOISY["ensemble"], "conversion": NOISY["ensemble"]["churn"]}}
    assert rivals(other_tasks, "ensemble") == ["baseline"]


def test_of_several_runs_of_a_stage_the_newest_counts():
    lines = [
        {"stage": "ingest", "stage/seconds": 9.0},
        {"stage": "split", "stage/seconds": 1.0},
        {"stage": "ingest", "stage/seconds": 3.0},
        {"table": "windows", "table/rows": 1},
    ]
    assert newest_by(lines, "stage") == {"split": lines[1], "ingest": lines[2]}


def test_training_shows_the_newest_run_of_each_behaviour():
    def step(run: str, step: int, loss: float) -> dict:
        return {"behaviour": "product_buy", "run": run, "epoch": 1, "step": step, "train/loss": loss}

    def epoch(run: str, epoch: int, ndcg: float) -> dict:
        return {"behaviour": "product_buy", "run": run, "epoch": epoch, "step": 20, "validation/ndcg@10": ndcg}

    lines = [step("old", 30, 9.0), epoch("old", 3, 0.9), step("new", 10, 5.0), step("new", 20, 4.0)]
    lines += [epoch("new", 1, 0.3), epoch("new", 2, 0.2), {"stage": "train", "stage/seconds": 5.0}]
    history = training_histories(lines, ["product_buy", "page_visit"])
    assert list(history) == ["product_buy"]
    assert history["product_buy"].loss == [(10, 5.0), (20, 4.0)]
    assert history["product_buy"].ndcg == [(1, 0.3), (2, 0.2)]
    assert history["product_buy"].best_epoch["epoch"] == 1


def test_a_long_curve_is_thinned_to_means_of_neighbours():
    assert thin([(1, 2.0), (2, 4.0), (3, 6.0), (4, 8.0), (5, 1.0)], at_most=3) == [(1.5, 3.0), (3.5, 7.0), (5, 1.0)]
    assert thin([]) == []
