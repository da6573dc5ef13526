"""Python tasks read every row of a snapshot once, and no other."""

from contextlib import ExitStack
from datetime import datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from jobs.runtime.user_errors import explain
from jobs.storage import stored_rows as stored_rows_module
from jobs.storage.delta_tables import read_table, write_table
from jobs.storage.stored_rows import Parts, StoredRows, stored_rows
from jobs.storage.workspace import Workspace
from jobs.transforms.packed import aggregate_packed
from jobs.transforms.vocabulary import add_counts, count_items, keep_frequent, number_items
from schemas.behaviours import ItemKind
from schemas.tables import events_table

VISITS = events_table("page_visit", "url", ItemKind.ID)


def visits(spark: SparkSession, n: int) -> DataFrame:
    start = F.lit("2022-06-01 00:00:00").cast("timestamp_ntz")
    time = start + F.make_dt_interval(secs=F.col("id").cast("decimal(18,6)"))
    columns = [(F.col("id") % 7).alias("client_id"), time.alias("timestamp"), F.col("id").alias("url")]
    return spark.range(0, n, 1, 3).select(*columns)


def count_all(rows: StoredRows) -> list[tuple[int, int]]:
    sources = [(rows.select("url"), None)]
    counted = aggregate_packed(sources, add_counts, keep_frequent(1), "url bigint, n_events bigint")
    return sorted(map(tuple, counted.collect()))


def test_the_rows_of_the_snapshot_are_read_and_not_those_of_its_former_versions(
    spark: SparkSession, workspace: Workspace
) -> None:
    write_table(visits(spark, 50), workspace, VISITS, keep_partitions=True)
    write_table(visits(spark, 20), workspace, VISITS, keep_partitions=True)
    for version, n_rows in ((0, 50), (1, 20)):
        rows = stored_rows(read_table(spark, workspace, VISITS, version))
        assert count_all(rows) == [(url, 1) for url in range(n_rows)]


def test_rows_are_found_in_folders_whose_names_a_url_would_encode(spark: SparkSession, tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "a b#1%20c")
    workspace.prepare()
    write_table(visits(spark, 5), workspace, VISITS)
    assert count_all(stored_rows(read_table(spark, workspace, VISITS))) == [(url, 1) for url in range(5)]


def test_rows_from_a_time_on_are_left_out_whether_or_not_the_time_is_asked_for(
    spark: SparkSession, workspace: Workspace
) -> None:
    write_table(visits(spark, 20), workspace, VISITS, keep_partitions=True)
    early = stored_rows(read_table(spark, workspace, VISITS), datetime(2022, 6, 1, 0, 0, 5))
    assert count_all(early) == [(url, 1) for url in range(5)]
    assert sorted(row["url"] for row in early.frame.collect()) == list(range(5))


def test_a_row_group_is_read_by_the_part_in_which_it_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"url": range(1000)}), path, row_group_size=90, use_dictionary=False)
    for part_bytes in (100, 1000, 10**6):
        monkeypatch.setattr(stored_rows_module, "PART_BYTES", part_bytes)
        starts = tuple((str(path), start) for start in range(0, path.stat().st_size, part_bytes))
        numbers = pa.RecordBatch.from_arrays([pa.array(range(len(starts)))], names=["id"])
        read = pa.Table.from_batches(Parts(starts, ("url",), None).read([numbers]))
        assert read.column("url").to_pylist() == list(range(1000))


@pytest.mark.parametrize("damage", ["cut", "gone", "page"])
def test_a_damaged_file_is_named(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "part-7.parquet"
    pq.write_table(pa.table({"url": range(1000)}), path, use_dictionary=False, compression="zstd")
    whole = path.read_bytes()
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(whole[:-100] if damage == "cut" else whole[:100] + b"\0" * 500 + whole[600:])
    with pytest.raises(OSError, match=r"part-7\.parquet") as raised:
        list(Parts(((str(path), 0),), ("url",), None).read_part(0))
    assert "part-7.parquet damaged or gone" in str(explain(raised.value))


def test_an_empty_table_has_no_rows(spark: SparkSession, workspace: Workspace) -> None:
    write_table(visits(spark, 0), workspace, VISITS)
    assert count_all(stored_rows(read_table(spark, workspace, VISITS))) == []


def test_the_vocabulary_is_that_of_the_same_rows_read_by_the_jvm(spark: SparkSession, workspace: Workspace) -> None:
    write_table(visits(spark, 500).withColumn("url", F.col("url") % 40), workspace, VISITS, keep_partitions=True)
    rows = stored_rows(read_table(spark, workspace, VISITS), datetime(2022, 6, 1, 0, 5))
    assert all(Path(path).exists() for path, _ in rows.parts.starts)
    with ExitStack() as cached:
        found, expected = (
            sorted(number_items(count_items(events, "url", 3), "page_visit", cached, max_rows).collect())
            for events, max_rows in ((rows, rows.max_rows), (rows.frame, None))
        )
    assert len(found) == 40
    assert found == expected
