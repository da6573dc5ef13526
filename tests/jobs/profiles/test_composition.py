"""Profiles composed by Spark: the moments that tasks add up, whole clients, and what is refused."""

import subprocess
import sys
from datetime import datetime

import numpy as np
import pyarrow as pa
import pytest
from block_tables import put_blocks, write_clients
from pyspark.sql import SparkSession

from conf.load import load_config
from conf.profile import BlockSettings, EnsembleSettings
from jobs.profiles.composition import (
    collect_moments,
    collect_profile_blocks,
    collect_quantiles,
    compose_profiles,
    whole_clients,
)
from jobs.storage.workspace import Workspace
from ml.profiles.composition import BlockRows, fit_composition
from ml.profiles.moments import Moments
from schemas.errors import EntryError
from schemas.tables import BLOCKS, IDS


def random_block(n: int, width: int, seed: int) -> BlockRows:
    """A third of the clients is absent."""
    rng = np.random.default_rng(seed)
    return BlockRows(f"block_{width}", rng.normal(3.0, 2.0, (n, width)).astype(np.float32), np.arange(n) % 3 > 0)


def signed_log(vectors: np.ndarray) -> np.ndarray:
    return np.copysign(np.log1p(np.abs(vectors)), vectors)


def test_tasks_add_up_the_moments_of_the_clients_that_have_a_block(spark: SparkSession) -> None:
    blocks = [random_block(30, 6, seed=1), random_block(30, 2, seed=2)]
    rows = [
        (block.name, datetime(2022, 9, 1), client, bool(has_it), vector.tolist() if has_it else None)
        for block in blocks
        for client, (has_it, vector) in enumerate(zip(block.is_present, block.vectors, strict=True))
    ]
    frame = spark.createDataFrame(rows, BLOCKS.ddl).repartition(7)
    widths = {block.name: block.vectors.shape[1] for block in blocks} | {"nobody": 3}

    found = collect_moments(frame, widths, EnsembleSettings(blocks=("block_2",)))

    for block in blocks:
        own = block.vectors[block.is_present].astype(np.float64)
        own = signed_log(own) if block.name == "block_2" else own
        assert found[block.name].n_rows == 20
        np.testing.assert_allclose(found[block.name].mean, own.mean(axis=0), rtol=1e-6)
        np.testing.assert_allclose(found[block.name].covariance, np.cov(own, rowvar=False, ddof=0), rtol=1e-5)
    assert (found["nobody"].n_rows, found["nobody"].mean.tolist()) == (0, [0, 0, 0])


def test_profiles_equal_those_composed_in_memory(spark: SparkSession, workspace: Workspace) -> None:
    n, settings = 40, EnsembleSettings(scaling="column", absent="mean", blocks=("block_2",))
    ids = np.random.default_rng(0).permutation(n) + 100
    cutoff = write_clients(spark, workspace, ids)
    blocks = [random_block(n, 6, seed=1), random_block(n, 2, seed=2)]
    vectors = {
        block.name: {int(ids[row]): block.vectors[row] for row in np.flatnonzero(block.is_present)} for block in blocks
    }
    made = put_blocks(spark, workspace, vectors)
    profiles = {"both": [made["block_6"], made["block_2"]], "alone": [made["block_2"]]}

    keys = [(0, "client_id", "bob", int(ids[1])), (0, "sku", "fan", int(ids[0]))]
    own_ids = spark.createDataFrame(keys, IDS.ddl)
    composed = compose_profiles(spark, workspace, profiles, cutoff, settings, own_ids, {"mixed": "a1"})
    rows = composed.orderBy("profile", "position").collect()

    parts = [blocks[0], BlockRows("block_2", signed_log(blocks[1].vectors), blocks[1].is_present)]
    for name, own in {"both": parts, "alone": parts[1:]}.items():
        composition = fit_composition({part.name: Moments.of(part.vectors[part.is_present]) for part in own}, settings)
        of_profile = [row for row in rows if row["profile"] == name]
        assert [(row["position"], row["client_id"]) for row in of_profile] == list(enumerate(ids))
        np.testing.assert_allclose([row["vector"] for row in of_profile], composition.compose(own), atol=1e-5)
        present = [[part.name for part in own if part.is_present[row]] for row in range(n)]
        assert [row["present"] for row in of_profile] == present
        assert [row["client_key"] for row in of_profile] == [None, "bob"] + [None] * (n - 2)
        assert [row["models"] for row in of_profile] == [{"mixed": "a1"}] * n


