"""Entries of profiles and blocks: positions, zeros for the absent, and what float16 cannot hold."""

import json
from pathlib import Path

import numpy as np
import pytest
from block_tables import put_blocks, write_clients
from pyspark.sql import SparkSession

from jobs.profiles.export import column_exponents, export_blocks, export_profiles, to_float16
from jobs.storage.delta_tables import read_table, write_table
from jobs.storage.workspace import Workspace
from schemas.errors import EntryError
from schemas.tables import BLOCKS, CLIENTS, PROFILES


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf, 65_520.0, -1e6])
def test_numbers_that_float16_cannot_hold_are_refused_with_their_position(number: float) -> None:
    vectors = np.array([[0.0, 1.0], [number, 2.0]], dtype=np.float32)

    with pytest.raises(EntryError, match=r"up to 65504; found .* at \[1, 0\], 1 such"):
        to_float16(vectors)


def test_numbers_within_float16_are_rounded() -> None:
    halves = to_float16(np.array([[0.1, -65_504.0]], dtype=np.float32))

    assert halves.dtype == np.float16
    assert halves.tolist() == [[np.float16(0.1), -65_504.0]]


def test_exponents_are_the_smallest_that_bring_each_column_into_float16() -> None:
    peaks = np.array([0.0, 65_504.0, 65_505.0, 131_008.0, 131_009.0, 1e6], dtype=np.float32)

    assert column_exponents(peaks).tolist() == [0, 0, 1, 1, 2, 4]


def load(folder: Path) -> tuple[list[int], list[list[float]]]:
    ids, rows = np.load(folder / "client_ids.npy"), np.load(folder / "embeddings.npy")
    assert rows.dtype == np.float16
    return ids.tolist(), rows.tolist()


def test_a_column_with_a_large_number_is_divided_and_no_other(
    spark: SparkSession, workspace: Workspace, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    rows = [
        ("ensemble", 1, 10, [65_504.0, 0.125, 3.0], [], None, {}),
        ("ensemble", 0, 50, [-7.0, -1e6, 5.0], [], None, {}),
        ("other", 0, 50, [1.0], [], None, {}),
        ("other", 1, 10, [2.0], [], None, {}),
    ]
    write_table(spark.createDataFrame(rows, PROFILES.ddl), workspace, PROFILES)
    folders = {name: workspace.entry(name) for name in ("ensemble", "other")}

    assert export_profiles(read_table(spark, workspace, PROFILES), folders, 2) == {"ensemble": 3, "other": 1}

    assert load(folders["ensemble"]) == ([50, 10], [[-7, -62_496, 5], [65_504, 0.125 / 16, 3]])
    assert json.loads((folders["ensemble"] / "column_exponents.json").read_text()) == [0, 4, 0]
    assert load(folders["other"]) == ([50, 10], [[1], [2]])
    assert not (folders["other"] / "column_exponents.json").exists()
    assert "entry ensemble: 1 of 3 columns divided by powers of two" in caplog.text


def test_clients_that_are_not_present_have_zeros_in_a_blocks_entry(spark: SparkSession, workspace: Workspace) -> None:
    cutoff = write_clients(spark, workspace, [50, 10, 40])
    blocks = put_blocks(spark, workspace, {"a": {40: [1, 2], 50: [3, 4]}, "b": {10: [5]}})
    rows, clients = (read_table(spark, workspace, table) for table in (BLOCKS, CLIENTS))

    export_blocks(rows, clients, cutoff, {workspace.entry(name): block for name, block in blocks.items()})

    assert load(workspace.entry("a")) == ([50, 10, 40], [[3, 4], [0, 0], [1, 2]])
    assert load(workspace.entry("b")) == ([50, 10, 40], [[0], [5], [0]])
    assert json.loads((workspace.entry("a") / "feature_names.json").read_text()) == ["a/0", "a/1"]


def test_a_number_that_is_not_finite_leaves_no_entry(spark: SparkSession, workspace: Workspace) -> None:
    cutoff = write_clients(spark, workspace, [50])
    block = put_blocks(spark, workspace, {"a": {50: [np.nan, 1.0]}})["a"]
    rows, clients = (read_table(spark, workspace, table) for table in (BLOCKS, CLIENTS))

    with pytest.raises(EntryError, match="finite numbers"):
        export_blocks(rows, clients, cutoff, {workspace.entry("a"): block})
    assert list(workspace.entry("").glob("*")) == []
