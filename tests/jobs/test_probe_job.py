import json
from dataclasses import replace

import numpy as np
import pytest
from eval_tables import CONFIG

from conf.settings import ProbeSettings, WindowSettings
from jobs.evaluate_probe import collect_scorable_tasks, list_entries, run
from jobs.io import read_table, write_table
from jobs.transforms.windows import derive_windows, windows_frame
from schemas.errors import ConfigError, EntryError
from schemas.tables import CLIENTS, LABELS, SCORES, TARGETS, WINDOWS

TINY = replace(CONFIG, probe=ProbeSettings(hidden_size=8, n_blocks=1, batch_size=4, learning_rate=0.03))
N = 24


def write_entry(workspace, name, rows, ids):
    workspace.entry(name).mkdir(parents=True)
    np.save(workspace.entry(name) / "client_ids.npy", ids)
    np.save(workspace.entry(name) / "embeddings.npy", rows.astype(np.float16))


@pytest.fixture
def shop(spark, workspace):
    """24 clients, 16 of them active; those at even positions buy label 0 and do not churn."""
    from datetime import datetime

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
    for _ in range(2):
        run(spark, TINY, shop)
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
    assert "conversion is left out: of 24 validation labels 0 are 1" in caplog.text
    assert "ensemble, churn: 1.0000" in caplog.text


def test_an_entry_that_breaks_a_rule_is_refused_before_any_training(spark, shop):
    write_entry(shop, "ensemble", np.zeros((N - 1, 2)), np.arange(N - 1))
    with pytest.raises(EntryError, match="relevant clients are missing"):
        run(spark, TINY, shop)
    assert not (shop.out / "scores.json").exists()


def test_no_entry_is_an_entry_error(spark, shop):
    with pytest.raises(EntryError, match="run embed or baseline first"):
        run(spark, TINY, shop)


def test_profiles_that_have_seen_the_targets_are_not_scored(spark, shop):
    from datetime import datetime

    windows = derive_windows(datetime(2022, 9, 28), WindowSettings(mode="entry"))
    write_table(windows_frame(spark, windows), shop, WINDOWS)
    with pytest.raises(ConfigError, match="seen the targets"):
        run(spark, TINY, shop)


def test_entries_come_as_baseline_behaviours_ensemble_then_others(workspace):
    for name in ["zebra", "ensemble", "page_visit", "baseline", "product_buy", ".baseline.partial"]:
        workspace.entry(name).mkdir(parents=True)
    found = [path.name for path in list_entries(workspace, ["product_buy", "page_visit"])]
    assert found == ["baseline", "product_buy", "page_visit", "ensemble", "zebra"]


def test_a_task_without_both_classes_in_validation_cannot_be_scored(spark):
    rows = [
        ("churn", "validation", 0, 1, [1]),
        ("churn", "train", 0, 1, [0]),
        ("conversion", "validation", 0, 1, [1]),
        ("conversion", "validation", 1, 2, [0]),
        ("propensity_sku", "validation", 0, 1, [0, 0]),
        ("propensity_price", "validation", 0, 1, [0, 1]),
    ]
    assert collect_scorable_tasks(spark.createDataFrame(rows, TARGETS.ddl)) == ["conversion", "propensity_price"]