def test_quantiles_and_networks_are_of_the_clients_that_have_a_block(spark: SparkSession, workspace: Workspace) -> None:
    n = 60
    stacking = {name: BlockSettings(transform="quantile", absent="mean") for name in ("block_2", "nobody")}
    settings = EnsembleSettings(stacking=stacking, presence_flags=False)
    ids = np.arange(n) + 100
    cutoff = write_clients(spark, workspace, ids)
    block = random_block(n, 2, seed=2)
    vectors = {int(ids[row]): block.vectors[row] for row in np.flatnonzero(block.is_present)}
    made = put_blocks(spark, workspace, {"block_2": vectors})

    profiles = compose_profiles(spark, workspace, {"one": [made["block_2"]]}, cutoff, settings)
    rows = profiles.orderBy("position").collect()

    found = np.array([row["vector"] for row in rows])
    own = block.vectors[block.is_present]
    shares = (own[:, None] > own).mean(axis=1) + 0.5 / len(own)
    np.testing.assert_allclose(found[block.is_present], shares, atol=0.03)
    np.testing.assert_allclose(found[~block.is_present], 0.5, atol=0.03)
    # a network that makes one column of the two is trained on the same clients
    own = BlockSettings(max_columns=1, reduction="autoencoder", scaling="column", weight=2.0)
    fewer = EnsembleSettings(stacking={"block_2": own}, presence_flags=False)
    rows = compose_profiles(spark, workspace, {"one": [made["block_2"]]}, cutoff, fewer).orderBy("position").collect()
    found = np.array([row["vector"] for row in rows])
    assert found.shape == (n, 1)
    assert found[block.is_present].std() == pytest.approx(2.0, abs=1e-3)
    none = collect_quantiles(spark.createDataFrame([], BLOCKS.ddl), {"nobody": 1}, settings)
    assert none["nobody"].shape == (1, 101)
    assert not none["nobody"].any()


def test_workers_that_compose_profiles_load_no_torch() -> None:
    code = "import sys, jobs.profiles.composition; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_batches_end_with_a_clients_last_row() -> None:
    rows = pa.RecordBatch.from_arrays([pa.array(range(12))], names=["row"])
    cut = [rows.slice(start, stop - start) for start, stop in ((0, 2), (2, 7), (7, 7), (7, 8), (8, 12))]

    found = [batch.column(0).to_pylist() for batch in whole_clients(cut, 3)]

    assert [len(batch) % 3 for batch in found] == [0] * len(found)
    assert [row for batch in found for row in batch] == list(range(12))


def test_a_block_that_is_not_there_is_named_with_what_to_do_and_one_that_no_client_has_is_left_out(
    spark: SparkSession, workspace: Workspace, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    cutoff = write_clients(spark, workspace, [50, 10])

    def found(*settings: str) -> list[list[str]]:
        both = collect_profile_blocks(spark, load_config("demo", settings), workspace, cutoff)
        return [[block.name for block in blocks] for blocks in both]

    alone = "ensemble.activity=false"
    with pytest.raises(EntryError, match=r"expected blocks of the encoders product_buy, .* run embed first"):
        found(alone, "ensemble.blocks=[clip]")
    of_others = {99: [1]}
    put_blocks(spark, workspace, {"product_buy": {50: [1]}, "page_visit": of_others, "als_category": of_others})
    with pytest.raises(EntryError, match=r"block 'clip': expected it in the table blocks, found als_.*buy; run"):
        found(alone, "ensemble.blocks=[clip]")
    with pytest.raises(EntryError, match=r"block 'activity'"):
        found("ensemble.blocks=[]")
    assert found(alone, "ensemble.blocks=[]") == [["product_buy"], []]
    assert found(alone, "ensemble.blocks=[als_category]") == [["product_buy"], []]
    for name in ("page_visit", "als_category"):
        assert f"{name}: left out: no client to profile has it" in caplog.text
    put_blocks(spark, workspace, {"product_buy": of_others})
    with pytest.raises(EntryError, match=r"expected a client to profile with an event of an encoder"):
        found(alone, "ensemble.blocks=[]")
