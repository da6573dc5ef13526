"""The stage ``graph``: which edges it learns, whom it gives a vector, and when there is no block."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from eval_tables import save_ids, write_shop
from pyspark.sql import SparkSession

from conf.load import load_config
from conf.pipeline import PipelineConfig
from jobs.blocks.table import collect_blocks
from jobs.stages import graph, split
from jobs.storage.delta_tables import read_table
from jobs.storage.workspace import Workspace
from schemas.tables import BLOCKS, EDGES

BEFORE, AFTER = "2022-08-01", "2022-09-01"  # the cutoff itself is no input


def settings(*told: str, blocks: str = "[baseline,graph]", n_ranks: int = 1) -> PipelineConfig:
    small = ["graph.dimensions=4", "graph.epochs=2", f"ensemble.blocks={blocks}", f"training.n_ranks={n_ranks}"]
    return load_config("report", [*small, *told]).restricted_to("product_buy", "add_to_cart")


def read_vectors(spark: SparkSession, workspace: Workspace) -> dict[int, list[float] | None]:
    return {row["client_id"]: row["vector"] for row in read_table(spark, workspace, BLOCKS).collect()}


@pytest.fixture(scope="module")
def made(spark: SparkSession, shared_workspace: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """Clients 1 to 4 are given; 4 bought after the cutoff alone, 5 and 6 are others, of whom 5 did more."""
    workspace = Workspace(shared_workspace.out, tmp_path_factory.mktemp("data"))
    buys = [(1, BEFORE, 70), (1, BEFORE, 70), (1, BEFORE, 71), (2, BEFORE, 70), (6, BEFORE, 70)]
    buys += [(5, BEFORE, sku) for sku in (70, 71, 72)] + [(4, AFTER, 70), (4, AFTER, 99), (1, "2022-09-28", 70)]
    adds = [(3, BEFORE, 71), (1, BEFORE, 70), (2, AFTER, 71)]
    write_shop(spark, workspace, settings(), product_buy=buys, add_to_cart=adds)
    save_ids(workspace, "input/relevant_clients.npy", [3, 2, 1, 4])
    split.run(spark, settings(), workspace)
    return workspace


@pytest.fixture
def shop(made: Workspace, tmp_path: Path) -> Workspace:
    return Workspace(Path(shutil.copytree(made.out, tmp_path / "out")), made.data)


def test_edges_are_what_was_done_before_the_cutoff_by_the_given_clients_and_the_busiest_others(
    spark: SparkSession, shop: Workspace, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    graph.run(spark, settings(blocks="[baseline]"), shop)
    assert "graph: left out: ensemble.blocks does not name it" in caplog.text

    config = settings("graph.max_other_clients=1", "graph.max_items=2")
    runs = []
    for _ in range(2):
        graph.run(spark, config, shop)
        runs.append(read_vectors(spark, shop))
    # skus by edges: 70 (5), 71 (3), 72 (1: left out); bought twice is one edge, bought and added two
    edges = [(row["client_id"], row["target_number"]) for row in read_table(spark, shop, EDGES).collect()]
    assert sorted(edges) == [(1, 0), (1, 1), (1, 2), (2, 0), (3, 3), (5, 0), (5, 2)]
    assert runs[0] == runs[1]
    assert runs[0].keys() == {1, 2, 3, 4}
    assert runs[0][4] is None
    present = [vector for vector in runs[0].values() if vector is not None]
    np.testing.assert_allclose(np.linalg.norm(present, axis=1), 1, rtol=1e-5)
    assert collect_blocks(spark, shop)["graph"].columns == tuple(f"graph/{n}" for n in range(4))
    assert not (shop.out / ".graph").exists()

    graph.run(spark, settings("graph.dimensions=10"), shop)
    assert "graph: left out: 9 edges of a client and a sku in product_buy, add_to_cart before 2022-09-01" in caplog.text
    assert "graph: its rows of an earlier run are removed" in caplog.text
    graph.run(spark, load_config("report", ["ensemble.blocks=[graph]"]).restricted_to("product_buy"), shop)
    assert "graph: no edges of add_to_cart: the configuration has no such behaviour of skus" in caplog.text
    assert "graph: left out: 7 edges of a client and a sku in product_buy before" in caplog.text


@pytest.mark.slow
def test_two_ranks_read_parts_of_their_own_and_give_each_client_a_vector(spark: SparkSession, shop: Workspace) -> None:
    graph.run(spark, settings(n_ranks=2), shop)
    assert {row["part"] for row in read_table(spark, shop, EDGES).collect()} == {0, 1}
    vectors = read_vectors(spark, shop)
    assert vectors.keys() == {1, 2, 3, 4}
    assert vectors[4] is None
    np.testing.assert_allclose([np.linalg.norm(vectors[client]) for client in (1, 2, 3)], 1, rtol=1e-5)  # type: ignore[arg-type]
