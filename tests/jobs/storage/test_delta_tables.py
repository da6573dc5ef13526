"""Delta tables: contracts, atomic overwrites, versions, files of a snapshot."""

from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import pyarrow.parquet as pq
import pytest
from delta.tables import DeltaTable
from delta_versions import latest_version
from pyspark.errors import AnalysisException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from jobs.storage import delta_tables
from jobs.storage.delta_tables import (
    TableCommit,
    latest_commit,
    list_files,
    read_table,
    read_version,
    session_settings,
    write_table,
)
from jobs.storage.locations import plain_path
from jobs.storage.table_history import has_commit
from jobs.storage.workspace import Workspace
from schemas import tables
from schemas.errors import TableError
from schemas.tables import BLOCKS, SCORES, SEQUENCES, VOCABULARIES, TableSchema

TABLES = [value for value in vars(tables).values() if isinstance(value, TableSchema)]


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
def test_every_schema_round_trips(spark: SparkSession, workspace: Workspace, table: TableSchema) -> None:
    empty = spark.createDataFrame([], table.ddl)
    assert write_table(empty, workspace, table).n_rows == 0
    assert read_table(spark, workspace, table).schema == empty.schema


def test_a_frame_of_other_columns_is_refused_and_the_table_kept(spark: SparkSession, workspace: Workspace) -> None:
    good = spark.createDataFrame([("baseline", "churn", 0.5, 0.5, None, None, None, None, 1, None)], SCORES.ddl)
    write_table(good, workspace, SCORES)
    with pytest.raises(TableError, match="lacks column 'novelty'"):
        write_table(good.drop("novelty"), workspace, SCORES)
    assert read_table(spark, workspace, SCORES).count() == 1


def test_a_missing_table_says_which_and_what_to_do(spark: SparkSession, workspace: Workspace) -> None:
    with pytest.raises(TableError, match=r"'vocabularies'.*run the stage"):
        read_table(spark, workspace, VOCABULARIES)


def test_only_commits_count_among_the_files_of_a_log(tmp_path: Path) -> None:
    """Delta writes the others for tables with checkpoints of version 2, and Databricks for long logs."""
    folder = tmp_path / "_delta_log"
    folder.mkdir()
    for name in (f"{9:020}.checkpoint.80a083e8-7026.json", f"{2:020}.{9:020}.compacted.json", "_last_checkpoint"):
        (folder / name).touch()
    assert not has_commit(str(tmp_path))
    for version in (8, 9, 10):
        (folder / f"{version:020}.json").touch()
    assert latest_version(str(tmp_path)) == 10


def test_only_the_snapshots_own_files_are_listed(spark: SparkSession, workspace: Workspace) -> None:
    row = ("page_visit", False, 8, 1, [3, 4], 2, None, None)
    first = write_table(spark.createDataFrame([row], SEQUENCES.ddl), workspace, SEQUENCES)
    second = write_table(spark.createDataFrame([row, row], SEQUENCES.ddl), workspace, SEQUENCES)
    assert (first.version, second.version) == (0, 1)
    assert latest_commit(spark, workspace, SEQUENCES) == second
    for commit in (first, second):
        files = list_files(read_table(spark, workspace, SEQUENCES, commit.version), SEQUENCES.partition_by)
        assert sum(file.n_rows for file in files) == commit.n_rows
        assert files[0].partition == {"behaviour": "page_visit", "is_held_out": False, "width": 8}
        assert all(Path(urlsplit(file.url).path).is_file() for file in files)


