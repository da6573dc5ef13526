"""What ``ubp vacuum`` removes and keeps, and what ``ubp compact`` merges."""

import json
import os
import shutil
import time
from pathlib import Path

import pytest
from delta_versions import latest_version
from pyspark.sql import SparkSession

from jobs.cli import main
from jobs.commands.upkeep import Removed, Retention, compact, recorded_versions, vacuum, versions_within
from jobs.storage.delta_tables import TableCommit, latest_commit, read_table, session_settings, write_table
from jobs.storage.locations import plain_path
from jobs.storage.provenance import Record, changed_records
from jobs.storage.table_history import has_commit, read_history
from jobs.storage.workspace import Workspace
from schemas.errors import ModelError, TableError
from schemas.tables import SCORES, SEQUENCES

NOW = Retention(keep_hours=0, is_idle=True)


def data_files(workspace: Workspace, name: str) -> set[Path]:
    return set(Path(workspace.table(name)).rglob("part-*.parquet"))


def write_scores(spark: SparkSession, workspace: Workspace, *scores: float) -> None:
    rows = [("baseline", "churn", score, score, None, None, None, None, 1, None) for score in scores]
    frame = spark.createDataFrame(rows, SCORES.ddl).repartition(len(rows))
    write_table(frame, workspace, SCORES, keep_partitions=True)


def write_sequences(spark: SparkSession, workspace: Workspace, token: int) -> None:
    rows = [("page visit", False, 8, client, [token, token], 2, None, None) for client in range(3)]
    write_table(spark.createDataFrame(rows, SEQUENCES.ddl).coalesce(1), workspace, SEQUENCES, rows_per_file=2)


def save_card(workspace: Workspace, name: str = "page_visit", **card: object) -> None:
    folder = workspace.model(name)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(card))


def age(workspace: Workspace, hours: float) -> None:
    """Make all data files and commits so many hours older."""
    moment = time.time() - hours * 3600
    for path in (workspace.out / "tables").rglob("*"):
        os.utime(path, (moment, moment))


def tokens_of(spark: SparkSession, workspace: Workspace, version: int | None = None) -> list[list[int]]:
    return [row["token_ids"] for row in read_table(spark, workspace, SEQUENCES, version).collect()]


