"""The stage ``graph``: which edges it learns, by which vectors of skus, whom it gives a vector, when there is none."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from eval_tables import save_ids, write_shop
from pyspark.sql import SparkSession

from conf.load import load_config
from conf.pipeline import PipelineConfig
from jobs.blocks.graph import tokens_of_skus
from jobs.blocks.table import collect_blocks
from jobs.runtime.rank_launcher import run_ranks
from jobs.stages import graph, split
from jobs.storage.delta_tables import read_table, write_table
from jobs.storage.workspace import Workspace
from jobs.transforms.vocabulary import collect_summaries
from ml.data.edge_files import read_item_vectors
from ml.data.vocabulary import VocabularyDescription
from ml.models.transformer import Transformer
from ml.training.checkpoint import ModelCard, save_model
from schemas.errors import ModelError
from schemas.tables import BLOCKS, EDGES, VOCABULARIES

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
def test_skus_have_the_vectors_of_an_encoder_where_one_is_named_and_there_is_a_model_of_it(
    spark: SparkSession, shop: Workspace, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the model two ranks train, and read parts of their own."""
    caplog.set_level("INFO")
    told = ["graph.item_encoder=product_buy", "model.hidden_size=8", "model.n_layers=1"]
    config = settings(*told)
    graph.run(spark, config, shop)
    assert "graph: skus have learnt vectors: there is no model of graph.item_encoder=product_buy" in caplog.text
    learnt = read_vectors(spark, shop)

    words = [("product_buy", "71", 3, 5), ("product_buy", "70", 4, 2), ("add_to_cart", "72", 3, 9)]
    write_table(spark.createDataFrame(words, VOCABULARIES.ddl), shop, VOCABULARIES)
    vocabulary, encoder = VocabularyDescription(5), config.encoders["product_buy"]
    fingerprint = collect_summaries(read_table(spark, shop, VOCABULARIES))["product_buy"].fingerprint
    model = Transformer(encoder, vocabulary)
    model.initialise()
    save_model(shop.model("product_buy"), model, ModelCard("product_buy", encoder, vocabulary, fingerprint, 0), {})
    read = []

    def note(*arguments: object) -> object:
        (job,) = arguments[3]  # type: ignore[misc]
        read.append(read_item_vectors(job.given.urls, job.n_items, job.given.width, job.reader))
        return run_ranks(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(graph, "run_ranks", note)
    graph.run(spark, settings(*told, n_ranks=2), shop)
    assert "graph: 2 of 3 skus have vectors of product_buy, the others zeros" in caplog.text
    with torch.inference_mode():  # skus by edges: 70, 71, 72
        expected = [*model.item_vectors(torch.tensor([4, 3])).numpy(), np.zeros(8)]
    np.testing.assert_allclose(read[0], expected, atol=1e-6)
    assert {row["part"] for row in read_table(spark, shop, EDGES).collect()} == {0, 1}
    given = read_vectors(spark, shop)
    assert given.keys() == learnt.keys() == {1, 2, 3, 4}
    assert given[4] is None
    np.testing.assert_allclose([np.linalg.norm(given[client]) for client in (1, 2, 3)], 1, rtol=1e-5)  # type: ignore[arg-type]
    assert given[1] != learnt[1]
    assert "skus by the vectors of product_buy" in collect_blocks(spark, shop)["graph"].made_from

    unknown = [("product_buy", "99", 3, 5), ("product_buy", "98", 4, 2)]
    write_table(spark.createDataFrame(unknown, VOCABULARIES.ddl), shop, VOCABULARIES)
    with pytest.raises(ModelError, match="belongs to another vocabulary"):
        graph.run(spark, config, shop)


def test_a_merged_stream_knows_skus_by_their_column(spark: SparkSession) -> None:
    words = [
        ("mixed", "sku 7", 3, 5),
        ("mixed", "url 8", 4, 2),
        ("mixed", "sku 9", 5, 1),
        ("mixed", "query [1 2]", 6, 1),
    ]
    tokens = tokens_of_skus(spark.createDataFrame(words, VOCABULARIES.ddl), is_merged=True)
    assert sorted(map(tuple, tokens.collect())) == [(7, 3), (9, 5)]
