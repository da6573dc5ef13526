"""Files that were written beside Delta become versions of its table like any other."""

from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from delta_versions import latest_version
from pyspark.sql import SparkSession

from jobs.commands.upkeep import Retention, vacuum
from jobs.storage import delta_commit
from jobs.storage.delta_commit import WrittenFile, can_commit, replace_by_files
from jobs.storage.delta_tables import latest_commit, read_table, write_table
from jobs.storage.table_history import read_history
from jobs.storage.workspace import Workspace
from schemas.behaviours import ItemKind
from schemas.tables import TableSchema, events_table

VISITS = events_table("page_visit", "url", ItemKind.ID)
NOON = datetime(2022, 6, 1, 12)


def write_file(folder: Path, name: str, *urls: int) -> WrittenFile:
    folder.mkdir(parents=True, exist_ok=True)
    times = pa.array([NOON] * len(urls), pa.timestamp("us"))
    pq.write_table(pa.table({"client_id": urls, "timestamp": times, "url": urls}), folder / name)
    return WrittenFile(name, (folder / name).stat().st_size, len(urls))


def commit(
    spark: SparkSession, workspace: Workspace, *files: WrittenFile, table: TableSchema = VISITS, note: str | None = None
) -> int:
    schema = spark.createDataFrame([], table.ddl).schema
    return replace_by_files(spark, workspace.table("page_visit"), schema, files, note)


def urls_of(spark: SparkSession, workspace: Workspace, version: int | None = None) -> list[int]:
    return sorted(row["url"] for row in read_table(spark, workspace, VISITS, version).collect())


@pytest.mark.parametrize("missing", ["DeltaLog", "DeltaOperations$Write", "actions"])
def test_files_are_committed_only_where_delta_has_all_the_classes(
    spark: SparkSession, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    assert can_commit(spark)
    here = delta_commit._delta(spark)

    class Elsewhere:
        def __getattr__(self, name: str) -> Any:
            return getattr(spark._jvm.com.databricks.sql.transaction.tahoe if name == missing else here, name)

    monkeypatch.setattr(delta_commit, "_delta", lambda _: Elsewhere())
    assert not can_commit(spark)


def test_each_commit_replaces_the_rows_and_the_former_version_can_be_read(
    spark: SparkSession, workspace: Workspace
) -> None:
    folder = Path(workspace.table("page_visit"))
    first, second, third = (write_file(folder, f"part-{n}.parquet", *range(10 * n, 10 * n + 3)) for n in range(3))
    write_file(folder, "part-of-a-killed-write.parquet", 99)
    assert commit(spark, workspace, first, second, note="ingest 7") == 0
    assert commit(spark, workspace, third) == 1
    assert urls_of(spark, workspace, 0) == [0, 1, 2, 10, 11, 12]
    assert urls_of(spark, workspace) == [20, 21, 22]
    assert latest_commit(spark, workspace, VISITS).n_rows == 3
    assert [row["note"] for row in read_history(spark, str(folder))] == ["ingest 7", None]


def test_commits_of_files_and_writes_of_frames_take_turns(spark: SparkSession, workspace: Workspace) -> None:
    write_table(spark.createDataFrame([(1, NOON, 5)], VISITS.ddl), workspace, VISITS)
    commit(spark, workspace, write_file(Path(workspace.table("page_visit")), "part-0.parquet", 6))
    assert urls_of(spark, workspace) == [6]
    write_table(spark.createDataFrame([(1, NOON, 7)], VISITS.ddl), workspace, VISITS)
    assert urls_of(spark, workspace) == [7]
    assert [urls_of(spark, workspace, version) for version in range(3)] == [[5], [6], [7]]


def test_a_table_of_no_files_is_empty_and_one_of_other_columns_is_replaced(
    spark: SparkSession, workspace: Workspace
) -> None:
    other = events_table("page_visit", "sku", ItemKind.ID)
    commit(spark, workspace, table=other)
    assert read_table(spark, workspace, other).count() == 0
    commit(spark, workspace, write_file(Path(workspace.table("page_visit")), "part-0.parquet", 6))
    assert urls_of(spark, workspace) == [6]


def test_a_vacuum_removes_files_of_former_commits_and_of_none(spark: SparkSession, workspace: Workspace) -> None:
    folder = Path(workspace.table("page_visit"))
    former, kept = write_file(folder, "part-0.parquet", 1), write_file(folder, "part-1.parquet", 2)
    write_file(folder, "part-2.parquet", 3)
    commit(spark, workspace, former)
    commit(spark, workspace, kept)
    vacuum(spark, workspace, Retention(keep_hours=0, is_idle=True))
    assert [path.name for path in folder.glob("*.parquet")] == ["part-1.parquet"]
    assert latest_version(str(folder)) >= 1