@pytest.fixture(scope="module")
def made(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = Workspace(tmp_path_factory.mktemp("made"))
    place.prepare()
    for token in range(3, 7):
        write_sequences(spark, place, token)
    save_card(place, sequences_version=1)
    write_scores(spark, place, 0.1, 0.2)
    write_scores(spark, place, 0.3)
    time.sleep(1.1)  # commits are told in whole seconds
    return place.out


@pytest.fixture
def pinned(made: Path, tmp_path: Path) -> Workspace:
    """Four versions of ``sequences``, a model of the second, two versions of ``scores``; its name ends a quotation."""
    return Workspace(Path(shutil.copytree(made, tmp_path / "a` USING; run#1%20b")))


@pytest.mark.slow
def test_a_vacuum_keeps_the_newest_version_and_the_one_that_a_model_was_trained_on(
    spark: SparkSession, pinned: Workspace, other_file_system: None
) -> None:
    """Also where another file system is Spark's default; a dry run tells the same files and bytes, and removes none."""
    files, scores = data_files(pinned, "sequences"), data_files(pinned, "scores")
    sizes = {path: path.stat().st_size for path in files | scores}
    versions = latest_version(pinned.table("sequences"))
    told = vacuum(spark, pinned, Retention(0, is_idle=True, is_dry_run=True))
    assert (data_files(pinned, "sequences"), data_files(pinned, "scores")) == (files, scores)
    assert latest_version(pinned.table("sequences")) == versions

    done = vacuum(spark, pinned, NOW)
    assert done == told
    left = data_files(pinned, "sequences") | data_files(pinned, "scores")
    assert sum(each.n_bytes for each in done) == sum(size for path, size in sizes.items() if path not in left) > 0
    removed = {each.table: each for each in done}
    assert removed["sequences"].n_files == 4
    gone = files - data_files(pinned, "sequences")
    assert len(gone) == 4
    assert tokens_of(spark, pinned, 1) == [[4, 4]] * 3
    assert tokens_of(spark, pinned) == [[6, 6]] * 3
    assert removed["scores"].n_files == 2
    assert [row["score"] for row in read_table(spark, pinned, SCORES).collect()] == [0.3]
    assert vacuum(spark, pinned, NOW) == [Removed("scores", 0, 0), Removed("sequences", 0, 0)]
    assert compact(spark, pinned, ["scores"]) == {"scores": (0, 0)}


def test_a_model_that_does_not_tell_its_version_is_refused(spark: SparkSession, pinned: Workspace) -> None:
    save_card(pinned, behaviour="page_visit")
    with changed_records(pinned) as records:
        records["models/page_visit"] = Record("train")
    files = data_files(pinned, "sequences")
    with pytest.raises(ModelError, match=r"expected the version of sequences.*--force"):
        vacuum(spark, pinned, NOW)
    assert data_files(pinned, "sequences") == files


def test_what_a_killed_training_left_beside_the_models_is_no_model(workspace: Workspace) -> None:
    save_card(workspace, sequences_version=1)
    workspace.model(".page_visit.old").mkdir()
    assert recorded_versions(workspace) == {1: ["page_visit"]}


def test_a_folder_of_somebody_elses_beside_the_models_is_left_out_and_a_model_without_a_record_is_not(
    workspace: Workspace, caplog: pytest.LogCaptureFixture
) -> None:
    save_card(workspace, "page_visit", sequences_version=1)  # of a run whose records were removed
    save_card(workspace, "bert", hidden_size=768)
    workspace.model("notes").mkdir()
    workspace.model("README.md").write_text("mine")
    assert recorded_versions(workspace) == {1: ["page_visit"]}
    assert [record.getMessage().split(" keeps no version")[0].split("/")[-1] for record in caplog.records] == [
        *("README.md", "bert", "notes")
    ]


def test_a_card_that_cannot_be_read_is_refused_with_a_record_or_without(workspace: Workspace) -> None:
    (workspace.model("page_visit") / "config.json").mkdir(parents=True)
    with pytest.raises(ModelError, match=r"expected the version of sequences.*IsADirectoryError"):
        recorded_versions(workspace)


def test_a_vacuum_that_cannot_keep_what_a_model_was_trained_on_removes_nothing_and_force_removes_also_that(
    spark: SparkSession, pinned: Workspace
) -> None:
    save_card(pinned, "lost", sequences_version=9)
    files = {name: data_files(pinned, name) for name in ("sequences", "scores")}
    with pytest.raises(TableError, match=r"(?s)expected version 9, as lost trained on it.*--force"):
        vacuum(spark, pinned, NOW)
    assert {name: data_files(pinned, name) for name in files} == files

    assert vacuum(spark, pinned, Retention(0, is_idle=True, is_forced=True))[1].n_files == 6
    assert len(data_files(pinned, "sequences")) == 2
    assert tokens_of(spark, pinned) == [[6, 6]] * 3


def test_versions_of_the_hours_to_keep_stay_and_so_do_files_of_a_write_that_runs(
    spark: SparkSession, workspace: Workspace
) -> None:
    write_scores(spark, workspace, 0.1)
    write_scores(spark, workspace, 0.2)
    running = Path(workspace.table("scores")) / "part-of-a-write.parquet"
    running.write_bytes(b"x")
    assert vacuum(spark, workspace, Retention()) == [Removed("scores", 0, 0)]
    assert running.exists()
    assert read_table(spark, workspace, SCORES, 0).first()["score"] == 0.1  # type: ignore[index]


def test_what_a_killed_write_left_goes_once_it_is_old(spark: SparkSession, workspace: Workspace) -> None:
    write_scores(spark, workspace, 0.2)
    left = Path(workspace.table("scores")) / "part-of-a-killed-write.parquet"
    left.write_bytes(b"x" * 7)
    age(workspace, 200)
    assert vacuum(spark, workspace, Retention()) == [Removed("scores", 1, 7)]
    assert not left.exists()
    assert read_table(spark, workspace, SCORES).count() == 1


def test_a_longer_retention_than_deltas_own_is_kept_to(spark: SparkSession, workspace: Workspace) -> None:
    """Delta forgets a removed file after ``deletedFileRetentionDuration`` and would then remove it at any age."""
    forgetful = {"spark.databricks.delta.properties.defaults.deletedFileRetentionDuration": "interval 0 hours"}
    with session_settings(spark, forgetful):
        write_scores(spark, workspace, 0.1)
        write_scores(spark, workspace, 0.2)
    (old,) = map(Path, map(plain_path, read_table(spark, workspace, SCORES, 0).inputFiles()))
    moment = time.time() - 900 * 3600
    os.utime(old, (moment, moment))
    vacuum(spark, workspace, Retention(keep_hours=800))
    assert old.exists()


def test_versions_within_are_those_that_were_newest_since() -> None:
    history = [{"version": version, "seconds": 100 * version} for version in range(4)]
    assert versions_within(history, 150) == {1, 2, 3}  # type: ignore[arg-type]
    assert versions_within(history, 1000) == {3}  # type: ignore[arg-type]


@pytest.mark.parametrize("hours", ["167", "0", "-1"])
def test_less_than_deltas_safety_period_is_refused_unless_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, hours: str
) -> None:
    assert main(["vacuum", "--out", str(tmp_path), "--keep-hours", hours]) == 2
    assert "expected 168 or more" in caplog.text
    assert "--idle" in caplog.text


