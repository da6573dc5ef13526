import importlib
import json
import shutil
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
from eval_tables import CONFIG

from conf.evaluation import ProbeSettings
from conf.inputs import WindowSettings
from conf.load import to_yaml
from jobs.evaluation import probe_units
from jobs.evaluation.scores import check_entries, collect_scorable_tasks, list_entries
from jobs.stages.probe import run
from jobs.storage.delta_tables import read_table, write_table
from jobs.transforms.windows import derive_windows, windows_frame
from schemas.errors import ConfigError, EntryError, InputError
from schemas.tables import CLIENTS, LABELS, SCORES, TARGETS, WINDOWS
from schemas.tasks import TaskScore

TINY = replace(CONFIG, probe=ProbeSettings(hidden_size=8, n_blocks=1, batch_size=4, learning_rate=0.03))
N = 24


def write_entry(workspace, name, rows, ids):
    workspace.entry(name).mkdir(parents=True)
    np.save(workspace.entry(name) / "client_ids.npy", ids)
    np.save(workspace.entry(name) / "embeddings.npy", rows.astype(np.float16))


@pytest.fixture(scope="module")
def small_shop(spark, shared_workspace):
    workspace = shared_workspace
    write_table(windows_frame(spark, derive_windows(datetime(2022, 9, 28), WindowSettings())), workspace, WINDOWS)
    clients = [(position, 100 - position, position < 16) for position in range(N)]
    write_table(spark.createDataFrame(clients, CLIENTS.ddl), workspace, CLIENTS)
    labels = [("propensity_sku", 0, 7, 0.6), ("propensity_sku", 1, 8, 0.4)]
    write_table(spark.createDataFrame(labels, LABELS.ddl), workspace, LABELS)
    targets = []
    for position, client_id, is_active in clients:
        churns = position % 2
        for window in ("train", "validation"):
            row = (window, position, client_id)
            targets += [("churn", *row, [churns])] if is_active else []
            targets += [("conversion", *row, [0]), ("propensity_sku", *row, [1 - churns, churns])]
    write_table(spark.createDataFrame(targets, TARGETS.ddl).repartition(3), workspace, TARGETS)
    return workspace


@pytest.fixture
def shop(small_shop, workspace):
    """24 clients, 16 of them active; those at even positions buy label 0 and do not churn."""
    shutil.copytree(small_shop.out, workspace.out, dirs_exist_ok=True)
    return workspace


def telling_rows(positions):
    """Profiles that tell odd positions from even ones."""
    noise = np.random.default_rng(5).normal(size=(len(positions), 3))
    return np.column_stack([np.where(positions % 2, 4.0, -4.0), noise])


def test_every_entry_is_scored_on_every_task_that_can_be_scored(spark, shop, caplog):
    caplog.set_level("INFO")
    positions, mixed = np.arange(N), np.random.default_rng(1).permutation(N)
    write_entry(shop, "ensemble", telling_rows(positions), 100 - positions)
    write_entry(shop, "baseline", np.zeros((N, 2)), 100 - positions)
    write_entry(shop, "mixed", telling_rows(mixed), 100 - mixed)
    elsewhere = shop.entry("mixed").rename(shop.out / "mixed")  # scored because the settings name it
    config = replace(TINY, probe=replace(TINY.probe, entries=(str(elsewhere),)))
    for _ in range(2):
        run(spark, config, shop)
        scores = json.loads((shop.out / "scores.json").read_text())
        assert list(scores) == ["baseline", "ensemble", "mixed"]
        assert [list(tasks) for tasks in scores.values()] == [["churn", "propensity_sku"]] * 3
        assert list(scores["ensemble"]["churn"]) == ["score", "auroc"]
        assert list(scores["ensemble"]["propensity_sku"]) == ["score", "auroc", "novelty", "diversity"]
        assert scores["ensemble"]["churn"]["auroc"] == scores["mixed"]["churn"]["auroc"] == 1.0
        assert scores["ensemble"]["propensity_sku"]["auroc"] == 1.0
        assert scores["baseline"]["churn"]["auroc"] == 0.5
        rows = read_table(spark, shop, SCORES).collect()
        in_table = {(row["entry"], row["task"]): row["score"] for row in rows}
        assert in_table == {
            (entry, task): result["score"] for entry, tasks in scores.items() for task, result in tasks.items()
        }
    assert "left out: conversion: of 24 train labels 0 are 1, of 24 validation labels 0 are 1;" in caplog.text
    assert "ensemble, churn: started" in caplog.text
    assert "ensemble, churn: 1.0000" in caplog.text
    assert "6 units, 6 of them scored before" in caplog.text


