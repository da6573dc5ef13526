"""Tables in a catalog, and tables where no mount reaches, hold what tables in ``--out`` hold."""

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from tiny_run import EARLY, TinyRun, differences, read_numbers, read_tables

from jobs.cli import main
from jobs.storage.delta_tables import (
    latest_commit,
    next_ingest,
    read_as_files,
    read_ingested,
    read_table,
    read_version,
    write_table,
)
from jobs.storage.stored_rows import StoredRows, stored_rows
from jobs.storage.table_history import ingest_versions, read_history
from jobs.storage.workspace import Workspace
from schemas.errors import TableError
from schemas.tables import PRODUCT_PROPERTIES, PROFILES, SEQUENCES, TableSchema

BEFORE_VOCABULARY = EARLY[: EARLY.index("vocabularies")]
CATALOG, SCHEMA, STORE = "spark_catalog", "ubp_test", "viewfs://store/tables"


@pytest.fixture
def schema(spark: SparkSession, tmp_path: Path) -> Iterator[str]:
    spark.sql(f"CREATE SCHEMA {CATALOG}.{SCHEMA} LOCATION '{tmp_path / 'warehouse'}'")
    yield SCHEMA
    spark.sql(f"DROP SCHEMA {CATALOG}.{SCHEMA} CASCADE")


@pytest.fixture
def store(spark: SparkSession, tmp_path: Path) -> str:
    """Hadoop's view of a folder under another scheme: as an object store, Spark reads it and Python does not."""
    (tmp_path / "store").mkdir()
    hadoop = spark.sparkContext._jsc.hadoopConfiguration()
    hadoop.set("fs.viewfs.mounttable.store.link./tables", f"file://{tmp_path / 'store'}")
    hadoop.set("fs.viewfs.impl.disable.cache", "true")  # another test has another folder
    return STORE


ROWS = [("page_visit", False, 8, client, [3, 4], 2, None, None) for client in range(3)]


def test_a_named_table_is_replaced_and_keeps_its_versions(spark: SparkSession, schema: str, tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "out", catalog=CATALOG, schema=schema)
    workspace.prepare()
    with pytest.raises(TableError, match=r"'sequences'.*found none in `spark_catalog`.`ubp_test`.`sequences`"):
        read_table(spark, workspace, SEQUENCES)
    assert next_ingest(spark, workspace, [SEQUENCES]) == 0
    for number in (0, 1):
        frame = spark.createDataFrame(ROWS[number:], SEQUENCES.ddl)
        commit = write_table(frame, workspace, SEQUENCES, rows_per_file=2, ingest=number)
        assert commit.n_rows == 3 - number
        assert latest_commit(spark, workspace, SEQUENCES) == commit
    assert ingest_versions(read_history(spark, workspace.table("sequences"))) == {0: 0, 1: 1}
    (detail,) = spark.sql(f"DESCRIBE DETAIL {workspace.table('sequences')}").collect()
    assert tuple(detail["partitionColumns"]) == SEQUENCES.partition_by
    assert next_ingest(spark, workspace, [SEQUENCES]) == 2
    assert rows(read_ingested(spark, workspace, SEQUENCES)) == ROWS[1:]
    assert rows(read_ingested(spark, replace(workspace, as_of=0), SEQUENCES)) == ROWS
    assert read_as_files(spark, workspace, SEQUENCES).inputFiles()[0].startswith("file:")
    assert not (workspace.out / "copies").exists()


def test_columns_of_profiles_are_described_in_the_table_whatever_it_was_before(
    spark: SparkSession, schema: str, tmp_path: Path
) -> None:
    folders, named = Workspace(tmp_path / "out"), Workspace(tmp_path / "out", catalog=CATALOG, schema=schema)
    folders.prepare()
    undescribed = replace(PROFILES, ddl=re.sub(r" COMMENT '[^']*'", "", PROFILES.ddl))
    frame = spark.createDataFrame([("ensemble", 0, 7, [0.5], ["mixed"], "bob", {"mixed": "a1"})], undescribed.ddl)
    for workspace in (folders, named):
        for table in (undescribed, PROFILES, PROFILES):
            write_table(frame, workspace, table)
        assert read_table(spark, workspace, PROFILES).collect() == frame.collect()
        written = read_version(spark, workspace.table("profiles"))  # as others read it
        assert all(len(field.metadata["comment"]) > 20 for field in written.schema)
    (client_key,) = [row for row in spark.sql(f"DESCRIBE {named.table('profiles')}").collect() if "_key" in row[0]]
    assert client_key["comment"] == "id of the client in its own tables where that is text, else null"


