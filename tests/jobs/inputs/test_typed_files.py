"""Typed events that Python tasks write are those that the JVM types, and damage is told by file."""

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from damage import damage_pages, flip_stored_bit
from pyspark.sql import SparkSession

from conf.inputs import IngestSettings
from jobs.inputs import typed_files as typed_files_module
from jobs.inputs.challenge_directory import group_files
from jobs.inputs.event_rules import type_events
from jobs.inputs.source_files import naming_unreadable_files, read_group
from jobs.inputs.typed_files import TypedFiles, typed_files
from jobs.storage import stored_rows
from schemas.behaviours import ItemKind
from schemas.errors import InputError
from schemas.tables import events_contract

NOON = "2022-06-01 12:00:00"
CONTRACT = events_contract("sku", ItemKind.ID)
SETTINGS = IngestSettings(earliest="2022-01-01", latest="2022-07-01 00:00:01")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "data %20" / "product_buy.parquet"
    folder.mkdir(parents=True)
    return folder


def write(path: Path, clients: Sequence[object], times: Sequence[object], skus: Sequence[object]) -> None:
    pq.write_table(pa.table({"sku": skus, "extra": ["x"] * len(skus), "timestamp": times, "client_id": clients}), path)


def files_of(source: Path) -> TypedFiles | None:
    return typed_files(group_files(source, CONTRACT), "sku", ItemKind.ID, SETTINGS)


def write_typed(spark: SparkSession, source: Path, folder: Path) -> list[pa.Table]:
    """The typed files of a source, as they are told."""
    files = files_of(source)
    assert files is not None
    tables = []
    for written in files.write(spark, folder):
        assert (folder / written.name).stat().st_size == written.n_bytes
        tables.append(pq.read_table(folder / written.name))
        assert tables[-1].num_rows == written.n_rows > 0
    return tables


def rows_of(tables: Sequence[pa.Table | pa.RecordBatch]) -> list[tuple[object, ...]]:
    return sorted(tuple(row.values()) for table in tables for row in table.to_pylist())


def test_the_rows_are_those_that_the_jvm_types(spark: SparkSession, source: Path, tmp_path: Path) -> None:
    times = [NOON, "2021-12-31 23:59:59", "2022-01-01 00:00:00", "2022-07-01 00:00:00", "2022-07-01 00:00:01", None]
    times += ["noon", "2022-02-30 12:00:00", NOON + "Z", NOON, NOON]
    clients = [*range(len(times) - 2), None, 2**63 - 1]
    write(source / "a.parquet", clients, times, [7] * (len(times) - 3) + [None, 7, -7])
    write(source / "b.parquet", pa.array([1, None], "uint32"), [NOON] * 2, pa.array([-8, 1], "int8"))
    write(source / "c.parquet", [3], pa.array([NOON], "large_string").dictionary_encode(), [5])
    write(source / "d.parquet", [4], ["noon"], [5])
    groups = group_files(source, CONTRACT)
    frames = [type_events(read_group(spark, group), "sku", ItemKind.ID, SETTINGS) for group in groups]
    expected = sorted(tuple(row) for frame in frames for row in frame.collect())
    tables = write_typed(spark, source, tmp_path / "out")
    assert len(expected) == 6
    assert rows_of(tables) == expected
    assert len(tables) == 3, "a file without a good row is none"
    assert {str(table.schema.field("timestamp").type) for table in tables} == {"timestamp[us]"}


def test_each_row_of_a_file_is_in_one_part_and_one_row_group(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = source / "a.parquet"
    columns = {"client_id": list(range(1000)), "timestamp": [NOON] * 1000, "sku": list(range(1000))}
    pq.write_table(pa.table(columns), path, row_group_size=90)
    monkeypatch.setattr(stored_rows, "PART_BYTES", path.stat().st_size // 2)
    monkeypatch.setattr(stored_rows, "BATCH_ROWS", 200)
    files = files_of(source)
    assert files is not None
    assert len(files.parts.starts) > 1
    groups = [rows for number in range(len(files.parts.starts)) for rows in files.type_part(number)]
    assert rows_of(groups) == [(number, datetime(2022, 6, 1, 12), number) for number in range(1000)]
    assert max(rows.num_rows for rows in groups) == 200


@pytest.mark.parametrize(("name", "values"), [
    ("client_id", pa.array([1], "uint64")),
    ("client_id", pa.nulls(1)),
    ("timestamp", pa.array([datetime(2022, 6, 1)], pa.timestamp("us"))),
    ("timestamp", pa.nulls(1)),
])  # fmt: skip
def test_what_is_not_ids_and_texts_is_left_to_the_jvm(source: Path, name: str, values: pa.Array) -> None:
    write(source / "a.parquet", [1], [NOON], [7])
    assert files_of(source) is not None
    columns = {"client_id": [1], "timestamp": [NOON], "sku": [7]} | {name: values}
    pq.write_table(pa.table(columns), source / "b.parquet")
    assert files_of(source) is None
    groups = group_files(source, CONTRACT)
    assert typed_files(groups, "sku", ItemKind.CODES, SETTINGS) is None


def test_damaged_pages_are_told_by_file(spark: SparkSession, source: Path, tmp_path: Path) -> None:
    for name in ("a b", "b"):
        write(source / f"{name}.parquet", [1], [NOON], [7])
    damage_pages(source / "a b.parquet")
    with pytest.raises(
        InputError, match=r"a b\.parquet: expected a file that can be read.*copy or write the file again"
    ) as caught:
        write_and_name(spark, source, tmp_path / "out")
    assert "/b.parquet" not in str(caught.value)


def test_a_flipped_bit_in_a_page_with_a_checksum_is_noticed(spark: SparkSession, source: Path, tmp_path: Path) -> None:
    flip_stored_bit(spark, source)
    with pytest.raises(InputError, match=r"column 'sku' does not have its CRC"):
        write_and_name(spark, source, tmp_path / "out")


def write_and_name(spark: SparkSession, source: Path, folder: Path) -> None:
    with naming_unreadable_files([source]):
        write_typed(spark, source, folder)


def test_rows_whose_texts_grow_are_read_few_at_once(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    times = pa.DictionaryArray.from_arrays(pa.array([0] * 3000 + [1]), pa.array(["x" * 10_000, NOON]))
    path = source / "a.parquet"
    pq.write_table(
        pa.table({"sku": range(3001), "timestamp": times, "client_id": range(3001)}), path, store_schema=False
    )
    assert path.stat().st_size < 60_000
    seen = []
    parse = typed_files_module.parse_times
    monkeypatch.setattr(typed_files_module, "parse_times", lambda texts: seen.append(texts.nbytes) or parse(texts))
    monkeypatch.setattr(typed_files_module, "MAX_BATCH_BYTES", 100_000)
    files = files_of(source)
    assert files is not None
    assert rows_of(list(files.type_part(0))) == [(3000, datetime.fromisoformat(NOON), 3000)]
    assert max(seen) < 110_000