@pytest.mark.parametrize("command", ["vacuum", "compact"])
def test_upkeep_of_a_folder_without_tables_is_refused(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, command: str
) -> None:
    assert main([command, "--out", str(tmp_path / "out")]) == 2
    assert "expected Delta tables" in caplog.text
    assert not (tmp_path / "out").exists()


def test_small_files_are_merged_once_and_the_rows_stay(spark: SparkSession, workspace: Workspace) -> None:
    write_scores(spark, workspace, 0.1, 0.2, 0.3, 0.4)
    before = read_table(spark, workspace, SCORES)
    rows, n_files = sorted(before.collect()), len(before.inputFiles())
    assert n_files > 1
    assert compact(spark, workspace) == {"scores": (n_files, 1)}
    after = read_table(spark, workspace, SCORES)
    assert len(after.inputFiles()) == 1
    assert sorted(after.collect()) == rows
    assert [commit["operation"] for commit in read_history(spark, workspace.table("scores"))] == ["WRITE", "OPTIMIZE"]
    assert latest_commit(spark, workspace, SCORES) == TableCommit(1, 4)
    assert compact(spark, workspace, ["scores"]) == {"scores": (0, 0)}


def test_sequences_are_never_compacted(
    spark: SparkSession, workspace: Workspace, caplog: pytest.LogCaptureFixture
) -> None:
    write_sequences(spark, workspace, 3)
    files = data_files(workspace, "sequences")
    with caplog.at_level("INFO"):
        assert compact(spark, workspace) == {}
    assert "laid out for the feed" in caplog.text
    with pytest.raises(TableError, match="laid out for the feed"):
        compact(spark, workspace, ["sequences"])
    with pytest.raises(TableError, match="no such table"):
        compact(spark, workspace, ["sequence"])
    assert data_files(workspace, "sequences") == files
    assert latest_version(workspace.table("sequences")) == 0
    assert has_commit(workspace.table("sequences"))
