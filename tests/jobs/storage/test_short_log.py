"""Small tables are read by their log's own files: the same rows as Delta gives, and no job to find them."""

from pathlib import Path

from delta.tables import DeltaTable
from pyspark.sql import SparkSession

from jobs.storage.delta_tables import read_table, read_version, write_table
from jobs.storage.short_log import MAX_FILES, read_short_log
from jobs.storage.workspace import Workspace
from schemas.tables import QUARANTINE, TableSchema

COLUMNS = "name string, cutoff timestamp_ntz, n bigint, parts array<int>"
DATED = TableSchema("dated", "a row", COLUMNS, ("name", "cutoff"))


def test_each_version_has_delta_s_rows_and_columns_whatever_the_values_of_its_partitions(
    spark: SparkSession, workspace: Workspace
) -> None:
    values = ("plain", "a b%2F", "x=1/ü", "007", None)
    rows = spark.sql(
        "SELECT stack(5, 'plain', 'a b%2F', 'x=1/ü', '007', NULL) AS name, "
        "TIMESTAMP_NTZ'2022-09-01 00:00:00.5' AS cutoff, 7L AS n, array(1, NULL) AS parts"
    )
    write_table(rows, workspace, DATED)
    write_table(rows.limit(0), workspace, DATED, where="name = '007'")
    spark.sql(f"OPTIMIZE delta.`{workspace.table('dated')}`")
    folder = Path(workspace.table("dated"))
    for version, names in ((0, values), (1, values[:3] + values[4:]), (None, values[:3] + values[4:])):
        short = read_short_log(folder, version)
        assert short is not None
        found, expected = short.read(spark, folder), read_version(spark, str(folder), version)
        assert found.schema == expected.schema
        assert sorted(map(str, found.collect())) == sorted(map(str, expected.collect()))
        assert {row["name"] for row in found.collect()} == set(names)


def test_a_small_table_is_found_and_an_empty_one_read_without_a_job(spark: SparkSession, workspace: Workspace) -> None:
    write_table(spark.createDataFrame([], QUARANTINE.ddl), workspace, QUARANTINE)
    spark.sparkContext.setJobGroup("short log", "")
    try:
        assert read_table(spark, workspace, QUARANTINE).collect() == []
        assert len(spark.sparkContext.statusTracker().getJobIdsForGroup("short log")) == 0
    finally:
        spark.sparkContext.setLocalProperty("spark.jobGroup.id", None)


def test_what_a_log_alone_cannot_tell_is_left_to_delta(spark: SparkSession, workspace: Workspace) -> None:
    rows = spark.createDataFrame([("a", "b", "c"), ("d", "e", "f")], QUARANTINE.ddl).coalesce(1)
    write_table(rows, workspace, QUARANTINE)
    folder = Path(workspace.table("quarantine"))
    assert read_short_log(folder, 0) is not None
    assert read_short_log(folder, 1) is None  # Delta's message names the versions that there are
    DeltaTable.forPath(spark, str(folder)).upgradeTableProtocol(3, 7)
    spark.sql(f"ALTER TABLE delta.`{folder}` SET TBLPROPERTIES (delta.enableDeletionVectors = true)")
    spark.sql(f"DELETE FROM delta.`{folder}` WHERE source = 'a'")
    assert read_short_log(folder, None) is None
    assert read_table(spark, workspace, QUARANTINE).count() == 1
    (folder / "_delta_log" / f"{0:020}.json").write_text("{")
    assert read_short_log(folder, 0) is None


def test_many_files_and_missing_ones_are_left_to_delta(spark: SparkSession, workspace: Workspace) -> None:
    rows = spark.range(0, MAX_FILES + 1, 1, MAX_FILES + 1).selectExpr("'a' AS source", "'b' AS reason", "'c' AS row")
    write_table(rows, workspace, QUARANTINE, keep_partitions=True)
    folder = Path(workspace.table("quarantine"))
    assert read_short_log(folder, None) is None
    write_table(rows.limit(1), workspace, QUARANTINE)
    short = read_short_log(folder, None)
    assert short is not None
    (folder / short.files[0]).unlink()
    assert read_short_log(folder, None) is None
