"""Source files as they come: every way to store a column is read as what it means, damage is told by file."""

from datetime import datetime
from functools import reduce
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from damage import damage_pages, flip_stored_bit, spoil_arrow_schema
from pyspark.sql import DataFrame, SparkSession

from conf.inputs import IngestSettings
from jobs.inputs.challenge_directory import count_rows, group_files
from jobs.inputs.event_rules import type_events
from jobs.inputs.source_files import naming_unreadable_files, read_group
from schemas.behaviours import ItemKind
from schemas.errors import InputError
from schemas.tables import events_contract

NOON = "2022-06-01 12:00:00"
TIME = datetime(2022, 6, 1, 12)
CONTRACT = events_contract("sku", ItemKind.ID)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "product_buy.parquet"
    folder.mkdir()
    return folder


def write(path: Path, client_id: Any = (1,), timestamp: Any = (NOON,), sku: Any = (7,), **options: Any) -> None:
    columns = {"client_id": client_id, "timestamp": timestamp, "sku": sku}
    table = pa.table({name: pa.array(values) for name, values in columns.items()})
    pq.write_table(table, path, **options)


def read(spark: SparkSession, source: Path) -> list[tuple[object, ...]]:
    """The typed events of a source, in order."""
    rows = []
    for group in group_files(source, CONTRACT):
        good = type_events(read_group(spark, group), "sku", ItemKind.ID, IngestSettings())
        with naming_unreadable_files([source]):
            rows += [tuple(row) for row in good.collect()]
    return sorted(rows)


INTEGERS = ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"]


@pytest.mark.parametrize("width", INTEGERS)
def test_ids_of_every_width_are_the_same_ids(spark: SparkSession, source: Path, width: str) -> None:
    highest = int(np.iinfo(width).max) if width != "uint64" else 2**63 - 1
    write(source / "a.parquet", client_id=pa.array([1, highest], width), timestamp=[NOON] * 2, sku=[7, 8])
    assert read(spark, source) == [(1, TIME, 7), (highest, TIME, 8)]


@pytest.mark.parametrize("text", ["string", "large_string"])
@pytest.mark.parametrize("is_encoded", [True, False])
def test_text_is_read_however_it_is_encoded(spark: SparkSession, source: Path, text: str, is_encoded: bool) -> None:
    times = pa.array([NOON] * 3, text)
    write(source / "a.parquet", [1, 2, 3], times.dictionary_encode() if is_encoded else times, [7, 7, 7])
    assert read(spark, source) == [(1, TIME, 7), (2, TIME, 7), (3, TIME, 7)]


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_typed_times_keep_their_wall_time_and_instants_become_utcs(
    spark: SparkSession, source: Path, unit: str
) -> None:
    times = [TIME, datetime(2022, 10, 30, 0, 30), datetime(1969, 12, 31, 23, 59, 59)]
    expected = set()
    for number, (zone, is_int96) in enumerate(product((None, "UTC", "Europe/Berlin"), (False, True))):
        ids = range(10 * number, 10 * number + len(times))
        expected |= {*zip(ids, times, strict=True)}
        typed = pa.array(times, pa.timestamp(unit, zone))  # in UTC, where there is a zone
        write(source / f"{number}.parquet", ids, typed, [7, 7, 7], use_deprecated_int96_timestamps=is_int96)
    settings, groups = IngestSettings(earliest="1960-01-01"), group_files(source, CONTRACT)
    for session_zone in ("UTC", "America/New_York", "Europe/Berlin"):
        spark.conf.set("spark.sql.session.timeZone", session_zone)
        try:
            frames = [type_events(read_group(spark, group), "sku", ItemKind.ID, settings) for group in groups]
            rows = reduce(DataFrame.union, frames).collect()
        finally:
            spark.conf.set("spark.sql.session.timeZone", "UTC")
        assert {(row["client_id"], row["timestamp"]) for row in rows} == expected
        assert len(rows) == len(expected)


