import shutil
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
from eval_tables import CONFIG, SMALL, golden_events, golden_products, golden_shop, save_ids, write_shop

from jobs.evaluation.labels import count_values
from jobs.stages import split
from jobs.stages import targets as build_targets
from jobs.stages.targets import read_labels, run
from jobs.storage.delta_tables import list_files, read_table
from jobs.storage.workspace import Workspace
from jobs.transforms.purchases import purchases_with_properties
from jobs.transforms.windows import derive_windows, events_before, target_events
from schemas.errors import InputError
from schemas.tables import LABELS, TARGETS
from schemas.tasks import PROPENSITY

BUYS = [(1, "2022-08-01", 70), (1, "2022-09-02", 70), (2, "2022-09-03", 80), (2, "2022-09-28", 80)]


@pytest.fixture(scope="module")
def small_shop(spark, tmp_path_factory):
    """Its tables after ingest and split, for tests that copy them."""
    place = Workspace(tmp_path_factory.mktemp("small"), tmp_path_factory.mktemp("data"))
    place.prepare()
    write_shop(spark, place, SMALL, products=[(70, 7, None, None), (80, 8, None, None)], product_buy=BUYS)
    split.run(spark, SMALL, place)
    return place.out


@pytest.fixture
def workspace(small_shop, tmp_path):
    (tmp_path / "data").mkdir()
    return Workspace(Path(shutil.copytree(small_shop, tmp_path / "out")), tmp_path / "data")


def labels_of(spark, workspace):
    rows = read_table(spark, workspace, LABELS).orderBy("task", "label").collect()
    return {
        task: [(row["id"], row["popularity"]) for row in rows if row["task"] == task]
        for task in sorted({row["task"] for row in rows})
    }


def test_labels_are_derived_where_no_file_gives_them_and_rows_do_not_depend_on_the_parts(spark, workspace, monkeypatch):
    found = []
    for clients_per_part in (build_targets.CLIENTS_PER_PART, 1):
        monkeypatch.setattr(build_targets, "CLIENTS_PER_PART", clients_per_part)
        run(spark, SMALL, workspace)
        assert labels_of(spark, workspace) == {
            "propensity_category": [(7, 0.5), (8, 0.5)],
            "propensity_new_sku": [(80, 1.0)],
            "propensity_sku": [(70, 0.5), (80, 0.5)],
        }
        targets = read_table(spark, workspace, TARGETS)
        found.append(sorted(targets.collect()))
        if clients_per_part > 1:  # each part makes one file of a task and window
            files = list_files(targets, TARGETS.partition_by)
            assert len({str(file.partition) for file in files}) == len(files)
    assert found[0] == found[1]
    of = [(row["task"], row["window"]) for row in found[0]]
    assert not {task for task, _ in of} & {"propensity_price"}
    assert of.count(("propensity_sku", "train")) == 1


COUNTS = [("propensity_sku", 70, 1), ("propensity_sku", 80, 1)]


@pytest.fixture
def counts(spark):
    return spark.createDataFrame(COUNTS, "task string, id bigint, n bigint")


def test_a_label_file_sets_the_order_and_its_popularity_is_derived(workspace, counts):
    save_ids(workspace, "target/propensity_sku.npy", [80, 90, 70])
    labels, from_files = read_labels(counts, workspace.data / "target")
    assert labels["propensity_sku"] == [(80, 0.5), (90, 0.0), (70, 0.5)]
    assert from_files == {"propensity_sku": [80, 90, 70]}


def test_a_popularity_file_is_taken_as_it_is(workspace, counts):
    save_ids(workspace, "target/propensity_sku.npy", [80, 70])
    np.save(workspace.data / "target/popularity_propensity_sku.npy", np.array([0.9, 0.25]))
    labels, _ = read_labels(counts, workspace.data / "target")
    assert labels["propensity_sku"] == [(80, 0.9), (70, 0.25)]


def test_labels_of_no_product_and_no_purchase_are_told_and_nobody_has_them(spark, workspace, caplog):
    save_ids(workspace, "target/propensity_sku.npy", [80, 1, 2, 70, 3, 4])
    run(spark, SMALL, workspace)
    assert "propensity_sku.npy: 4 of 6 labels are of no product and no purchase (1, 2, 3, ...)" in caplog.text
    rows = read_table(spark, workspace, TARGETS).filter("task = 'propensity_sku' and window = 'train'").collect()
    assert [row["labels"] for row in rows] == [[0, 0, 0, 1, 0, 0]]


def test_a_label_file_of_another_data_set_is_an_input_error(spark, workspace):
    save_ids(workspace, "target/propensity_sku.npy", [1, 2])
    with pytest.raises(InputError, match=r"2 of 2 labels are of no product and no purchase \(1, 2\)"):
        run(spark, SMALL, workspace)


def test_targets_are_exactly_the_golden_ones(spark, golden, tmp_path):
    workspace = golden_shop(spark, golden, tmp_path)
    run(spark, CONFIG, workspace)
    expected = np.load(golden / "targets.npz")
    rows = read_table(spark, workspace, TARGETS).orderBy("position").collect()
    is_active = np.isin(expected["client_ids"], np.load(golden / "challenge/target/active_clients.npy"))
    for task in ["churn", "conversion", *PROPENSITY]:
        for window in ("train", "validation"):
            found = [row for row in rows if (row["task"], row["window"]) == (task, window)]
            mask = is_active if task == "churn" else np.ones(len(is_active), dtype=bool)
            assert [row["client_id"] for row in found] == expected["client_ids"][mask].tolist()
            name = "churn" if task == "conversion" else task
            np.testing.assert_array_equal([row["labels"] for row in found], expected[f"{name}/{window}"][mask])


def test_derived_labels_and_popularity_agree_with_the_golden_files(spark, golden, tmp_path):
    bought = purchases_with_properties(golden_events(spark, golden)["product_buy"], golden_products(spark, golden))
    windows = derive_windows(datetime(2022, 9, 28, 22, 8, 49), CONFIG.windows)
    in_train = target_events(bought, windows).filter("window = 'train'")
    derived, _ = read_labels(count_values(in_train, events_before(bought, windows.train_start)), tmp_path)
    for task in PROPENSITY:
        ids, popularity = (np.load(golden / f"challenge/target/{name}{task}.npy") for name in ("", "popularity_"))
        assert dict(derived[task]) == pytest.approx(dict(zip(ids.tolist(), popularity.tolist(), strict=True)), abs=1e-9)
