"""Blocks in entry form: the same clients, the moments that tasks add up, and the entries composed of them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pyspark.sql import SparkSession

from conf.load import load_config
from conf.profile import EnsembleSettings
from jobs.cli import main
from jobs.profiles import composition as b
from jobs.profiles import moments as m
from jobs.stages.embed import remove_other_entries
from jobs.storage import locations
from jobs.storage.workspace import Workspace
from ml.profiles.moments import Moments
from schemas.errors import ConfigError, EntryError

IDS = np.array([50, 10, 40, 20, 30])
PLAIN = EnsembleSettings(scaling="none", absent="zeros", presence_flags=True)


def write(folder: Path, rows: np.ndarray, ids: np.ndarray = IDS) -> Path:
    folder.mkdir(parents=True)
    np.save(folder / "client_ids.npy", ids)
    np.save(folder / "embeddings.npy", np.asarray(rows, dtype=np.float16))
    return folder


def random_rows(n: int, width: int, seed: int) -> np.ndarray:
    """Rows of an entry; every third client is absent."""
    rows = np.random.default_rng(seed).normal(3.0, 2.0, (n, width)).astype(np.float16)
    rows[::3] = 0
    return rows


@pytest.fixture
def buys(workspace: Workspace) -> np.ndarray:
    rows = random_rows(5, 2, seed=0)
    write(workspace.entry("product_buy"), rows)
    return rows


def test_tasks_add_up_the_moments_of_the_clients_that_have_a_block(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(m, "ROWS_PER_TASK", 7)
    ids, entries = np.arange(30), {"wide": random_rows(30, 6, seed=1), "narrow": random_rows(30, 2, seed=2)}
    stored = [b.StoredBlock(name, write(tmp_path / name, rows, ids)) for name, rows in entries.items()]

    found = m.collect_moments(spark.sparkContext, stored)

    for name, rows in entries.items():
        own = rows[rows.any(axis=1)].astype(np.float64)
        assert found[name].n_rows == 20
        np.testing.assert_allclose(found[name].mean, own.mean(axis=0), rtol=1e-12)
        np.testing.assert_allclose(found[name].covariance, np.cov(own, rowvar=False, ddof=0), rtol=1e-10)


def test_a_block_from_outside_is_put_into_the_clients_order(workspace: Workspace, buys: np.ndarray) -> None:
    order = np.array([4, 2, 0, 1, 3])
    rows = random_rows(5, 3, seed=3)
    outside = write(workspace.out / "elsewhere", rows[order], IDS[order])

    settings = EnsembleSettings(blocks=(f"clip={outside}",), log_blocks=False)
    own, further = b.open_blocks(workspace, ["product_buy"], settings)

    assert (own.name, further.name) == ("product_buy", "clip")
    np.testing.assert_array_equal(further.rows, rows)
    assert np.load(workspace.entry("clip") / "client_ids.npy").tolist() == IDS.tolist()


def test_a_block_may_lie_where_spark_has_a_name_for_it(
    workspace: Workspace, buys: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locations, "_DBFS_MOUNT", str(tmp_path / "dbfs"))
    write(tmp_path / "dbfs" / "blocks", random_rows(5, 3, seed=3))
    _, further = b.open_blocks(workspace, ["product_buy"], EnsembleSettings(blocks=("clip=dbfs:/blocks",)))
    assert further.rows.shape == (5, 3)
    with pytest.raises(ConfigError, match="expected a path that driver and workers mount"):
        b.require_blocks(EnsembleSettings(blocks=("clip=s3://bucket/clip",)))


def test_a_copied_block_goes_as_soon_as_no_run_names_it(workspace: Workspace, buys: np.ndarray) -> None:
    outside = write(workspace.out / "elsewhere", random_rows(5, 3, seed=3))
    write(workspace.entry("by_hand"), random_rows(5, 3, seed=4))
    with_block, without = (
        replace(load_config("demo"), ensemble=EnsembleSettings(blocks=blocks)) for blocks in ((f"clip={outside}",), ())
    )
    b.open_blocks(workspace, ["product_buy"], with_block.ensemble)
    for config, entries in ((with_block, {"product_buy", "clip", "by_hand"}), (without, {"product_buy", "by_hand"})):
        remove_other_entries(config, workspace, {"product_buy"})
        assert {folder.name for folder in workspace.entry("").iterdir()} == entries


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (np.array([50, 10, 40, 20, 99]), r"1 relevant clients are missing .*; 1 ids are not relevant clients"),
        (np.array([50, 10, 40, 20]), "1 relevant clients are missing"),
    ],
)
def test_a_block_from_outside_with_other_clients_is_refused(
    workspace: Workspace, buys: np.ndarray, ids: np.ndarray, message: str
) -> None:
    outside = write(workspace.out / "elsewhere", random_rows(len(ids), 3, seed=3), ids)

    with pytest.raises(EntryError, match=message):
        b.open_blocks(workspace, ["product_buy"], EnsembleSettings(blocks=(f"clip={outside}",)))
    assert not workspace.entry("clip").exists()


def test_an_entry_of_an_earlier_clients_table_is_refused(workspace: Workspace, buys: np.ndarray) -> None:
    write(workspace.entry("baseline"), random_rows(6, 3, seed=3), np.array([50, 10, 40, 7, 8, 9]))

    with pytest.raises(EntryError, match=r"block 'baseline': .* 'product_buy' .* found 2 of 5 missing and 3 others"):
        b.open_blocks(workspace, ["product_buy"], EnsembleSettings(blocks=("baseline",)))


def test_a_block_that_is_not_there_is_named_with_what_to_do(workspace: Workspace, buys: np.ndarray) -> None:
    with pytest.raises(EntryError, match=r"block 'baseline': expected .* run the stage that writes them first"):
        b.require_blocks(EnsembleSettings(blocks=("baseline",)), workspace)
    b.require_blocks(EnsembleSettings(blocks=("baseline",)))  # of a run that will make it
    with pytest.raises(EntryError, match="block 'clip'"):
        b.require_blocks(EnsembleSettings(blocks=("clip=nowhere",)))


@pytest.mark.parametrize("command", ["run", "embed", "ablate"])
@pytest.mark.parametrize(("block", "message"), [("clip=nowhere", "/nowhere, found none"), ("a b=x", "letters")])
def test_a_wrong_block_on_the_command_line_ends_with_2_before_anything_is_touched(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, command: str, block: str, message: str
) -> None:
    assert main([command, "--data", str(tmp_path), "--out", str(tmp_path / "out"), "--block", block]) == 2
    assert message in caplog.text
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["product_buy", "baseline", "ensemble"])
def test_a_block_may_not_take_the_name_of_an_entry_of_the_run(
    workspace: Workspace, buys: np.ndarray, name: str
) -> None:
    settings = EnsembleSettings(blocks=(f"{name}={workspace.entry('product_buy')}",))
    with pytest.raises(EntryError, match="another entry of the run has this name"):
        b.open_blocks(workspace, ["product_buy"], settings)


@pytest.mark.parametrize("blocks", [["a", "a=x"], ["a b"], ["../a"], ["=x"], ["+a"]])
def test_names_of_blocks_are_plain_and_each_comes_once(blocks: list[str]) -> None:
    with pytest.raises(ConfigError, match="NAME or NAME=DIR"):
        EnsembleSettings(blocks=tuple(blocks))


def test_a_profile_is_composed_of_some_of_the_blocks(
    spark: SparkSession, workspace: Workspace, buys: np.ndarray
) -> None:
    counts = np.array([[0], [np.expm1(1)], [0], [np.expm1(2)], [0]])
    write(workspace.entry("baseline"), counts)
    blocks = b.open_blocks(workspace, ["product_buy"], EnsembleSettings(blocks=("baseline",)))
    moments = m.collect_moments(spark.sparkContext, blocks)

    width = b.write_profiles(blocks, moments, workspace.entry("both"), PLAIN)

    assert width == 5
    written = np.load(workspace.entry("both") / "embeddings.npy").astype(np.float32)
    np.testing.assert_array_equal(written[:, :2], buys.astype(np.float32))
    np.testing.assert_allclose(written[:, 2], [0, 1, 0, 2, 0], atol=2e-3)
    assert written[:, 3:].tolist() == [[0, 0], [1, 1], [1, 0], [0, 1], [1, 0]]
    assert np.load(workspace.entry("both") / "client_ids.npy").tolist() == IDS.tolist()

    assert b.write_profiles(blocks[:1], moments, workspace.entry("alone"), PLAIN) == 3


def test_batches_of_rows_do_not_change_a_profile(
    spark: SparkSession, workspace: Workspace, buys: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = EnsembleSettings(scaling="column", absent="mean")
    blocks = b.open_blocks(workspace, ["product_buy"], settings)
    moments = {"product_buy": Moments.of(buys[buys.any(axis=1)])}
    b.write_profiles(blocks, moments, workspace.entry("whole"), settings)
    monkeypatch.setattr(b, "BATCH_ROWS", 2)
    b.write_profiles(blocks, moments, workspace.entry("parts"), settings)

    whole, parts = (np.load(workspace.entry(name) / "embeddings.npy") for name in ("whole", "parts"))
    np.testing.assert_array_equal(whole, parts)