def test_entries_packed_for_a_machine_without_spark_score_the_same(spark, shop, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[3] / "benchmarks"))
    quality, file, positions = importlib.import_module("quality_profiles"), tmp_path / "packed.npz", np.arange(N)
    monkeypatch.setattr(quality, "ProbeSettings", lambda **_: TINY.probe)
    noise = np.random.default_rng(2).normal(size=(N, 3))
    write_entry(shop, "ensemble", noise, 100 - positions)
    run(spark, TINY, shop)
    (shop.out / "config.yaml").write_text(to_yaml(TINY))
    quality.pack(shop.out, file, {})
    for task in ("churn", "propensity_sku"):
        _, result = quality.score(quality.Unit("ensemble", task, 0, 8, "float32"), file, "cpu", n_threads=1)
        assert result.score == figures_of(shop)["ensemble"][task]["score"]
    write_entry(shop, "mixed", noise, positions)
    with pytest.raises(SystemExit, match=r"mixed: expected the clients of .* in their order, found others"):
        quality.pack(shop.out, file, {})


def test_scores_of_packed_entries_are_marked_where_repeats_do_not_tell_them_apart(monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[3] / "benchmarks"))
    quality, results = importlib.import_module("quality_profiles"), {}
    of_repeats = {"low": (0.50, 0.51, 0.52), "near": (0.69, 0.72, 0.70), "high": (0.70, 0.71, 0.72)}
    for entry, scores in of_repeats.items():
        for repeat, score in enumerate(scores):
            for task in ("churn", "propensity_sku"):
                unit = quality.Unit(entry, task, repeat, 8, "float32")
                results[unit] = TaskScore(score + 0.1 * (task == "churn"), score)
    quality.show(results)
    head, _, low, near, high, note = capsys.readouterr().out.splitlines()
    assert head == "| entry | churn | sku | sum |"
    assert low == "| low | 0.6100 ± 0.0100 | 0.5100 ± 0.0100 | 1.1200 ± 0.0200 |"
    assert near.count("~") == 3
    assert "~" not in high
    assert note.startswith("~ not told from the highest mean of its column: paired t-tests, 9 in this table")


def figures_of(shop):
    return json.loads((shop.out / "scores.json").read_text())


def test_repeats_add_mean_and_deviation_to_the_organisers_score(spark, shop, caplog):
    caplog.set_level("INFO")
    noise = np.random.default_rng(2).normal(size=(N, 3))
    write_entry(shop, "ensemble", noise, 100 - np.arange(N))
    run(spark, TINY, shop)
    once = figures_of(shop)["ensemble"]["churn"]
    run(spark, replace(TINY, probe=replace(TINY.probe, repeats=3)), shop)
    assert "6 units, 2 of them scored before" in caplog.text
    found = figures_of(shop)["ensemble"]["churn"]
    assert list(found) == ["score", "auroc", "mean", "std", "n_repeats", "repeats"]
    assert {name: found[name] for name in once} == once
    assert (found["n_repeats"], len(found["repeats"]), found["repeats"][0]) == (3, 3, once["score"])
    assert found["mean"] == pytest.approx(np.mean(found["repeats"]), abs=1e-4)
    assert found["std"] > 0
    rows = read_table(spark, shop, SCORES).filter("task = 'churn'").collect()
    figures = ("mean", "std", "n_repeats", "repeats")
    assert [[row[name] for name in figures] for row in rows] == [[found[name] for name in figures]]


def count_scored(monkeypatch, fail_after=None):
    """The units that are really scored; with ``fail_after`` the run dies when so many are done."""
    scored = []
    score_units = probe_units.score_units

    def counting(context, units, n_at_once):
        for unit, result in score_units(context, units, n_at_once):
            if len(scored) == fail_after:
                raise KeyboardInterrupt
            scored.append(unit.key)
            yield unit, result

    monkeypatch.setattr("jobs.evaluation.scores.score_units", counting)
    return scored


def test_a_killed_run_scores_only_what_it_had_not(spark, shop, monkeypatch):
    write_entry(shop, "ensemble", telling_rows(np.arange(N)), 100 - np.arange(N))
    write_entry(shop, "baseline", np.zeros((N, 2)), 100 - np.arange(N))
    with monkeypatch.context() as patch:
        before = count_scored(patch, fail_after=1)
        with pytest.raises(KeyboardInterrupt):
            run(spark, TINY, shop)
    assert not (shop.out / "scores.json").exists()
    after = count_scored(monkeypatch)
    run(spark, TINY, shop)
    assert (len(before), len(after)) == (1, 3)
    assert set(before).isdisjoint(after)
    found = figures_of(shop)
    assert (found["baseline"]["churn"]["auroc"], found["ensemble"]["churn"]["auroc"]) == (0.5, 1.0)


