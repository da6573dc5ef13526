import re

import pytest
from report_facts import CONFIG, WINDOWS, full_page, render, some_ablation, some_facts, some_metrics, some_scores

from conf.load import load_config
from jobs.reporting.ablation import Change, noise_of_changes, rows_alone, rows_without, scores_alone
from jobs.reporting.facts import SequenceFacts, VocabularyFacts
from jobs.reporting.figures import palette
from jobs.reporting.history import StageRun, split_training, stage_runs
from jobs.reporting.page import Verdict, render_page, tell_verdict
from jobs.reporting.tables import Standing, noise_note

MINUS = "\N{MINUS SIGN}"
ONE = {"baseline": {"conversion": {"score": 0.5222, "auroc": 0.5222}}}
EMPTY = {"metrics": [], "histories": {}, "sequences": {}, "vocabularies": {}, "quarantine": [],
         "profile_map": None, "ablation": None}  # fmt: skip


def page(scores: dict, *overrides: str, mode: str = "evaluate") -> str:
    config = load_config("demo", list(overrides))
    facts = some_facts(**EMPTY, scores=scores, windows={**WINDOWS, "mode": mode})
    return render_page(facts, config, ["ingest"])


def text_of(text: str) -> str:
    """The page's text without tags."""
    return " ".join(re.sub(r"<[^>]+>", " ", text).split())


def test_a_run_with_nothing_to_show_still_has_a_page():
    text = page(ONE)
    for missing in ("No training was logged.", "No source row was rejected.", "Too few profiles for a map.",
                    "No stage was logged."):  # fmt: skip
        assert missing in text
    assert 'id="ablation"' not in text


def test_in_mode_entry_the_page_says_why_there_are_no_scores():
    assert "No scores: in mode <b>entry</b>" in page({}, "windows.mode=entry", mode="entry")


def test_the_note_is_shown_only_for_a_probe_that_is_not_the_challenges():
    assert "Not the challenge's probe." in page(ONE, "probe.hidden_size=64")
    assert "Not the challenge's probe." not in page(ONE, "probe.hidden_size=2048")


def test_a_task_on_which_no_entry_has_a_score_is_named():
    assert "No score on churn, category, sku, price, new_sku:" in page(ONE)
    some = page(ONE, "probe.tasks=[conversion, churn]")
    assert "No score on churn:" in some
    assert "does not name them: category, sku, price, new_sku." in some


def test_an_event_of_a_merged_stream_is_not_counted_again():
    lengths, curve = [(0, 1), (2, 1)], [(1, 40), (2, 2)]
    text = render(
        some_facts(
            sequences={name: SequenceFacts(2, 6, 1, 5, 0, lengths) for name in ("product_buy", "page_visit", "mixed")},
            vocabularies={name: VocabularyFacts(2, curve) for name in ("product_buy", "page_visit", "mixed")},
        )
    )
    assert re.search(r"Input events</dt>\s*<dd>12\s", text)
    assert re.search(r"Vocabulary items</dt>\s*<dd>4\s*<small>over 2 behaviours", text)


def test_an_encoder_keeps_its_colour_where_another_is_left_out(monkeypatch: pytest.MonkeyPatch):
    of_figure: dict[str, str] = {}
    monkeypatch.setattr(
        "jobs.reporting.page.figures.draw_absent_shares", lambda title, shares, colours: of_figure.update(colours)
    )
    page(ONE, "encoders.product_buy=null")
    of_legend = palette(load_config("demo").encoders)
    assert of_figure == {name: colour for name, colour in of_legend.items() if name != "product_buy"}


def test_entries_without_any_score_have_a_page():
    text = page({"baseline": {}, "ensemble": {}})
    assert "No score on churn, conversion, category, sku, price, new_sku:" in text
    assert "first place" not in text
    assert "Ensemble, sum" not in text


def test_one_run_has_one_page():
    assert full_page() == render(some_facts())


def test_the_page_is_small():
    assert len(full_page()) < 200 * 1024


def test_the_spread_and_the_noise_are_shown_only_of_repeats():
    once, thrice = (text_of(render(some_facts(scores=some_scores(n), ablation=None))) for n in (1, 3))
    assert "±" not in once
    assert "≈" not in once
    assert "0.6188 ± 0.0034" in thrice
    # six pairs of four entries, on six tasks and on the sum
    assert "≈ the repeats, which differ in seed and row order, do not tell it" in thrice
    assert "(paired t-tests, 42 in this table, Holm correction, level 5%)" in thrice