def test_a_write_is_told_apart_from_those_of_stages_that_write_at_once(
    spark: SparkSession, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace_table = delta_tables._replace_table

    def replace_and_another(location: str, frame: DataFrame, table: TableSchema) -> None:
        replace_table(location, frame, table)
        with session_settings(spark, {"spark.databricks.delta.commitInfo.userMetadata": "of another"}):
            replace_table(location, frame.limit(1), table)

    row = ("page_visit", False, 8, 1, [3, 4], 2, None, None)
    monkeypatch.setattr(delta_tables, "_replace_table", replace_and_another)
    assert write_table(spark.createDataFrame([row, row], SEQUENCES.ddl), workspace, SEQUENCES) == TableCommit(0, 2)
    assert latest_commit(spark, workspace, SEQUENCES) == TableCommit(1, 1)


def test_the_rows_of_a_partition_are_gathered_into_one_file_unless_the_frame_is_laid_out(
    spark: SparkSession, workspace: Workspace
) -> None:
    rows = [(behaviour, str(key), key, 1) for behaviour in ("page_visit", "product_buy") for key in range(40)]
    frame = spark.createDataFrame(rows, VOCABULARIES.ddl).repartition(8)
    for keep_partitions, n_files in ((False, 2), (True, 16)):
        write_table(frame, workspace, VOCABULARIES, keep_partitions=keep_partitions)
        written = read_table(spark, workspace, VOCABULARIES)
        assert len(written.inputFiles()) == n_files
        assert sorted(map(tuple, written.collect())) == sorted(rows)


def test_files_and_row_groups_are_no_larger_than_asked(spark: SparkSession, workspace: Workspace) -> None:
    tokens = F.transform(F.sequence(F.lit(0), F.lit(63)), lambda position: F.xxhash64("id", position).cast("int"))
    columns = [F.lit("page_visit").alias("behaviour"), F.lit(False).alias("is_held_out"), F.lit(64).alias("width")]
    frame = spark.range(0, 30_000, 1, 1).select(
        *columns,
        F.col("id").alias("client_id"),
        tokens.alias("token_ids"),
        F.lit(64).cast("bigint").alias("n_events"),
        F.lit(None).cast("array<tinyint>").alias("event_types"),
        F.lit(None).cast("array<bigint>").alias("timestamps"),
    )
    write_table(frame, workspace, SEQUENCES, rows_per_file=20_000, row_group_mib=1)
    names = read_table(spark, workspace, SEQUENCES).inputFiles()
    files = [pq.ParquetFile(plain_path(name)).metadata for name in names]
    assert sorted(file.num_rows for file in files) == [10_000, 20_000]
    sizes = [file.row_group(group).total_byte_size for file in files for group in range(file.num_row_groups)]
    assert len(sizes) > len(files)
    assert max(sizes) < 1.5 * 2**20
    assert spark.conf.get("parquet.block.size", None) is None


def test_the_files_of_a_task_are_in_the_order_in_which_it_wrote_them(spark: SparkSession, workspace: Workspace) -> None:
    rows = [("page_visit", str(key), key, 1) for key in range(60)]
    frame = spark.createDataFrame(rows, VOCABULARIES.ddl).coalesce(1)
    write_table(frame, workspace, VOCABULARIES, rows_per_file=10)  # names hold a UUID each, drawn anew
    files = list_files(read_table(spark, workspace, VOCABULARIES), VOCABULARIES.partition_by)
    first = [pq.read_table(plain_path(file.url))["key"][0].as_py() for file in files]
    assert first == ["0", "10", "20", "30", "40", "50"]


def test_a_session_that_overwrites_partitions_alone_replaces_whole_tables(
    spark: SparkSession, workspace: Workspace
) -> None:
    with session_settings(spark, {"spark.sql.sources.partitionOverwriteMode": "dynamic"}):
        for behaviour in ("page_visit", "product_buy"):
            write_table(spark.createDataFrame([(behaviour, "1", 3, 1)], VOCABULARIES.ddl), workspace, VOCABULARIES)
    assert [row["behaviour"] for row in read_table(spark, workspace, VOCABULARIES).collect()] == ["product_buy"]


def test_a_table_that_another_stage_makes_at_once_is_taken_as_it_is(
    spark: SparkSession, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    location = workspace.table(BLOCKS.name)

    class SlowerBuilder:
        def __getattr__(self, _: str) -> "Callable[..., SlowerBuilder]":
            return lambda *_: self

        def execute(self) -> None:
            monkeypatch.undo()
            delta_tables._make_table(spark, location, BLOCKS)  # as the other stage does
            raise AnalysisException("the metadata has changed")

    monkeypatch.setattr(DeltaTable, "createIfNotExists", lambda _: SlowerBuilder())
    delta_tables._make_table(spark, location, BLOCKS)
    assert read_version(spark, location).columns == spark.createDataFrame([], BLOCKS.ddl).columns


def test_a_session_that_merges_files_after_writes_leaves_ours_as_they_were_laid_out(
    spark: SparkSession, workspace: Workspace
) -> None:
    merging = {"autoCompact.enabled": "true", "autoCompact.minNumFiles": "2"}
    rows = [("page_visit", str(key), key, 1) for key in range(40)]
    frame = spark.createDataFrame(rows, VOCABULARIES.ddl).repartition(4)
    with session_settings(spark, {f"spark.databricks.delta.{name}": value for name, value in merging.items()}):
        commit = write_table(frame, workspace, VOCABULARIES, keep_partitions=True)
    assert commit == TableCommit(0, 40)
    assert len(read_table(spark, workspace, VOCABULARIES).inputFiles()) == 4
