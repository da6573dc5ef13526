import tracemalloc
from collections.abc import Iterator
from statistics import fmean, stdev

from conf.evaluation import ProbeSettings
from jobs.reporting.history import newest_by, split_training, thin
from jobs.reporting.tables import (
    MISSING,
    Cell,
    Ranked,
    Standing,
    build_detail_rows,
    build_score_rows,
    build_way_rows,
    format_score_table,
    judged,
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
    marked = {entry: [cell.is_best for cell in cells] for entry, cells in build_score_rows(SCORES).items()}
    assert marked == {
        "baseline": [False, True, False, False, False, False, False, False],
        "product_buy": [False, False, False, False, False, False, False, False],
        "ensemble": [False, True, False, True, False, False, True, True],
    }


def test_a_task_without_score_is_shown_as_missing_and_named():
    assert build_score_rows(SCORES)["baseline"][0] == Cell(MISSING)
    assert tasks_without_score(SCORES) == ["churn", "propensity_category", "propensity_price", "propensity_new_sku"]


def test_entries_without_any_score_have_a_row_of_missing_ones():
    rows = build_score_rows({"baseline": {}, "ensemble": {}})
    assert [[cell.text for cell in cells] for cells in rows.values()] == [[MISSING] * 7 + ["0"]] * 2
    assert "ensemble" in format_score_table({"baseline": {}, "ensemble": {}})


def test_the_sum_and_the_borda_points_are_over_the_tasks_that_have_a_score():
    assert [cells[-2:] for cells in build_score_rows(SCORES).values()] == [
        (Cell("1.3000"), Cell("2")),
        (Cell("1.2600"), Cell("1")),
        (Cell("1.4000", True), Cell("4", True)),
    ]


def test_details_hold_a_cell_per_propensity_task_and_figure():
    rows = build_detail_rows(SCORES)
    assert [cell.text for cell in rows["ensemble"]] == [MISSING] * 3 + ["0.7500"] + [MISSING] * 8


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


def repeated(*repeats):
    mean, std = round(fmean(repeats), 4), round(stdev(repeats), 4)
    spread = {"mean": mean, "std": std, "n_repeats": len(repeats), "repeats": list(repeats)}
    return {"churn": {"score": repeats[0], "auroc": repeats[0], **spread}}


# all move alike from repeat to repeat, but for page_visit, which goes its own way
PAIRED = {
    "baseline": repeated(0.70, 0.74, 0.66, 0.70),
    "ensemble": repeated(0.71, 0.7502, 0.6698, 0.71),
    "page_visit": repeated(0.72, 0.65, 0.75, 0.68),
}


def test_entries_that_move_alike_are_told_apart_by_less_than_their_spread():
    cells = {entry: cells[0] for entry, cells in build_score_rows(PAIRED).items()}
    # .01 above the baseline in each repeat, and half as much in page_visit's favour or against it
    assert cells["baseline"] == Cell("0.7000", spread="0.7000 ± 0.0327")
    assert cells["ensemble"] == Cell("0.7100", spread="0.7100 ± 0.0328", is_in_noise=True)
    assert cells["page_visit"] == Cell("0.7200", is_best=True, spread="0.7000 ± 0.0440", is_in_noise=True)


def test_equal_repeats_cannot_be_told_apart():
    scores = {"a": repeated(0.7, 0.7, 0.7), "b": repeated(0.7, 0.7, 0.7), "c": repeated(0.69, 0.69, 0.69)}
    assert [cells[0].is_in_noise for cells in build_score_rows(scores).values()] == [True, True, False]


def test_a_sums_spread_is_that_of_the_sums_of_each_repeat():
    tasks = {"churn": repeated(0.7, 0.8)["churn"], "conversion": repeated(0.6, 0.5)["churn"]}
    assert build_score_rows({"a": tasks})["a"][6].spread == "1.3000 ± 0.0000"
    once = {**tasks, "conversion": {"score": 0.6, "auroc": 0.6}}
    assert build_score_rows({"a": once})["a"][6].spread is None


def test_with_repeats_the_text_shows_marks_of_noise_and_a_table_of_spreads():
    lines = format_score_table(PAIRED).splitlines()
    assert [line.split()[:3] for line in lines[2:5]] == [
        ["baseline", "0.7000", "-"],
        ["ensemble", "0.7100", "~"],
        ["page_visit", "0.7200*~", "-"],
    ]
    # three pairs of entries, on churn and on the sum
    assert lines[7] == (
        "~ the repeats, which differ in seed and row order, do not tell it from the highest mean of the column "
        "(paired t-tests, 6 in this table, Holm correction, level 5%)."
    )
    assert lines[-3:][1].split()[:4] == ["ensemble", "0.7100", "±", "0.0328"]
    assert noise_note(SCORES) is None
    assert unknown_noise_note(PAIRED) is None
    assert unknown_noise_note({"baseline": SCORES["baseline"]}) is None


def test_scores_of_a_version_that_kept_no_repeats_are_shown_without_marks():
    old = {
        entry: {"churn": {key: value for key, value in tasks["churn"].items() if key != "repeats"}}
        for entry, tasks in PAIRED.items()
    }
    lines = format_score_table(old).splitlines()
    assert "~" not in "".join(lines)
    assert lines[-1].startswith("How much of a difference is noise is unknown: an earlier version wrote these scores")
    assert lines[-3].split()[:4] == ["ensemble", "0.7100", "±", "0.0328"]
    assert stand_to(old, "ensemble", "baseline") == Standing(above=1)
    assert rivals(old, "ensemble") == []


def test_one_entry_stands_above_another_only_where_repeats_tell_them_apart():
    assert stand_to(PAIRED, "ensemble", "baseline") == Standing(above=1)
    assert stand_to(PAIRED, "baseline", "ensemble") == Standing(below=1)
    assert stand_to(PAIRED, "ensemble", "page_visit") == Standing(level=1)
    # of results that were not repeated, the scores count
    assert stand_to(SCORES, "ensemble", "product_buy") == Standing(above=2)
    assert stand_to(SCORES, "ensemble", "baseline") == Standing(above=1, level=1)


def test_rivals_are_those_whose_sum_is_higher_or_within_the_noise():
    assert rivals(PAIRED, "ensemble") == ["page_visit"]
    assert rivals(PAIRED, "baseline") == ["ensemble", "page_visit"]
    assert rivals(SCORES, "product_buy") == []
    other_tasks = {**PAIRED, "more": {**PAIRED["ensemble"], "conversion": PAIRED["ensemble"]["churn"]}}
    assert rivals(other_tasks, "ensemble") == ["page_visit"]


def test_of_several_runs_of_a_stage_the_newest_counts():
    lines = [
        {"stage": "ingest", "stage/seconds": 9.0},
        {"stage": "split", "stage/seconds": 1.0},
        {"stage": "ingest", "stage/seconds": 3.0},
        {"table": "windows", "table/rows": 1},
    ]
    assert newest_by(lines, "stage") == {"split": lines[1], "ingest": lines[2]}


def begin(step: int, epoch: int = 1) -> dict:
    return {"behaviour": "product_buy", "epoch": epoch, "step": step, "begins_at": step}


def interval(step: int, loss: float, epoch: int = 1) -> dict:
    return {"behaviour": "product_buy", "epoch": epoch, "step": step, "train/loss": loss}


def validation(epoch: int, step: int, ndcg: float) -> dict:
    return {"behaviour": "product_buy", "epoch": epoch, "step": step, "validation/ndcg@10": ndcg}


def test_training_shows_the_newest_run_of_each_behaviour():
    lines = [begin(0), interval(30, 9.0), validation(3, 30, 0.9)]
    lines += [begin(0), interval(10, 5.0), validation(1, 10, 0.3), interval(20, 4.0, epoch=2), validation(2, 20, 0.2)]
    others, history = split_training([*lines, {"stage": "train", "stage/seconds": 5.0}])
    assert others == [{"stage": "train", "stage/seconds": 5.0}]
    assert list(history) == ["product_buy"]
    assert history["product_buy"].loss.tolist() == [[10, 5.0], [20, 4.0]]
    assert history["product_buy"].ndcg == [(1, 0.3), (2, 0.2)]
    assert history["product_buy"].best_epoch["epoch"] == 1


def test_a_training_that_was_killed_shows_what_it_went_on_from_and_not_what_was_lost():
    lines = [begin(0), interval(5, 9.0), interval(10, 8.0)]
    lines += [begin(5), interval(9, 7.0), interval(10, 6.0), validation(1, 10, 0.9)]
    lines += [interval(15, 5.0, epoch=2), interval(20, 4.0, epoch=2), validation(2, 20, 0.95)]
    lines += [begin(15, epoch=2), interval(19, 3.0, epoch=2)]
    history = split_training(lines)[1]["product_buy"]
    assert history.loss.tolist() == [[5, 9.0], [9, 7.0], [10, 6.0], [15, 5.0], [19, 3.0]]
    assert history.ndcg == [(1, 0.9)]


def test_a_log_of_an_earlier_version_shows_a_training_from_its_first_epoch_on():
    lines = [interval(5, 9.0), interval(10, 8.0), validation(1, 10, 0.9)]
    lines += [interval(5, 7.0), interval(10, 6.0), validation(1, 10, 0.5), interval(20, 5.0, epoch=2)]
    lines += [interval(15, 4.0, epoch=2), interval(20, 3.0, epoch=2), validation(2, 20, 0.6)]
    history = split_training(lines)[1]["product_buy"]
    assert history.loss.tolist() == [[5, 7.0], [10, 6.0], [15, 4.0], [20, 3.0]]
    assert history.ndcg == [(1, 0.5), (2, 0.6)]


def test_of_a_long_training_only_the_curves_numbers_are_kept_and_of_a_step_the_later_line():
    def lines() -> Iterator[dict]:
        for number in range(20_000):
            figures = {"train/loss": 1.0 / (1 + number), "train/sequences_per_second": 100.0, "feed/wait_pct": 1.0}
            # resumed once, by an earlier version
            yield {"behaviour": "page_visit", "epoch": 2, "step": 5 * (number % 15_000), **figures}

    tracemalloc.start()
    _, histories = split_training(lines())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20_000 * 200, "whole lines are ten times that"
    assert len(histories["page_visit"].loss) == 15_000
    assert histories["page_visit"].loss[:2].tolist() == [[0, 1 / 15_001], [5, 1 / 15_002]]


def test_a_long_curve_is_thinned_to_means_of_neighbours():
    assert thin([(1, 2.0), (2, 4.0), (3, 6.0), (4, 8.0), (5, 1.0)], at_most=3) == [(1.5, 3.0), (3.5, 7.0), (5, 1.0)]
    assert thin([]) == []


ORACLE = {
    **SCORES,
    "oracle": {"conversion": {"score": 0.8, "auroc": 0.8}, "propensity_sku": {"score": 0.69, "auroc": 0.75}},
}


def test_the_way_to_the_oracle_is_a_share_of_its_distance_to_the_baseline():
    way = build_way_rows(ORACLE)
    texts = {entry: [cell.text for cell in cells] for entry, cells in way.items()}
    # on skus the oracle is below the baseline: there is no way to go
    assert texts == {
        "product_buy": ["-", "-25%", "-", "-", "-", "-", "-21%"],
        "ensemble": ["-", "0%", "-", "-", "-", "-", "53%"],
    }
    assert [cell.is_best for cell in way["ensemble"]] == [False, True, False, False, False, False, True]
    assert build_way_rows(SCORES) == {}
    assert build_way_rows({"oracle": ORACLE["oracle"]}) == {}


def test_with_repeats_the_way_is_between_means():
    scores = {"baseline": repeated(0.5, 0.6), "ensemble": repeated(0.66, 0.66), "oracle": repeated(0.8, 0.7)}
    assert build_way_rows(scores)["ensemble"][0].text == "55%"


def test_the_oracle_takes_no_part_in_marks_and_points():
    rows = build_score_rows(ORACLE)
    assert {entry: rows[entry] for entry in SCORES} == build_score_rows(SCORES)
    assert [cell.text for cell in rows["oracle"]] == ["-", "0.8000", "-", "0.6900", "-", "-", "1.4900", "-"]
    assert not any(cell.is_best for cell in rows["oracle"])
    assert noise_note(judged({**PAIRED, "oracle": repeated(0.9, 0.9, 0.9, 0.9)})) == noise_note(PAIRED)
    assert build_score_rows({"oracle": ORACLE["oracle"]})["oracle"][1].is_best


def test_the_text_ends_with_the_way_to_the_oracle():
    lines = format_score_table(ORACLE).splitlines()
    start = lines.index("Share of the way from baseline to oracle:")
    assert [line.split() for line in lines[start + 3 : start + 5]] == [
        ["product_buy", "-", "-25%", "-", "-", "-", "-", "-21%"],
        ["ensemble", "-", "0%*", "-", "-", "-", "-", "53%*"],
    ]


def test_comparisons_with_the_oracle_are_none_of_the_tables():
    scores = {"a": repeated(0.7, 0.7, 0.7), "b": repeated(0.69, 0.6878, 0.6922)}
    with_oracle = scores | {"oracle": repeated(0.9, 0.5, 0.7)}  # told from nobody: Holm would count it in each step
    rows = build_score_rows(with_oracle)
    assert {entry: rows[entry] for entry in scores} == build_score_rows(scores)