def test_the_verdict_names_the_first_entry_and_how_it_stands_to_the_baseline():
    expected = Verdict(["ensemble+baseline"], 18, pytest.approx(3.9255), standing=Standing(above=6))
    assert tell_verdict(some_scores()) == expected
    assert "ensemble+baseline has the first place by Borda count, with 18 points" in text_of(full_page())


def test_the_way_to_the_oracle_is_shown_and_the_oracle_is_no_rival():
    scores = some_scores()
    scores["oracle"] = {task: {**result, "score": 0.9} for task, result in scores["baseline"].items()}
    text = text_of(page(scores))
    assert "The way to the oracle" in text
    assert "ensemble+baseline has the first place by Borda count, with 18 points" in text
    assert "The way to the oracle" not in text_of(full_page())


def test_the_verdict_counts_only_tasks_that_both_have():
    scores = {"baseline": {"churn": {"score": 0.5}}, "a": {"churn": {"score": 0.4}, "conversion": {"score": 0.9}}}
    scores["b"] = {"churn": {"score": 0.1}, "conversion": {"score": 0.1}}
    assert tell_verdict(scores) == Verdict(["a"], 3, 1.3, standing=Standing(below=1))


def test_entries_that_share_the_first_place_are_all_named_and_the_baseline_is_not_compared_with_itself():
    assert tell_verdict({"baseline": {"churn": {"score": 0.5}}, "a": {"churn": {"score": 0.5}}}) == Verdict(
        ["baseline", "a"], 1, 0.5
    )
    assert "baseline and a share the first place" in text_of(
        page({"baseline": {"churn": {"score": 0.5}}, "a": {"churn": {"score": 0.5}}})
    )


def test_the_verdict_claims_nothing_that_repeats_cannot_tell():
    scores = some_scores(3)
    for place, tasks in enumerate(scores.values()):
        for task in ("churn", "conversion"):  # each entry moves in a direction of its own
            mean, swing = tasks[task]["mean"], 0.02 * (place - 1)
            tasks[task]["repeats"] = [mean - swing, mean + swing, mean]
    text = text_of(render(some_facts(scores=scores, ablation=some_ablation(3))))
    assert "it is above the organisers' baseline on 4 of 6 tasks, not to be told from it on 2." in text
    assert "Over the repeats its sum is not above that of baseline, product_buy, ensemble by more than noise." in text
    assert "Scored once" not in text


def test_the_verdict_on_entries_that_were_scored_once_says_that_noise_is_unknown():
    text = text_of(full_page())
    verdict = text[text.index("has the first place") : text.index("clients,")]
    assert "on 6 of 6 tasks. Scored once: how much of a difference is noise is unknown." in verdict
    assert "How much of a change is noise is unknown" in text
    assert "Scored once" not in text_of(page(ONE))


def test_a_stage_has_the_tables_that_it_wrote_and_not_those_of_one_that_died():
    lines = [
        {"time": "2022-11-01T10:00:00+00:00", "table": "windows", "table/rows": 7},
        {"time": "2022-11-01T11:00:05+00:00", "table": "product_buy", "table/rows": 3},
        {"time": "2022-11-01T11:00:09+00:00", "table": "quarantine", "table/rows": 1},
        {"time": "2022-11-01T11:00:10+00:00", "stage": "ingest", "stage/seconds": 9.0},
        {"time": "2022-11-01T11:00:10+00:00", "table": "clients", "table/rows": 5},
        {"time": "2022-11-01T11:00:11+00:00", "stage": "split", "stage/seconds": 1.0},
    ]
    runs = stage_runs(lines, ["ingest", "split", "train"])
    assert runs == [StageRun("ingest", 9.0, lines[1:3]), StageRun("split", 1.0, lines[4:5])]
    assert [run.n_rows for run in runs] == [4, 5]


def test_stages_that_run_at_once_have_their_own_tables():
    time = "2022-11-01T10:00:00+00:00"
    lines = [
        {"time": time, "stage": "targets", "table": "labels", "table/rows": 40},
        {"time": time, "stage": "vocabulary", "table": "vocabularies", "table/rows": 7},
        {"time": time, "stage": "targets", "table": "targets", "table/rows": 50},
        {"time": time, "stage": "vocabulary", "stage/seconds": 9.0},
        {"time": time, "stage": "targets", "read": "product_buy", "read/version": 1},
        {"time": time, "stage": "targets", "stage/seconds": 9.0},
    ]
    runs = stage_runs(lines, ["vocabulary", "targets"])
    assert runs == [StageRun("vocabulary", 9.0, lines[1:2]), StageRun("targets", 9.0, [lines[0], lines[2]])]
    running = [{"time": time, "stage": "vocabulary", "table": "vocabularies", "table/rows": 8}]
    assert stage_runs(lines + running, ["vocabulary", "targets"]) == runs


