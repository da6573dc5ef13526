"""Delta tables: contracts, atomic overwrites, versions, files of a snapshot."""

from pathlib import Path
from urllib.parse import urlsplit

import pytest
from pyspark.sql import SparkSession

from jobs.io import latest_commit, list_files, read_table, write_table
from jobs.workspace import Workspace
from schemas import tables
from schemas.errors import TableError
from schemas.tables import SCORES, SEQUENCES, VOCABULARIES, TableSchema

TABLES = [value for value in vars(tables).values() if isinstance(value, TableSchema)]


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
def test_every_schema_round_trips(spark: SparkSession, workspace: Workspace, table: TableSchema) -> None:
    empty = spark.createDataFrame([], table.ddl)
    assert write_table(empty, workspace, table).n_rows == 0
    assert read_table(spark, workspace, table).schema == empty.schema


def test_a_frame_of_other_columns_is_refused_and_the_table_kept(spark: SparkSession, workspace: Workspace) -> None:
    good = spark.createDataFrame([("baseline", "churn", 0.5, 0.5, None, None)], SCORES.ddl)
    write_table(good, workspace, SCORES)
    with pytest.raises(TableError, match="lacks column 'novelty'"):
        write_table(good.drop("novelty"), workspace, SCORES)
    assert read_table(spark, workspace, SCORES).count() == 1


def test_a_missing_table_says_which_and_what_to_do(spark: SparkSession, workspace: Workspace) -> None:
    with pytest.raises(TableError, match=r"'vocabularies'.*run the stage"):
        read_table(spark, workspace, VOCABULARIES)


def test_only_the_snapshots_own_files_are_listed(spark: SparkSession, workspace: Workspace) -> None:
    row = ("page_visit", False, 8, 1, [3, 4], 2)
    first = write_table(spark.createDataFrame([row], SEQUENCES.ddl), workspace, SEQUENCES)
    second = write_table(spark.createDataFrame([row, row], SEQUENCES.ddl), workspace, SEQUENCES)
    assert (first.version, second.version) == (0, 1)
    assert latest_commit(spark, workspace, SEQUENCES) == second
    for commit in (first, second):
        files = list_files(read_table(spark, workspace, SEQUENCES, commit.version), SEQUENCES.partition_by)
        assert sum(file.n_rows for file in files) == commit.n_rows
        assert files[0].partition == {"behaviour": "page_visit", "is_held_out": False, "width": 8}
        assert all(Path(urlsplit(file.url).path).is_file() for file in files)