def test_fractions_of_a_second_are_kept_to_the_microsecond(spark: SparkSession, source: Path) -> None:
    nanos = [1654084800_123456789, 1654084800_002000000]  # the second as a double / 1000 is a microsecond early
    write(source / "a.parquet", [1, 2], pa.array(nanos, pa.timestamp("ns")), [7, 7])
    assert read(spark, source) == [(1, TIME.replace(microsecond=123456), 7), (2, TIME.replace(microsecond=2000), 7)]


def test_text_times_do_not_depend_on_the_sessions_zone(spark: SparkSession, source: Path) -> None:
    gap = "2022-03-27 02:30:00"  # a time that Berlin's clocks leave out
    write(source / "a.parquet", timestamp=[gap])
    spark.conf.set("spark.sql.session.timeZone", "Europe/Berlin")
    try:
        assert read(spark, source) == [(1, datetime(2022, 3, 27, 2, 30), 7)]
    finally:
        spark.conf.set("spark.sql.session.timeZone", "UTC")


def test_files_of_several_schemas_in_one_folder_are_all_read_right(spark: SparkSession, source: Path) -> None:
    write(source / "a.parquet")
    write(source / "b.parquet", client_id=pa.array([2], "int32"), sku=pa.array([8], "uint16"))
    write(source / "c.parquet", client_id=[3], timestamp=pa.array([TIME], pa.timestamp("ns", "UTC")))
    write(source / "d.parquet", client_id=[4], timestamp=pa.array([NOON]).dictionary_encode())
    reordered = pa.table({"sku": [7], "channel": ["app"], "timestamp": [NOON], "extra": [[1, 2]], "client_id": [5]})
    pq.write_table(reordered, source / "e.parquet")
    write(source / "f.parquet", client_id=pa.nulls(2), timestamp=pa.nulls(2), sku=pa.nulls(2))
    (source / "nested").mkdir()
    write(source / "nested" / "g.parquet", client_id=[7])
    assert read(spark, source) == [(client, TIME, 8 if client == 2 else 7) for client in (1, 2, 3, 4, 5, 7)]
    assert count_rows(source) == 8


def test_files_stored_alike_are_one_group_whatever_else_they_hold(source: Path) -> None:
    write(source / "a.parquet")
    pq.write_table(pa.table({"extra": ["x"], "sku": [7], "client_id": [1], "timestamp": [NOON]}), source / "b.parquet")
    (group,) = group_files(source, CONTRACT)
    assert [path.name for path in group.files] == ["a.parquet", "b.parquet"]


def test_spark_reads_the_files_that_are_counted(spark: SparkSession, source: Path, tmp_path: Path) -> None:
    names = ["000002_0", "part-00002", "b.parq", "d.PARQUET", "day=1/e", "12:00/f"]
    left_behind = ["_temporary/g.parquet", ".g.parquet", "x.parquet._COPYING_"]
    for number, name in enumerate([*names, *left_behind]):
        (source / name).parent.mkdir(exist_ok=True)
        write(source / name, client_id=[number])
    (source / "notes.txt").write_text("not Parquet")
    write(source / "newer.parquet", client_id=[18])
    spoil_arrow_schema(source / "newer.parquet")
    (tmp_path / "elsewhere").mkdir()
    write(tmp_path / "elsewhere" / "h", client_id=[19])
    (source / "linked").symlink_to(tmp_path / "elsewhere")
    assert [client for client, *_ in read(spark, source)] == [0, 1, 2, 3, 4, 5, 18, 19]
    assert count_rows(source) == 8


def test_a_folder_with_wildcards_in_its_name_is_read_as_it_is_called(spark: SparkSession, tmp_path: Path) -> None:
    folder = tmp_path / "data [2022] {a,b} %20*"
    folder.mkdir()
    write(folder / "product_buy.parquet")
    assert read(spark, folder / "product_buy.parquet") == [(1, TIME, 7)]


