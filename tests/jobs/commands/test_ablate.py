"""What each block is worth: the variants, their scores, and the table of them."""

import json
from dataclasses import replace

import numpy as np
import pytest
from block_tables import put_blocks, write_clients
from eval_tables import CONFIG
from pyspark.sql import SparkSession

from conf.evaluation import ProbeSettings
from conf.profile import EnsembleSettings
from jobs.blocks.table import Block
from jobs.commands import ablate
from jobs.evaluation.ablation import read_ablation
from jobs.storage.delta_tables import write_table
from jobs.storage.metrics_log import lines_of_stage
from jobs.storage.workspace import Workspace
from schemas.errors import EntryError
from schemas.tables import LABELS, TARGETS

TINY = replace(
    CONFIG,
    probe=ProbeSettings(hidden_size=8, n_blocks=1, batch_size=4, learning_rate=0.03, tasks=("churn",)),
    ensemble=EnsembleSettings(scaling="column", absent="mean", blocks=("counts",)),
)
N = 24


@pytest.fixture
def shop(spark: SparkSession, workspace: Workspace) -> Workspace:
    """24 clients; those at odd positions churn, which ``product_buy`` tells and the other blocks do not."""
    client_ids = 100 - np.arange(N)
    write_clients(spark, workspace, client_ids)
    write_table(spark.createDataFrame([], LABELS.ddl), workspace, LABELS)
    rows = [
        (task, window, position, int(client), [position % 2])
        for task in ("churn", "conversion")
        for window in ("train", "validation")
        for position, client in enumerate(client_ids)
    ]
    write_table(spark.createDataFrame(rows, TARGETS.ddl), workspace, TARGETS)
    telling = np.where(np.arange(N) % 2, 4.0, -4.0)[:, None] + np.zeros(4)
    vectors = {"product_buy": telling, "page_visit": np.ones((N, 4)), "counts": np.ones((N, 4))}
    of_clients = {name: dict(zip(client_ids.tolist(), of, strict=True)) for name, of in vectors.items()}
    with lines_of_stage("embed"):
        put_blocks(spark, workspace, of_clients)
    return workspace


def test_a_block_that_tells_the_task_is_seen_alone_and_missed_where_it_is_left_out(
    spark: SparkSession, shop: Workspace
) -> None:
    found = ablate.run(spark, TINY, shop)

    assert json.loads((shop.out / "ablation.json").read_text()) == found
    assert (found["blocks"], found["repeats"]) == (["product_buy", "page_visit", "counts"], 1)
    names = ["product_buy", "page_visit", "counts"]
    expected = [*(f"only {name}" for name in names), *(f"without {name}" for name in names), "all"]
    assert [variant["name"] for variant in found["variants"]] == expected
    widths = {variant["name"]: variant["width"] for variant in found["variants"]}
    assert (widths["only counts"], widths["without counts"], widths["all"]) == (5, 10, 15)
    assert all(list(variant["scores"]) == ["churn"] for variant in found["variants"])
    auroc = {variant["name"]: variant["scores"]["churn"]["auroc"] for variant in found["variants"]}
    assert auroc["only product_buy"] == auroc["without page_visit"] == auroc["all"] == 1.0
    assert auroc["only page_visit"] == auroc["only counts"] == auroc["without product_buy"] == 0.5
    assert list(found["seconds"]) == names  # which took how long, no test may say
    assert not (shop.out / "entries").exists()
    assert not (shop.out / "ablation").exists()
    assert not (shop.out / "scores.json").exists()
    assert read_ablation(spark, TINY, shop) == found


def test_of_two_blocks_none_is_left_out() -> None:
    blocks = [Block(name, ("x",), "a test") for name in ("a", "b")]

    assert list(ablate.list_variants(blocks)) == ["only a", "only b", "all"]


def test_without_blocks_the_stage_to_run_is_named(spark: SparkSession, workspace: Workspace) -> None:
    write_clients(spark, workspace, [1])
    with pytest.raises(EntryError, match="found none; run embed first"):
        ablate.run(spark, TINY, workspace)


def test_the_table_shows_what_is_lost_without_a_block() -> None:
    def variant(name: str, swing: float = 0.0, **scores: float) -> dict[str, object]:
        repeats = [scores["sku"] - swing, scores["sku"] + swing]
        repeated = {"score": 0.0, "mean": scores["sku"], "std": 0.1, "n_repeats": 2, "repeats": repeats}
        of_task = {"churn": {"score": scores["churn"]}, "propensity_sku": repeated}
        return {"name": name, "kind": name.split()[0], "scores": of_task}

    variants = [
        variant("only a", churn=0.5, sku=0.25),
        variant("without a", swing=0.1, churn=0.75, sku=0.5),
        variant("without b", churn=0.75, sku=0.625),
        variant("all", churn=1.0, sku=0.375),
    ]
    lines = ablate.format_ablation({"repeats": 2, "variants": variants, "seconds": {"a": 1234.5}}).splitlines()

    assert [line.split() for line in lines[:-1]] == [
        ["churn", "sku", "sum", "seconds"],
        ["only", "a", "0.5000", "0.2500", "0.7500", "1,234.5"],
        ["without", "a", "0.7500", "0.5000", "1.2500"],
        ["-0.2500", "+0.1250~", "-0.1250"],
        ["without", "b", "0.7500", "0.6250", "1.3750"],
        ["-0.2500", "+0.2500", "+0.0000"],
        ["all", "1.0000", "0.3750", "1.3750"],
    ]
    assert lines[-1] == (
        "Scores, means of 2 repeats; below each score without a block, the difference to all blocks (~ where repeats "
        "do not tell it from none: paired t-tests, 2 in this table, Holm correction, level 5%). Seconds: of making the "
        "block, an encoder's training included."
    )
    for of_variant in variants:
        del of_variant["scores"]["propensity_sku"]
    for of_variant in variants:
        of_variant["name"] = str(of_variant["name"]).replace(" a", f" {'a' * 40}")
    wide = ablate.format_ablation({"repeats": 2, "variants": variants, "seconds": {}}).splitlines()[:-1]
    assert len({len(line) for line in wide[1:]}) == 1, "a long name moves no column"
    once = ablate.format_ablation({"repeats": 1, "variants": variants, "seconds": {}})
    assert "(how much of it is noise is unknown: it takes --repeats, 3 or more)." in once