def test_the_page_shows_the_rows_of_each_stage_and_source():
    text = text_of(full_page())
    assert "ingest 12.3 s 1,236 product_buy 1,234 quarantine 2" in text
    assert "product_buy 1,236 1,234 2 5" in text


def test_the_training_curves_are_speed_wait_and_memory_too():
    history = split_training(some_metrics())[1]["product_buy"]
    assert history.sequences_per_second.tolist() == [[50, 1500.0], [100, 1700.0]]
    assert history.over_progress(history.wait_pct).tolist() == [[50.0, 2.5], [100.0, 3.5]]
    assert (history.median_rate, history.mean_wait_pct, history.top_peak_gib) == (1600.0, 3.0, 0.81)
    text = full_page()
    for label in ("Training loss.", "Validation.", "Speed.", "Wait for the feed.", "Peak memory."):
        assert f'aria-label="{label}' in text


def test_a_figure_without_its_number_is_left_out_of_the_history():
    lines = [{"behaviour": "product_buy", "epoch": 1, "step": 5, "train/loss": 1.0}]
    history = split_training(lines)[1]["product_buy"]
    assert (history.median_rate, history.mean_wait_pct, history.top_peak_gib) == (None, None, None)


def test_the_blocks_alone_end_with_all_of_them():
    assert list(rows_alone(some_ablation())) == ["product_buy", "baseline", "all blocks"]
    assert [len(cells) for cells in rows_alone(some_ablation()).values()] == [7, 7, 7]


def test_a_block_whose_loss_lowers_the_score_helps_and_noise_is_marked():
    once, thrice = rows_without(some_ablation()), rows_without(some_ablation(3))
    assert list(once) == ["product_buy", "baseline"]
    assert once["product_buy"][0] == Change(f"{MINUS}0.0300", helps=True)
    assert once["baseline"][0] == Change("+0.0100", helps=False)
    assert once["baseline"][-1] == Change("+0.0600", helps=False)
    assert thrice["baseline"][0] == Change("+0.0100", helps=False)
    assert thrice["baseline"][-1] == Change("+0.0600", helps=False)
    assert noise_note(scores_alone(some_ablation())) is None
    noise = noise_note(scores_alone(some_ablation(3)))
    assert noise is not None
    assert "do not tell it from the highest mean of the column (paired t-tests, 21 in" in noise
    assert noise_of_changes(some_ablation()).startswith("How much of a change is noise is unknown")
    assert "paired t-tests, 14 in this table" in noise_of_changes(some_ablation(3))
    close = some_ablation(3)
    for variant in close["variants"]:
        churn = variant["scores"]["churn"]
        churn["mean"] = 0.61 if variant["kind"] == "all" else 0.6099
        churn["repeats"] = [churn["mean"] + shift for shift in (-0.001, 0.0, 0.001)[:: 1 if variant["block"] else -1]]
    assert rows_without(close)["product_buy"][0] == Change(f"{MINUS}0.0001", helps=True, is_in_noise=True)
    for variant in close["variants"]:
        variant["scores"] = {"churn": variant["scores"]["churn"]}
    assert rows_without(close)["product_buy"][-1] == Change(f"{MINUS}0.0001", helps=True, is_in_noise=True)


def test_an_ablation_of_some_tasks_or_of_two_blocks_shows_what_there_is():
    some = some_ablation()
    for variant in some["variants"]:
        variant["scores"] = {"churn": variant["scores"]["churn"]}
    assert rows_without(some)["product_buy"][1] == Change("-")
    some["variants"] = [variant for variant in some["variants"] if variant["kind"] != "without"]
    assert rows_without(some) == {}
    text = render(some_facts(ablation=some))
    assert 'id="alone-table"' in text
    assert 'id="without-table"' not in text


def test_the_resolved_configuration_is_on_the_page():
    text = full_page()
    assert f"hidden_size: {CONFIG.model.hidden_size}" in text