def test_no_rows_are_fine(spark: SparkSession, source: Path) -> None:
    write(source / "a.parquet", client_id=pa.array([], "int64"), timestamp=pa.array([], "string"), sku=pa.nulls(0))
    assert read(spark, source) == []


@pytest.mark.parametrize(
    ("column", "values", "expected"),
    [
        ("client_id", pa.array([1.0]), "'client_id': expected an integer, found double"),
        ("client_id", pa.array(["1"]), "'client_id': expected an integer, found string"),
        ("sku", pa.array([True]), "'sku': expected an integer, found bool"),
        ("timestamp", pa.array([1654084800]), "'timestamp': expected text or a timestamp, found int64"),
        ("timestamp", pa.array([TIME.date()]), "'timestamp': expected text or a timestamp, found date32"),
    ],
)
def test_a_column_of_another_type_is_refused_by_file(
    source: Path, column: str, values: pa.Array, expected: str
) -> None:
    write(source / "a.parquet")
    write(source / "b.parquet", **{column: values})
    with pytest.raises(InputError, match=rf"b\.parquet: column {expected}.*write the file again"):
        group_files(source, CONTRACT)


@pytest.mark.parametrize("others", [{"SKU": [7]}, {"sku": [7], "Sku": [8]}], ids=["alone", "beside"])
def test_a_column_that_differs_from_one_of_the_contract_in_case_alone_is_refused_by_file(
    source: Path, others: dict[str, list[int]]
) -> None:
    pq.write_table(pa.table({"client_id": [1], "timestamp": [NOON], **others}), source / "a.parquet")
    with pytest.raises(InputError, match=r"a\.parquet: column 'sku': expected an integer, found .*int64 in 'S(KU|ku)'"):
        group_files(source, CONTRACT)


@pytest.mark.parametrize("n_bytes", [0, 3, 200])
def test_an_empty_or_half_written_file_is_refused_by_name(source: Path, n_bytes: int) -> None:
    write(source / "a.parquet")
    whole = (source / "a.parquet").read_bytes()
    (source / "b.parquet").write_bytes(whole[:n_bytes])
    for look in (lambda: group_files(source, CONTRACT), lambda: count_rows(source)):
        with pytest.raises(InputError, match=r"b\.parquet is not a whole Parquet file.*write it again"):
            look()


def test_damaged_pages_behind_a_whole_footer_are_told_by_file(spark: SparkSession, source: Path) -> None:
    for name in ("a b", "b", "c"):
        write(source / f"{name}.parquet")
    damage_pages(source / "a b.parquet")
    assert count_rows(source) == 3
    with pytest.raises(
        InputError, match=r"a b\.parquet: expected a file that can be read.*copy or write the file again"
    ) as caught:
        read(spark, source)
    assert "/b.parquet" not in str(caught.value)


def test_a_flipped_bit_in_a_page_with_a_checksum_is_noticed(spark: SparkSession, source: Path) -> None:
    flip_stored_bit(spark, source)
    with pytest.raises(InputError, match="CRC"):
        read(spark, source)


def test_stale_checksums_are_told_from_a_damaged_file(spark: SparkSession, source: Path) -> None:
    for name in ("a", "a.parquet", "a.parquet b"):
        write(source / name)
    (source / ".a.parquet.crc").write_bytes(b"crc\0\0\0\2\0" + bytes(range(16)))
    with pytest.raises(
        InputError, match=r"^[^,]*a\.parquet: expected its own checksums .*, remove \S*/\.a\.parquet\.crc;"
    ):
        read(spark, source)


def test_a_file_that_goes_away_is_told_by_name(spark: SparkSession, source: Path) -> None:
    write(source / "a.parquet")
    (group,) = group_files(source, CONTRACT)
    frame = read_group(spark, group)
    naming = naming_unreadable_files([source])  # lists the files when it is entered
    with pytest.raises(InputError, match=r"a\.parquet: .*missing"), naming:
        lose_and_collect(source / "a.parquet", frame)


def lose_and_collect(path: Path, frame: DataFrame) -> None:
    path.unlink()
    frame.collect()
