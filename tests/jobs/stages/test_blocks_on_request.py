"""The stages ``counters`` and ``factorisation``: what they write when asked, and what goes when it cannot be made."""

from pathlib import Path

import pytest
from block_tables import put_blocks
from eval_tables import SMALL, save_ids, write_shop
from pyspark.sql import SparkSession

from conf.load import load_config
from conf.pipeline import PipelineConfig
from jobs.blocks.table import collect_blocks
from jobs.profiles.composition import collect_profile_blocks
from jobs.stages import counters, factorisation, split
from jobs.storage.delta_tables import read_table
from jobs.storage.workspace import Workspace
from jobs.transforms.windows import read_windows
from schemas.tables import BLOCKS


def asking_for(*blocks: str) -> PipelineConfig:
    told = [f"ensemble.blocks=[{','.join(blocks)}]", "factorisation.factors=2", "factorisation.iterations=1"]
    return load_config("report", told).restricted_to("product_buy", "page_visit")


def test_blocks_are_made_when_asked_for_and_one_that_cannot_be_made_any_more_goes(
    spark: SparkSession, workspace: Workspace, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    (tmp_path / "data").mkdir()
    workspace = Workspace(workspace.out, tmp_path / "data")
    buys = [(client, f"2022-08-0{day}", 70 + day) for client in (1, 2) for day in (1, 2, 3)] + [
        (1, day, 70) for day in ("2022-09-10", "2022-09-28")
    ]
    visits = [(1, "2022-08-01", 5), (2, "2022-08-02 10:00:00", 6), (2, "2022-08-30", 5)]
    products = [(70 + day, day % 2, day * 10, None) for day in range(4)]
    write_shop(spark, workspace, SMALL, products=products, product_buy=buys, page_visit=visits)
    save_ids(workspace, "input/relevant_clients.npy", [3, 2, 1])
    split.run(spark, SMALL, workspace)
    put_blocks(spark, workspace, {"product_buy": {1: [1], 2: [0]}, "als_url": {3: [1, 2]}, "als_category": {3: [1, 2]}})

    counters.run(spark, asking_for("baseline"), workspace)
    factorisation.run(spark, asking_for("baseline"), workspace)
    assert "counters: left out: ensemble.blocks does not name it" in caplog.text
    assert "als_url: left out: ensemble.blocks does not name it" in caplog.text
    assert collect_blocks(spark, workspace).keys() == {"product_buy", "als_url", "als_category"}

    config = asking_for("counters", "als_category", "als_url")
    counters.run(spark, config, workspace)
    factorisation.run(spark, config, workspace)
    made = collect_blocks(spark, workspace)
    assert made.keys() == {"product_buy", "counters", "als_category", "als_url"}
    rows = read_table(spark, workspace, BLOCKS).filter("block != 'product_buy'").collect()
    present = {(row["block"], row["client_id"]) for row in rows if row["is_present"]}
    assert present == {(name, client) for name in ("counters", "als_category", "als_url") for client in (1, 2)}
    assert all(len(row["vector"]) == len(made[row["block"]].columns) for row in rows if row["is_present"])

    factorisation.run(spark, asking_for("als_url", "als_category").restricted_to("product_buy"), workspace)
    assert "als_url: left out: the configuration has none of page_visit" in caplog.text
    assert "als_url: its rows of an earlier run are removed" in caplog.text
    cutoff = read_windows(spark, workspace).input_end
    own, further = collect_profile_blocks(spark, config, workspace, cutoff)
    assert [block.name for block in own + further] == ["product_buy", "counters", "als_category"]
    assert "als_url: left out: its stage found too little to make it from" in caplog.text
