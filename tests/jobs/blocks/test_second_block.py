"""The interface of a block, by a second implementation: one number, written, composed, exported and ablated."""

from dataclasses import replace

import numpy as np
import pytest
from block_tables import put_blocks, write_clients
from eval_tables import CONFIG, purchases
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from conf.evaluation import ProbeSettings
from conf.profile import EnsembleSettings
from jobs.blocks.table import Block, write_block
from jobs.commands import ablate
from jobs.stages import profiles
from jobs.storage.delta_tables import read_table, write_table
from jobs.storage.workspace import Workspace
from jobs.transforms.windows import events_before, read_windows
from schemas.tables import CLIENTS, LABELS, PROFILES, TARGETS

N = 12
SETTINGS = replace(
    CONFIG,
    probe=ProbeSettings(hidden_size=8, n_blocks=1, batch_size=4, tasks=("churn",)),
    ensemble=EnsembleSettings(blocks=("largest_sku",), blocks_scaling="none", log_blocks=False),
)


def largest_sku(events: DataFrame) -> tuple[Block, DataFrame]:
    vectors = events.groupBy("client_id").agg(F.array(F.max("sku").cast("float")).alias("vector"))
    return Block("largest_sku", ("largest_sku",), "purchases"), vectors


@pytest.fixture
def shop(spark: SparkSession, workspace: Workspace) -> Workspace:
    """12 clients with one encoder's vectors, and labels; those with odd ids churn."""
    write_clients(spark, workspace, range(N))
    put_blocks(spark, workspace, {"product_buy": {client: [client, 1.0] for client in range(N)}})
    write_table(spark.createDataFrame([], LABELS.ddl), workspace, LABELS)
    labels = [("churn", window, i, i, [i % 2]) for window in ("train", "validation") for i in range(N)]
    write_table(spark.createDataFrame(labels, TARGETS.ddl), workspace, TARGETS)
    return workspace


@pytest.mark.slow
def test_a_block_of_one_number_is_written_composed_exported_and_ablated(spark: SparkSession, shop: Workspace) -> None:
    cutoff = read_windows(spark, shop).input_end
    events = purchases(
        spark, [(3, "2022-08-01", 70), (3, "2022-08-02", 90), (4, "2022-08-01", 0), (5, "2022-09-02", 8)]
    )
    block, vectors = largest_sku(events_before(events, cutoff))

    write_block(block, vectors, read_table(spark, shop, CLIENTS), cutoff, shop)
    profiles.run(spark, SETTINGS, shop)
    found = ablate.run(spark, SETTINGS, shop)

    rows = read_table(spark, shop, PROFILES).filter("profile = 'ensemble+largest_sku'").orderBy("position").collect()
    assert [row["vector"][2] for row in rows] == [0, 0, 0, 90, 0, *[0] * 7]
    has_it = [client in (3, 4) for client in range(N)]  # client 4's number is 0, and it is present
    assert ["largest_sku" in row["present"] for row in rows] == [row["vector"][4] == 1 for row in rows] == has_it
    exported = np.load(shop.entry("largest_sku") / "embeddings.npy")
    assert exported.tolist() == [[0], [0], [0], [90], *[[0]] * 8]
    assert [variant["name"] for variant in found["variants"]] == ["only product_buy", "only largest_sku", "all"]