def test_files_that_no_mount_reaches_are_copied_once_per_version(
    spark: SparkSession, store: str, tmp_path: Path
) -> None:
    workspace = Workspace(tmp_path / "out", tables_url=store)
    workspace.prepare()
    for part in (ROWS, ROWS[1:]):
        commit = write_table(spark.createDataFrame(part, SEQUENCES.ddl), workspace, SEQUENCES)
        snapshot = read_table(spark, workspace, SEQUENCES)
        assert snapshot.inputFiles()[0].startswith("viewfs://")
        assert not isinstance(stored_rows(snapshot), StoredRows)
        copy = read_as_files(spark, workspace, SEQUENCES)
        assert copy.inputFiles()[0].startswith("file:")
        assert (copy.schema, rows(copy)) == (snapshot.schema, part)
        (of_table,) = workspace.copy("sequences").iterdir()
        assert [path.name for path in of_table.iterdir()] == [str(commit.version)]
        before = copy.inputFiles()
        assert read_as_files(spark, workspace, SEQUENCES).inputFiles() == before


def test_a_copy_is_not_taken_for_that_of_another_table_of_the_name(
    spark: SparkSession, store: str, tmp_path: Path
) -> None:
    for name, part in (("a", ROWS), ("b", ROWS[1:])):
        workspace = Workspace(tmp_path / "out", tables_url=f"{store}/{name}")
        workspace.prepare()
        assert write_table(spark.createDataFrame(part, SEQUENCES.ddl), workspace, SEQUENCES).version == 0
        assert rows(read_as_files(spark, workspace, SEQUENCES)) == part


def failing(frame: DataFrame) -> DataFrame:
    return frame.withColumn("client_id", F.raise_error("no such row").cast("bigint"))


def fail_to_write(frame: DataFrame, workspace: Workspace, ingest: int) -> None:
    with pytest.raises((Py4JJavaError, PySparkException), match="no such row"):
        write_table(failing(frame), workspace, SEQUENCES, ingest=ingest)


def test_a_named_table_whose_first_write_failed_is_not_there(spark: SparkSession, schema: str, tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "out", catalog=CATALOG, schema=schema)
    workspace.prepare()
    frame = spark.createDataFrame(ROWS, SEQUENCES.ddl)
    fail_to_write(frame, workspace, ingest=0)
    with pytest.raises(TableError, match=r"found none in `spark_catalog`"):
        read_table(spark, workspace, SEQUENCES)
    with pytest.raises(TableError, match=r"expected ingest 0 \(--as-of\), found none"):
        read_ingested(spark, replace(workspace, as_of=0), SEQUENCES)
    assert next_ingest(spark, workspace, [SEQUENCES]) == 0
    for number, part in enumerate(([], [], ROWS)):
        write_table(spark.createDataFrame(part, SEQUENCES.ddl), workspace, SEQUENCES, ingest=number)
        assert rows(read_ingested(spark, replace(workspace, as_of=number), SEQUENCES)) == part


def test_a_named_table_that_a_killed_write_left_empty_is_not_taken_for_written(
    spark: SparkSession, schema: str, tmp_path: Path
) -> None:
    workspace = Workspace(tmp_path / "out", catalog=CATALOG, schema=schema)
    workspace.prepare()
    frame = spark.createDataFrame(ROWS, SEQUENCES.ddl)
    write_table(frame, workspace, SEQUENCES, ingest=0)
    spark.sql(f"CREATE OR REPLACE TABLE {workspace.table('sequences')} ({SEQUENCES.ddl}) USING delta")
    with pytest.raises(TableError, match=r"found a table that no write has filled in `spark_catalog`"):
        read_table(spark, workspace, SEQUENCES)
    assert rows(read_ingested(spark, replace(workspace, as_of=0), SEQUENCES)) == ROWS
    assert next_ingest(spark, workspace, [SEQUENCES]) == 1
    write_table(frame.limit(0), workspace, SEQUENCES, ingest=1)
    assert rows(read_ingested(spark, replace(workspace, as_of=1), SEQUENCES)) == []


