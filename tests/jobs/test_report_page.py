from datetime import datetime

from conf.load import load_config
from jobs.reporting.page import RunFacts, render_page

DAY = datetime(2022, 11, 1)
WINDOWS = {"mode": "evaluate", "input_end": DAY, "train_start": DAY, "valid_start": DAY, "end": DAY}
SCORES = {"baseline": {"conversion": {"score": 0.5222, "auroc": 0.5222}}}


def page(scores: dict, *overrides: str, mode: str = "evaluate") -> str:
    config = load_config("demo", list(overrides))
    absent = dict.fromkeys(config.behaviours, 1.0)
    facts = RunFacts(scores, [], {**WINDOWS, "mode": mode}, 3, 0, {}, {}, absent, [], None)
    return render_page(facts, config, ["ingest"])


def test_a_run_with_nothing_to_show_still_has_a_page():
    text = page(SCORES)
    assert "No training was logged." in text
    assert "No source row was rejected." in text
    assert "Too few profiles for a map." in text


def test_in_mode_entry_the_page_says_why_there_are_no_scores():
    assert "No scores: in mode <b>entry</b>" in page({}, "windows.mode=entry", mode="entry")


def test_the_note_is_shown_only_for_a_probe_that_is_not_the_challenges():
    assert "Not the challenge's probe." in page(SCORES, "probe.hidden_size=64")
    assert "Not the challenge's probe." not in page(SCORES, "probe.hidden_size=2048")


def test_a_task_on_which_no_entry_has_a_score_is_named():
    assert "No score on churn, category, sku, price, new_sku:" in page(SCORES)


def test_entries_without_any_score_have_a_page():
    assert "baseline" in page({"baseline": {}})
