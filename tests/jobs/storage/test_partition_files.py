"""A part of a small table is replaced by files that Python tasks write: other parts stay, and writers do not mix."""

from typing import Any

import pytest
from delta_versions import latest_version
from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, SparkSession

from jobs.storage import partition_files
from jobs.storage.delta_tables import read_table, read_version, write_table
from jobs.storage.table_history import read_history
from jobs.storage.workspace import Workspace
from schemas.tables import TableSchema

COLUMNS = "name string, cutoff timestamp_ntz, n bigint, vector array<float>"
DATED = TableSchema("dated", "a row", COLUMNS, ("name", "cutoff"))
ODD = "a b%2F=1/ü?"


def rows(spark: SparkSession, *values: tuple[str, int]) -> DataFrame:
    frame = spark.createDataFrame(values, "name string, n bigint")
    moment = "TIMESTAMP_NTZ'2022-09-01 00:00:00.5'"
    return frame.selectExpr("name", f"{moment} AS cutoff", "n", "IF(n > 1, array(float(n), NULL), NULL) AS vector")


def put(spark: SparkSession, workspace: Workspace, name: str, *numbers: int) -> None:
    part = rows(spark, *((name, n) for n in numbers)).coalesce(1)
    write_table(part, workspace, DATED, where=f"name = '{name}'", keep_partitions=True, is_log=True)


def found(frame: DataFrame) -> list[tuple[str, int]]:
    return sorted((row["name"], row["n"]) for row in frame.collect())


def test_a_part_is_replaced_by_two_jobs_whatever_its_name_and_the_others_stay(
    spark: SparkSession, workspace: Workspace
) -> None:
    put(spark, workspace, "a", 1, 2)
    put(spark, workspace, ODD, 3)
    spark.sparkContext.setJobGroup("part", "")
    put(spark, workspace, "a", 4)
    jobs = spark.sparkContext.statusTracker().getJobIdsForGroup("part")
    spark.sparkContext.setLocalProperty("spark.jobGroup.id", None)
    assert len(jobs) <= 2
    location = workspace.table("dated")
    for frame in (read_table(spark, workspace, DATED), read_version(spark, location)):
        assert found(frame) == [("a", 4), (ODD, 3)]
        assert frame.schema == read_version(spark, location).schema
        assert {str(row["cutoff"]) for row in frame.collect()} == {"2022-09-01 00:00:00.500000"}
        assert frame.filter("n = 4").collect()[0]["vector"] == [4.0, None]
    assert found(read_version(spark, location, latest_version(location) - 1)) == [("a", 1), ("a", 2), (ODD, 3)]
    assert [commit["operation"] for commit in read_history(spark, location)][1:] == ["WRITE"] * 3


def test_a_row_of_another_part_is_refused_and_the_table_kept(spark: SparkSession, workspace: Workspace) -> None:
    put(spark, workspace, "a", 1)
    with pytest.raises(ValueError, match="expected rows of name = 'a', found others"):
        write_table(rows(spark, ("b", 2)), workspace, DATED, where="name = 'a'", keep_partitions=True)
    assert found(read_table(spark, workspace, DATED)) == [("a", 1)]


@pytest.mark.parametrize(("other", "is_lost"), [("a", True), ("b", False)])
def test_a_commit_fails_where_another_replaced_the_same_part_meanwhile(
    spark: SparkSession, workspace: Workspace, monkeypatch: pytest.MonkeyPatch, other: str, is_lost: bool
) -> None:
    put(spark, workspace, "a", 1)
    plain = partition_files.ReplacedPart

    def disturbed(where: str, files: Any) -> Any:
        def list_and_write(version: int) -> Any:
            listed = files(version)
            monkeypatch.setattr(partition_files, "ReplacedPart", plain)
            put(spark, workspace, other, 7)
            return listed

        return plain(where, list_and_write)

    monkeypatch.setattr(partition_files, "ReplacedPart", disturbed)
    if is_lost:
        with pytest.raises((Py4JJavaError, PySparkException), match="Concurrent"):
            put(spark, workspace, "a", 2)
        assert found(read_table(spark, workspace, DATED)) == [("a", 7)]
    else:
        put(spark, workspace, "a", 2)
        assert found(read_table(spark, workspace, DATED)) == [("a", 2), ("b", 7)]