def test_entries_from_elsewhere_and_single_tasks_are_scored_alone(spark, shop, tmp_path):
    write_entry(shop, "ensemble", np.zeros((N, 2)), 100 - np.arange(N))
    shop.entry("ensemble").rename(tmp_path / "mine")
    run(spark, replace(TINY, probe=replace(TINY.probe, tasks=("churn",))), shop, entries=[tmp_path / "mine"])
    assert figures_of(shop) == {"mine": {"churn": {"score": 0.5, "auroc": 0.5}}}


def test_what_is_wrong_with_each_entry_is_told_at_once(tmp_path):
    for folder, ids in [("a/x", [1, 2]), ("b/x", [1, 3]), ("y", [2, 1])]:
        (tmp_path / folder).mkdir(parents=True)
        np.save(tmp_path / folder / "client_ids.npy", np.array(ids))
        np.save(tmp_path / folder / "embeddings.npy", np.zeros((2, 1), dtype=np.float16))
    with pytest.raises(EntryError) as error:
        check_entries([tmp_path / name for name in ("a/x", "b/x", "y")], np.array([1, 2]))
    first, second = str(error.value).splitlines()
    assert "b/x: 1 relevant clients are missing (2); 1 ids are not relevant clients (3)" in first
    assert "2 entries are in folders called 'x'" in second


def test_an_entry_that_breaks_a_rule_is_refused_before_any_training(spark, shop):
    write_entry(shop, "ensemble", np.zeros((N - 1, 2)), np.arange(N - 1))
    with pytest.raises(EntryError, match="relevant clients are missing"):
        run(spark, TINY, shop)
    assert not (shop.out / "scores.json").exists()


def test_no_entry_is_an_entry_error(spark, shop):
    with pytest.raises(EntryError, match="run the stage profile first"):
        run(spark, TINY, shop)


def test_profiles_that_have_seen_the_targets_are_not_scored(spark, shop):
    windows = derive_windows(datetime(2022, 9, 28), WindowSettings(mode="entry"))
    write_table(windows_frame(spark, windows), shop, WINDOWS)
    with pytest.raises(ConfigError, match="seen the targets"):
        run(spark, TINY, shop)


def test_entries_come_as_baseline_behaviours_ensemble_then_others(workspace):
    for name in ["zebra", "ensemble", "page_visit", "baseline", "product_buy", ".baseline.partial"]:
        workspace.entry(name).mkdir(parents=True)
    found = [path.name for path in list_entries(workspace, ["product_buy", "page_visit"])]
    assert found == ["baseline", "product_buy", "page_visit", "ensemble", "zebra"]


def test_a_task_without_both_classes_in_a_window_cannot_be_scored(spark, caplog):
    rows = [
        ("churn", "validation", 0, 1, [1]),
        ("churn", "train", 0, 1, [0]),
        ("churn", "train", 1, 2, [1]),
        *[("conversion", window, number, number, [number]) for window in ("train", "validation") for number in (0, 1)],
        ("propensity_category", "train", 0, 1, [1, 1]),
        ("propensity_category", "validation", 0, 1, [0, 1]),
        ("propensity_sku", "train", 0, 1, [0, 1]),
        ("propensity_sku", "validation", 0, 1, [0, 0]),
        ("propensity_price", "train", 0, 1, [1, 0]),
        ("propensity_price", "validation", 0, 1, [0, 1]),
    ]
    caplog.set_level("INFO")
    targets = spark.createDataFrame(rows, TARGETS.ddl)
    assert collect_scorable_tasks(targets) == ["conversion", "propensity_price"]
    both = "; a score needs both 0 and 1 in each window"
    assert f"left out: churn: of 1 validation labels 1 are 1{both}" in caplog.text
    assert f"left out: propensity_category: of 2 train labels 2 are 1{both}" in caplog.text
    assert f"left out: propensity_sku: of 2 validation labels 0 are 1{both}" in caplog.text
    assert (
        f"left out: propensity_new_sku: of 0 train labels 0 are 1, of 0 validation labels 0 are 1{both}" in caplog.text
    )
    assert "propensity_price: 2 of 2 labels are the same for all clients in validation" in caplog.text
    assert collect_scorable_tasks(targets, ["churn", "conversion"]) == ["conversion"]
    with pytest.raises(InputError, match=r"found none: churn: of 1 validation labels 1 are 1.*other probe.tasks"):
        collect_scorable_tasks(targets, ["churn"])
