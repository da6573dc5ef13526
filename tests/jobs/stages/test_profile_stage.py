"""The stage ``profile``: which profiles and entries a configuration gives, and which of them go again."""

import numpy as np
import pytest
from block_tables import put_blocks, write_clients
from pyspark.sql import SparkSession

from conf.load import load_config
from conf.pipeline import PipelineConfig
from jobs.stages import counters, profiles
from jobs.storage.entry_rules import validate_entry
from jobs.storage.workspace import Workspace

IDS = [50, 10, 40, 20]
RAW = [
    "ensemble.weight=1",
    "ensemble.blocks_weight=1",
    "ensemble.constant=0",
    "ensemble.blocks_scaling=none",
    "ensemble.scaling=none",
    "ensemble.absent=zeros",
]


def config(*overrides: str) -> PipelineConfig:
    return load_config("demo", [*RAW, *overrides])


def load_entry(workspace: Workspace, name: str) -> np.ndarray:
    validate_entry(workspace.entry(name), np.array(IDS))
    assert np.load(workspace.entry(name) / "client_ids.npy").tolist() == IDS
    return np.load(workspace.entry(name) / "embeddings.npy").astype(np.float32)


def entries(workspace: Workspace) -> set[str]:
    return {folder.name for folder in workspace.entry("").iterdir()}


def test_entries_come_and_go_with_the_blocks_that_the_configuration_names(
    spark: SparkSession, workspace: Workspace, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    write_clients(spark, workspace, IDS)
    vectors = {
        "product_buy": {50: [1, 2], 10: [3, 4]},
        "page_visit": {50: [0, 0, 0]},
        "activity": {50: [2], 10: [3], 20: [4]},
        "baseline": {50: [1, 0], 40: [5, 2], 20: [0, 3]},
    }
    put_blocks(spark, workspace, vectors)
    clip, by_hand = workspace.out / "elsewhere", workspace.entry("by_hand")
    gone = [workspace.entry(name) for name in ("graph", "search_query")]  # of a run that had such a block
    own_name = workspace.entry("interactions")  # as we would call a block
    for folder in (clip, by_hand, own_name, *gone):
        folder.mkdir(parents=True)
        if folder in gone:
            (folder / "feature_names.json").write_text("[]")
        np.save(folder / "client_ids.npy", np.array(IDS))
        np.save(folder / "embeddings.npy", np.arange(4, dtype=np.float16)[:, None])

    profiles.run(spark, config(f"ensemble.blocks=[baseline,'clip={clip}']"), workspace)

    blocks = {"product_buy", "page_visit", "activity", "baseline", "clip"}
    assert entries(workspace) == {*blocks, "ensemble", "ensemble+baseline+clip", "by_hand", "interactions"}
    own = [[1, 2, 0, 0, 0, 2], [3, 4, 0, 0, 0, 3], [0] * 6, [0] * 5 + [4]]
    flags = [[1, 1, 1], [1, 0, 1], [0, 0, 0], [0, 0, 1]]
    np.testing.assert_array_equal(load_entry(workspace, "ensemble"), np.concatenate([own, flags], axis=1))
    whole = load_entry(workspace, "ensemble+baseline+clip")
    np.testing.assert_array_equal(whole[:, :6], own)
    np.testing.assert_allclose(whole[:, 6:8], np.log1p([[1, 0], [0, 0], [5, 2], [0, 3]]), rtol=1e-3)
    assert whole[:, -2:].tolist() == [[1, 1], [0, 1], [1, 1], [1, 1]]  # all clients of an imported entry are present

    profiles.run(spark, config("ensemble.blocks=[]", "ensemble.activity=false"), workspace)

    assert entries(workspace) == {"product_buy", "page_visit", "baseline", "ensemble", "by_hand", "interactions"}
    assert load_entry(workspace, "ensemble").shape == (4, 7)
    for name in ("activity", "clip", "ensemble+baseline+clip", "graph", "search_query"):
        assert f"entry {name}: removed: this run has no such profile or block" in caplog.text


def test_a_block_that_is_not_asked_for_is_left_out_with_a_line(
    spark: SparkSession, workspace: Workspace, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    counters.run(spark, config("ensemble.activity=false", "ensemble.blocks=[baseline]"), workspace)
    assert "activity: left out: ensemble.activity is false" in caplog.text
