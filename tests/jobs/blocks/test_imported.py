"""Entries from elsewhere as blocks: their clients' order, presence, and what is refused."""

import json
from pathlib import Path

import numpy as np
import pytest
from block_tables import write_clients
from pyspark.sql import SparkSession

from conf.load import load_config
from conf.profile import EnsembleSettings
from jobs.blocks import imported
from jobs.blocks.table import Block, collect_blocks
from jobs.cli import main
from jobs.storage import locations
from jobs.storage.delta_tables import read_table
from jobs.storage.workspace import Workspace
from jobs.transforms.windows import read_windows
from schemas.errors import ConfigError, EntryError, TableError
from schemas.tables import BLOCKS, CLIENTS

IDS = np.array([50, 10, 40, 20, 30])
ROWS = np.array([[1, 2], [0, 0], [5, 6], [7, 8], [9, 10]])


def save_entry(folder: Path, rows: np.ndarray = ROWS, ids: np.ndarray = IDS) -> Path:
    folder.mkdir(parents=True)
    np.save(folder / "client_ids.npy", ids)
    np.save(folder / "embeddings.npy", np.asarray(rows, dtype=np.float16))
    return folder


@pytest.fixture
def workspace(spark: SparkSession, workspace: Workspace) -> Workspace:
    write_clients(spark, workspace, IDS)
    return workspace


def import_entry(spark: SparkSession, workspace: Workspace, folder: str) -> dict[int, list[float]]:
    cutoff = read_windows(spark, workspace).input_end
    clients = read_table(spark, workspace, CLIENTS)
    imported.import_blocks(EnsembleSettings(blocks=("baseline", f"clip={folder}")), clients, cutoff, workspace)
    rows = read_table(spark, workspace, BLOCKS).collect()
    assert all(row["is_present"] for row in rows)
    return {row["client_id"]: row["vector"] for row in rows}


def test_every_client_of_an_imported_entry_is_present_zeros_or_not(
    spark: SparkSession, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(imported, "ROWS_PER_BATCH", 2)
    order = np.array([4, 2, 0, 1, 3])
    folder = save_entry(workspace.out / "elsewhere", ROWS[order], IDS[order])
    assert import_entry(spark, workspace, str(folder)) == dict(zip(IDS.tolist(), ROWS.tolist(), strict=True))
    assert collect_blocks(spark, workspace) == {"clip": Block("clip", ("clip/0", "clip/1"), str(folder))}


def test_columns_that_an_export_divided_are_multiplied_again(spark: SparkSession, workspace: Workspace) -> None:
    folder = save_entry(workspace.out / "elsewhere")
    (folder / "column_exponents.json").write_text(json.dumps([0, 15]))
    rows = import_entry(spark, workspace, str(folder))
    assert rows[20] == [7, 8 * 2**15]
    for content, found in (
        ("[0, 1", "expected JSON"), ('["0", 1]', "valid integer"), ("[0, 1, 2]", "expected 2 exponents.* found 3"),
    ):  # fmt: skip
        (folder / "column_exponents.json").write_text(content)
        with pytest.raises((EntryError, TableError), match=rf"column_exponents.json: .*{found}.*make the entry anew"):
            import_entry(spark, workspace, str(folder))


def test_a_block_may_lie_where_spark_has_a_name_for_it(
    spark: SparkSession, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locations, "_DBFS_MOUNT", str(workspace.out / "dbfs"))
    save_entry(workspace.out / "dbfs" / "blocks")
    assert import_entry(spark, workspace, "dbfs:/blocks").keys() == set(IDS.tolist())


def test_an_entry_of_other_clients_is_refused(spark: SparkSession, workspace: Workspace) -> None:
    folder = save_entry(workspace.out / "elsewhere", ids=np.array([50, 10, 40, 20, 99]))
    with pytest.raises(EntryError, match=r"1 relevant clients are missing .*; 1 ids are not relevant clients"):
        import_entry(spark, workspace, str(folder))
    assert collect_blocks(spark, workspace) == {}


@pytest.mark.parametrize("command", ["run", "profile", "ablate"])
@pytest.mark.parametrize(
    ("block", "message"),
    [
        ("clip=nowhere", "/nowhere, found none; name another folder"),
        ("clip=dbfs:/nowhere", "block 'clip': expected client_ids.npy and embeddings.npy in /dbfs/nowhere, found none"),
        ("clip=s3://bucket/clip", "expected a path that driver and workers mount"),
        ("a b=x", "letters"),
    ],
)
def test_a_wrong_block_on_the_command_line_ends_with_2_before_anything_is_touched(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, command: str, block: str, message: str
) -> None:
    assert main([command, "--data", str(tmp_path), "--out", str(tmp_path / "out"), "--block", block]) == 2
    assert message in caplog.text
    assert not (tmp_path / "out").exists()


def test_a_block_of_the_run_is_named_as_it_is_and_an_entry_with_its_folder(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError, match=r"ensemble\.blocks: expected the block counters, found Counters"):
        load_config("demo", ["ensemble.blocks=[Counters]"])
    with pytest.raises(ConfigError, match="block 'Clip': another block or profile of the run has this name"):
        load_config("demo", ["ensemble.blocks=[clip=x, Clip=y]"])
    for block in ("clip", "clip="):
        with pytest.raises(SystemExit):
            main(["run", "--out", "out", "--block", block])
        assert f"expected NAME=DIR, a name and the folder of an entry; found '{block}'" in capsys.readouterr().err


@pytest.mark.parametrize("block", ["product_buy=x", "baseline=x", "activity=x", "ensemble=x", "activity", "page_visit"])
def test_a_block_may_not_take_the_name_of_another_block_or_profile(block: str) -> None:
    with pytest.raises(ConfigError, match="another block or profile of the run has this name"):
        load_config("demo", [f"ensemble.blocks=[{block}]"])


def test_an_encoder_may_not_have_the_name_of_another_block() -> None:
    with pytest.raises(ConfigError, match="'activity' is the name of a table, a block or a profile"):
        load_config("demo", ["encoders.activity.behaviours=[product_buy]"])


@pytest.mark.parametrize("blocks", [["a", "a=x"], ["a b"], ["../a"], ["=x"], ["+a"]])
def test_names_of_blocks_are_plain_and_each_comes_once(blocks: list[str]) -> None:
    with pytest.raises(ConfigError, match="NAME or NAME=DIR"):
        EnsembleSettings(blocks=tuple(blocks))
