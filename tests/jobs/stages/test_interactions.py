"""The stage ``interactions``: what it writes, twice the same, and when it leaves the block out."""

from pathlib import Path

import numpy as np
import pytest
from block_tables import put_blocks
from eval_tables import SMALL, save_ids, write_shop
from pyspark.sql import SparkSession

from conf.load import load_config
from conf.pipeline import PipelineConfig
from jobs.blocks.table import collect_blocks
from jobs.stages import interactions, split
from jobs.storage.delta_tables import read_table
from jobs.storage.workspace import Workspace
from schemas.tables import BLOCKS

SIZES = ("ranks=[3,2]", "n_bins=4", "n_sub_bins=2", "dense_widths=[4]", "head_width=4", "batch_size=8", "epochs=2")


def configured(*told: str, blocks: str = "interactions") -> PipelineConfig:
    own = [f"interactions.{one}" for one in (*SIZES, "windows_before=[1,10]", *told)]
    config = load_config("report", [f"ensemble.blocks=[{blocks}]", "training.n_ranks=1", *own])
    return config.restricted_to("product_buy", "page_visit")


@pytest.fixture
def shop(spark: SparkSession, workspace: Workspace, tmp_path: Path) -> Workspace:
    """Eight clients who visit and buy on days of their own; of the ninth there is no event."""
    (tmp_path / "data").mkdir()
    workspace = Workspace(workspace.out, tmp_path / "data")
    days = [f"2022-{month:02d}-{day:02d}" for month in (7, 8, 9) for day in range(1, 29)]
    buys = [(client, day, 70 + client % 3) for client in range(1, 9) for day in days[client :: 3 + client]]
    visits = [(client, f"{day} 10:00:00", 5 + client % 2) for client in range(1, 9) for day in days[client::2]]
    products = [(70 + number, number % 2, number * 10, None) for number in range(3)]
    write_shop(
        spark, workspace, SMALL, products=products, product_buy=[*buys, (1, "2022-09-28", 70)], page_visit=visits
    )
    save_ids(workspace, "input/relevant_clients.npy", range(9, 0, -1))
    split.run(spark, SMALL, workspace)
    return workspace


@pytest.mark.slow
def test_the_block_is_written_twice_the_same_and_goes_where_too_few_clients_buy(
    spark: SparkSession, shop: Workspace, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    put_blocks(spark, shop, {"product_buy": {1: [1]}})
    interactions.run(spark, configured(blocks="baseline"), shop)
    assert "interactions: left out: ensemble.blocks does not name it" in caplog.text
    config = configured("min_buyers=3")
    found = []
    for _ in range(2):
        interactions.run(spark, config, shop)
        assert collect_blocks(spark, shop).keys() == {"product_buy", "interactions"}
        rows = read_table(spark, shop, BLOCKS).filter("block = 'interactions'").orderBy("client_id").collect()
        assert [row["client_id"] for row in rows if row["is_present"]] == list(range(1, 9))
        assert len(rows) == 9
        found.append(np.array([row["vector"] for row in rows[:8]], np.float32))
    assert found[0].shape == (8, 5)
    assert len(np.unique(found[0], axis=0)) == 8
    np.testing.assert_array_equal(*found)
    assert "interactions: no training rows of 140 days before 2022-09-01" in caplog.text
    assert "interactions: 8 training rows, loss " in caplog.text
    assert list(shop.out.glob(".interactions*")) == []

    interactions.run(spark, configured("min_buyers=9"), shop)
    assert (
        "8 times a client bought in the 14 days after an earlier cutoff, fewer than interactions.min_b" in caplog.text
    )
    assert collect_blocks(spark, shop).keys() == {"product_buy"}
    interactions.run(spark, config.restricted_to("page_visit"), shop)
    assert "interactions: left out: the configuration has no behaviour product_buy" in caplog.text