def test_a_named_table_keeps_its_rows_until_those_of_other_columns_are_there(
    spark: SparkSession, schema: str, tmp_path: Path
) -> None:
    workspace = Workspace(tmp_path / "out", catalog=CATALOG, schema=schema)
    workspace.prepare()
    former = TableSchema("sequences", "one client", "behaviour string, client_id bigint", ("behaviour",))
    write_table(spark.createDataFrame([("page_visit", 7)], former.ddl), workspace, former, ingest=0)
    frame = spark.createDataFrame(ROWS, SEQUENCES.ddl)
    fail_to_write(frame, workspace, ingest=1)
    assert rows(read_table(spark, workspace, former)) == [("page_visit", 7)]
    write_table(frame, workspace, SEQUENCES, ingest=1)
    assert rows(read_table(spark, workspace, SEQUENCES)) == ROWS
    assert rows(read_ingested(spark, replace(workspace, as_of=0), former)) == [("page_visit", 7)]
    (detail,) = spark.sql(f"DESCRIBE DETAIL {workspace.table('sequences')}").collect()
    assert tuple(detail["partitionColumns"]) == SEQUENCES.partition_by


def rows(frame: DataFrame) -> list[tuple[object, ...]]:
    return sorted(tuple(row) for row in frame.collect())


@pytest.mark.slow
def test_tables_in_a_store_are_those_of_folders(
    spark: SparkSession, tiny_run: TinyRun, store: str, tmp_path: Path
) -> None:
    workspace = Workspace(tmp_path / "out", tables_url=store)
    assert main(["run", *tiny_run.flags(workspace.out), "--tables", store, "--to", "split"]) == 0
    found, expected = (read_tables(spark, each, BEFORE_VOCABULARY) for each in (workspace, tiny_run.workspace))
    assert len(found) == len(BEFORE_VOCABULARY)
    assert differences(found, expected) == []
    assert not (workspace.out / "tables").exists()


@pytest.mark.stores
def test_a_run_into_a_catalog_gives_what_a_run_into_folders_gives(
    spark: SparkSession, tiny_run: TinyRun, schema: str, tmp_path: Path
) -> None:
    workspace = Workspace(tmp_path / "out", catalog=CATALOG, schema=schema)
    flags = [*tiny_run.flags(workspace.out), "--catalog", CATALOG, "--schema", schema]
    assert main(["ingest", *flags]) == 0
    assert main(["run", *flags, "--restart"]) == 0  # its tables replace those of the first ingest
    assert not (workspace.out / "tables").exists()
    assert not (workspace.out / "copies").exists()
    assert read_table(spark, workspace, PRODUCT_PROPERTIES, version=1).count() > 0
    assert differences(read_tables(spark, workspace), read_tables(spark, tiny_run.workspace)) == []
    assert differences(read_numbers(workspace.out), read_numbers(tiny_run.workspace.out)) == []
    assert main(["vocabulary", *flags, "--as-of", "0"]) == 2  # the windows are those of the newest ingest
    assert main(["split", *flags, "--as-of", "0"]) == 0
    assert main(["split", *flags, "--as-of", "2"]) == 2


@pytest.mark.stores
def test_a_run_into_a_store_that_python_cannot_open_gives_the_same(
    spark: SparkSession, tiny_run: TinyRun, store: str, tmp_path: Path
) -> None:
    workspace = Workspace(tmp_path / "out", tables_url=store)
    # its models are compared with nothing: the copies' files are dealt and read in another order
    briefly = ["training.n_ranks=1", "training.epochs=1"]
    assert main(["run", *tiny_run.flags(workspace.out), "--tables", store, "--set", *briefly]) == 0
    assert not (workspace.out / "tables").exists()
    sequences = read_table(spark, workspace, SEQUENCES)
    assert {urlsplit(url).scheme for url in sequences.inputFiles()} == {"viewfs"}
    found, expected_tables = read_tables(spark, workspace), read_tables(spark, tiny_run.workspace)
    # says of which weights the encoders' blocks are
    assert len(found.pop("block_columns")) == len(expected_tables.pop("block_columns"))
    assert differences(found, expected_tables) == []
    numbers, expected = read_numbers(workspace.out), read_numbers(tiny_run.workspace.out)
    assert numbers.keys() == expected.keys()
    exact = [name for name in expected if name.startswith("baseline/") or name.endswith("client_ids.npy")]
    assert exact
    assert differences({name: numbers[name] for name in exact}, {name: expected[name] for name in exact}) == []


def test_a_schema_that_is_not_there_is_told_before_a_stage_runs(
    tiny_run: TinyRun, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    flags = tiny_run.flags(tmp_path / "out")
    assert main(["run", *flags, "--catalog", CATALOG, "--schema", "nowhere"]) == 2
    assert "CREATE SCHEMA `spark_catalog`.`nowhere`" in caplog.text
