"""The tables of blocks: stored presence, the rows that a write replaces, and what is refused."""

from datetime import timedelta

import numpy as np
import pyarrow as pa
import pytest
from block_tables import put_blocks, write_clients
from pyspark.sql import SparkSession

from jobs.blocks.table import (
    Block,
    collect_blocks,
    collect_digests,
    dense_vectors,
    read_rows,
    require_clients,
    write_block,
)
from jobs.storage.delta_tables import latest_commit, read_table
from jobs.storage.workspace import Workspace
from schemas.errors import EntryError
from schemas.tables import BLOCK_COLUMNS, BLOCKS, CLIENTS

VECTORS = "client_id bigint, vector array<float>"


def test_a_block_has_a_row_of_every_client_and_a_write_replaces_no_other_block(
    spark: SparkSession, workspace: Workspace
) -> None:
    cutoff = write_clients(spark, workspace, [50, 10, 40])
    put_blocks(spark, workspace, {"a": {50: [1, 2]}, "b": {10: [0]}})
    digests = collect_digests(spark, workspace, ["a", "b"], cutoff)
    block = Block("a", ("a/0", "a/1"), "a test")
    vectors = spark.createDataFrame([(40, [3.0, 4.0]), (50, [0.0, 0.0]), (99, [7.0, 7.0])], VECTORS)
    write_block(block, vectors, read_table(spark, workspace, CLIENTS), cutoff, workspace)

    rows = {(row["block"], row["client_id"]): row for row in read_table(spark, workspace, BLOCKS).collect()}
    assert {key: (row["is_present"], row["vector"]) for key, row in rows.items()} == {
        ("a", 50): (True, [0, 0]), ("a", 10): (False, None), ("a", 40): (True, [3, 4]),
        ("b", 50): (False, None), ("b", 10): (True, [0]), ("b", 40): (False, None),
    }  # fmt: skip
    assert {row["cutoff"] for row in rows.values()} == {cutoff}
    assert collect_blocks(spark, workspace) == {
        "a": block,
        "b": Block("b", ("b/0",), "a test"),
    }
    again = collect_digests(spark, workspace, ["a", "b", "c"], cutoff)
    assert (again["b"], again.keys()) == (digests["b"], {"a", "b"})
    assert again["a"] != digests["a"]
    assert latest_commit(spark, workspace, BLOCKS).n_rows == 3
    assert latest_commit(spark, workspace, BLOCK_COLUMNS).n_rows == 2


def test_a_run_without_blocks_has_none(spark: SparkSession, workspace: Workspace) -> None:
    assert collect_blocks(spark, workspace) == {}


def test_a_block_of_other_clients_or_another_cutoff_is_refused(spark: SparkSession, workspace: Workspace) -> None:
    cutoff = write_clients(spark, workspace, [50, 10, 40])
    put_blocks(spark, workspace, {"a": {50: [1]}})
    require_clients(spark, workspace, ["a"], cutoff)
    later = cutoff + timedelta(days=1)
    assert read_rows(spark, workspace, ["a"], later).count() == 0
    with pytest.raises(EntryError, match=r"block 'a': expected a row of each of the 3 clients .* found 0 of them"):
        require_clients(spark, workspace, ["a"], later)
    write_clients(spark, workspace, [50, 20])
    with pytest.raises(EntryError, match=r"each of the 2 clients .* found 1 of them and 2 others; run the stage"):
        require_clients(spark, workspace, ["a"], cutoff)


def test_vectors_become_a_rectangle_with_zeros_for_the_absent() -> None:
    lists = pa.array([[1, 2], None, [3, 4]], pa.list_(pa.float32()))
    is_present = np.array([True, False, True])
    assert dense_vectors(lists, is_present, 2).tolist() == [[1, 2], [0, 0], [3, 4]]
    assert dense_vectors(lists.slice(1, 2), is_present[1:], 2).tolist() == [[0, 0], [3, 4]]
    assert dense_vectors(lists.slice(1, 1), is_present[1:2], 2).tolist() == [[0, 0]]
    with pytest.raises(EntryError, match=r"expected 2 vectors of the 3 columns .* found 4 numbers"):
        dense_vectors(lists, is_present, 3)
