"""The files that a mapping names: found, and refused by name where they are none, without Spark."""

import bz2
import gzip
import json
import os
import shutil
from datetime import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from damage import INTERVAL, UUID, write_logical_type

from conf.mappings import ColumnSettings, InputSettings, MappingSettings
from jobs.inputs.data_files import describe_files
from jobs.inputs.input_files import check_mapping, find_input, read_columns, require_out_elsewhere
from schemas.errors import InputError

HEADER = "user,time,sku\n"


def purchases(path: str, **more: object) -> InputSettings:
    columns = {"client_id": "user", "timestamp": "time", "item": "sku"} | {
        name: more.pop(name) for name in ("client_id", "timestamp", "item") if name in more
    }
    return InputSettings(path=path, **{name: ColumnSettings(column=of) for name, of in columns.items()}, **more)


def check(data: Path | None, settings: InputSettings) -> None:
    check_mapping(MappingSettings(inputs={"product_buy": settings}), data)


def make_delta(folder: Path, *columns: str) -> None:
    log = folder / "_delta_log"
    log.mkdir(parents=True)
    schema = json.dumps({"type": "struct", "fields": [{"name": name, "type": "string"} for name in columns]})
    (log / f"{0:020}.json").write_text(json.dumps({"metaData": {"schemaString": schema}}) + "\n")
    (log / f"{1:020}.json").write_text('{"commitInfo": {}}\n')


def test_files_of_every_kind_and_their_columns_are_found(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("\ufeff" + HEADER)
    with gzip.open(tmp_path / "b.csv.gz", "wt") as file:
        file.write(HEADER)
    with bz2.open(tmp_path / "c.csv.bz2", "wt") as file:
        file.write(HEADER)
    for day in ("1", "2"):
        (tmp_path / "log" / f"day={day}").mkdir(parents=True)
        pq.write_table(pa.table({"user": ["u"], "time": ["t"]}), tmp_path / "log" / f"day={day}" / "x.parquet")
    make_delta(tmp_path / "orders", "user", "time", "sku")
    (tmp_path / "lines.jsonl").write_text("{}\n")
    (tmp_path / "led.txt").write_text("\n  \n" + HEADER)
    check(tmp_path, purchases("led.txt", format="csv"))  # Spark passes over empty lines
    (tmp_path / "metadata").mkdir()
    (tmp_path / "metadata" / "orders.metadata.json").write_text("{}")
    check(tmp_path / "orders", purchases("../a.csv"))  # beside a table, and a description as Iceberg's
    found = {
        path: find_input("inputs.x", settings := purchases(path), tmp_path)
        for path in ("a.csv", "*.csv*", "log", "orders", "lines.jsonl", str(tmp_path / "b.csv.gz"))
    }
    assert {path: (of.format, len(of.files)) for path, of in found.items() if of} == {
        "a.csv": ("csv", 1), "*.csv*": ("csv", 3), "log": ("parquet", 2), "orders": ("delta", 0),
        "lines.jsonl": ("json", 1), str(tmp_path / "b.csv.gz"): ("csv", 1),
    }  # fmt: skip
    columns = {path: read_columns("inputs.x", settings, of) for path, of in found.items() if of}
    assert columns["*.csv*"] == columns["orders"] == ["user", "time", "sku"]
    assert columns["log"] == ["user", "time", "day"]
    assert columns["lines.jsonl"] is None, "Spark looks into them"
    assert read_columns("inputs.x", purchases("orders", version=0), found["orders"]) is None, "then called otherwise"
    check(tmp_path, purchases("log", item="day"))
    (tmp_path / "athena" / "day=1").mkdir(parents=True)  # the column in the files too, which nothing reads
    pq.write_table(
        pa.table({"user": ["u"], "time": ["t"], "sku": ["s"], "day": [1]}), tmp_path / "athena" / "day=1" / "x.parquet"
    )
    check(tmp_path, purchases("athena"))
    assert find_input("inputs.x", InputSettings(table="shop.orders"), None) is None
    assert find_input("inputs.x", purchases("s3://shop/x", format="csv"), None) is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (purchases("b.csv"), r"inputs\.product_buy: expected \S*/b\.csv, found a\.csv, .* there; correct the path"),
        (purchases("{a,b}.csv"), r"found a\.csv, .*; correct the path; braces are part of a name: name the folder, or"),
        (purchases("*.tsv"), r"inputs\.product_buy: expected \S*/\*\.tsv, found a\.csv"),
        (purchases("a.csv", item="item"), r"expected the column 'item' in a\.csv, found user, time, sku; correct"),
        (purchases("a.csv", item="User "), r"the column 'User ' in a\.csv, found .*; write it 'user', as it is there"),
        (purchases("a.csv", expand="items"), "expected the column 'items' in"),
        (purchases("semicolons.csv"), r"with ',' between them in .*found 'user;time;sku'; .*delimiter: \";\""),
        (purchases("a.csv", delimiter="\t"), r"with '\\t' between them in .*found 'user,time,sku'; .*delimiter: \",\""),
        (purchases("empty.csv"), r"expected lines of csv in \S*empty\.csv, found empty files alone"),
        (purchases("blank.csv"), r"expected the column 'user' in blank\.csv, found none"),
        (purchases("twice.csv"), r"expected different columns in \S*twice\.csv, found user twice"),
        (purchases("wide.csv"), r"expected at most 10,000 columns in \S*wide\.csv, found 500,000"),
        (purchases("broken"), r"00\.json: expected a commit of a Delta table, found JSONDecodeError"),
        (purchases("nested"), r"00\.json: expected a commit of a Delta table, found RecursionError"),
        (purchases("log-*.csv"), r"expected the columns user, time, sku as in log-1\.csv, found user, user in"),
        (purchases("[l]og-*.csv"), r"expected \S*/\[l\]og-\*\.csv, found a\.csv"),
        (purchases("cases.csv"), r"differ by more than case, in \S*cases\.csv .* found user, User; rename"),
        (purchases("days"), r"more than case, in \S*day=1/x\.csv and .* found day, day"),
        (purchases("users"), r"more than case, in \S*user=1/x\.parquet and in the names .* found user, user; rename"),
        (purchases("users", delimiter=";"), r"header and delimiter are of CSV alone, found parquet in users"),
        (purchases("packed.csv.GZ", format="csv"), r"packed\.csv\.GZ: expected CSV, found gzip; unpack it, or name it"),
        (purchases("packed.csv.GZ", format="json"), r"packed\.csv\.GZ: expected JSON, found gzip; unpack it, or name"),
        (purchases("shards", format="csv"), r"columns user, time, sku as in 000000_0\.gz, found other in \S*000001_0;"),
        (purchases("mac.csv"), r"mac\.csv: expected CSV .* first line that ends in LF or CRLF, found new-line char"),
        (purchases("broken.csv"), r"broken\.csv: expected CSV .* quotes closed, .* found unexpected end of data"),
        (purchases("latin.csv"), r"latin\.csv: expected CSV in UTF-8, found 'utf-8' codec"),
        (purchases("endless.csv"), r"endless\.csv: expected a first line of names of columns, found none that ends"),
        (purchases("marked.csv"), r"marked\.csv: expected a first line of names of columns, found none that ends"),
        (purchases("cut.csv.gz"), r"cut\.csv\.gz: expected CSV in UTF-8, found "),
        (purchases("bad.csv.gz"), r"bad\.csv\.gz: expected CSV in UTF-8, found Error -3"),
        (purchases("bare/_hidden.csv"), r"bare/_hidden\.csv: expected a name that neither .*; rename it"),
        (purchases("same"), r"rows of each file once in \S*same, found c\.csv and c\.csv\.gz, which differ by compr"),
        (purchases("mixed"), r"expected files of one format .* found csv and json; give the format"),
        (purchases("notes"), r"expected names of files that tell their format .* in \S*notes, found README; give"),
        (purchases("bare"), r"expected names of files that tell their format .* in \S*bare, found no file; give"),
        (purchases("notes", format="csv"), r"expected csv files in \S*notes, found README; correct path or f"),
        (purchases("a.csv", version=1), r"expected a Delta table, found no _delta_log in \S*a\.csv"),
        (purchases("a.csv", format="parquet"), r"a\.csv is not a whole Parquet file"),
        (purchases("orders", item="item"), r"expected the column 'item' in orders, found user, time"),
        (purchases("orders", format="parquet"), "expected plain Parquet files, found a Delta table"),
        (purchases("orders/*.parquet"), r"expected a table whole, found \S*orders/\*\.parquet, files of the table"),
        (purchases("link.parquet"), r"found \S*link\.parquet, files of the table \S*orders \(_delta_log\)"),
        (purchases("noon.parquet"), r"Spark can read in \S*noon\.parquet, found times of day in 'at'; write the"),
        (purchases("nested.parquet"), r"found times of day in 's\.at', times of day in 'l\.list\.element'; write"),
        (purchases("uuid.parquet"), r"Spark can read in \S*uuid\.parquet, found UUIDs in 'a'; write the file without"),
        (purchases("interval.parquet"), r"Spark can read in \S*interval\.parquet, found intervals in 'a'; write the"),
        (purchases("partly"), r"same columns .*found day= of \S*day=1/x\.csv, no such folder of \S*partly/y\.csv"),
    ],
)  # fmt: skip
def test_an_input_that_cannot_be_read_is_refused_by_name(tmp_path: Path, settings: InputSettings, message: str) -> None:
    (tmp_path / "a.csv").write_text(HEADER)
    (tmp_path / "twice.csv").write_text("user,user\n")
    (tmp_path / "wide.csv").write_text("a," * 499_999 + "a")  # took hours to be compared
    for name, commit in (("broken", '{"metaData"'), ("nested", '{"metaData":' + "[" * 100_000)):
        (tmp_path / name / "_delta_log").mkdir(parents=True)
        (tmp_path / name / "_delta_log" / f"{0:020}.json").write_text(commit)
    (tmp_path / "log-1.csv").write_text(HEADER)
    (tmp_path / "log-2.csv").write_text("user,user\n")
    (tmp_path / "cases.csv").write_text("user,time,sku,User\n")
    (tmp_path / "days" / "day=1").mkdir(parents=True)
    (tmp_path / "days" / "day=1" / "x.csv").write_text("day," + HEADER)
    (tmp_path / "users" / "user=1").mkdir(parents=True)
    pq.write_table(pa.table({"user": [2], "time": ["t"]}), tmp_path / "users" / "user=1" / "x.parquet")
    (tmp_path / "packed.csv.GZ").write_bytes(gzip.compress(HEADER.encode()))
    (tmp_path / "mac.csv").write_bytes(HEADER.replace("\n", "\r").encode() + b"1,2,3\r")
    (tmp_path / "broken.csv").write_text('user,time,sku,"Amount\n(EUR)"\n')
    (tmp_path / "semicolons.csv").write_text("user;time;sku\n")
    (tmp_path / "empty.csv").touch()
    (tmp_path / "blank.csv").write_text("\n")
    (tmp_path / "latin.csv").write_bytes("user,zażółć\n".encode("iso-8859-2"))
    (tmp_path / "endless.csv").write_bytes(b"x" * 2**20)
    (tmp_path / "marked.csv").write_bytes("\ufeff".encode() + b"x" * 2**20)
    (tmp_path / "cut.csv.gz").write_bytes(gzip.compress(b"user,time" * 1000)[:20])
    (tmp_path / "bad.csv.gz").write_bytes(gzip.compress(b"user,time" * 1000)[:20] + b"\xff" * 20)
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "_hidden.csv").write_text(HEADER)
    (tmp_path / "same").mkdir()
    (tmp_path / "same" / "c.csv").write_text(HEADER)
    (tmp_path / "same" / "c.csv.gz").write_bytes(gzip.compress(HEADER.encode()))
    make_delta(tmp_path / "orders", "user", "time")
    pq.write_table(pa.table({"user": [2], "time": ["t"]}), tmp_path / "orders" / "of-a-former-version.parquet")
    pq.write_table(pa.table({"at": pa.array([time(12)])}), tmp_path / "noon.parquet")
    nested = {"s": pa.array([{"at": time(12)}]), "l": pa.array([[time(12)]])}
    pq.write_table(pa.table(nested), tmp_path / "nested.parquet")
    write_logical_type(tmp_path / "uuid.parquet", 16, UUID)
    write_logical_type(tmp_path / "interval.parquet", 12, INTERVAL)
    (tmp_path / "link.parquet").symlink_to(tmp_path / "orders" / "of-a-former-version.parquet")
    (tmp_path / "partly" / "day=1").mkdir(parents=True)
    for name in ("day=1/x.csv", "y.csv"):
        (tmp_path / "partly" / name).write_text(HEADER)
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards" / "000000_0.gz").write_bytes(gzip.compress(HEADER.encode()))
    (tmp_path / "shards" / "000001_0").write_text("other\n")
    for folder, name in (("mixed", "a.csv"), ("mixed", "b.json"), ("notes", "README")):
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / name).write_text(HEADER)
    with pytest.raises(InputError, match=message):
        check(tmp_path, settings)


def test_a_relative_path_without_data_is_refused() -> None:
    with pytest.raises(InputError, match=r"inputs\.product_buy\.path: expected --data DIR, in which 'a\.csv' lies"):
        check(None, purchases("a.csv"))


def test_files_of_another_format_and_empty_ones_in_a_folder_are_named_and_not_read(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "a.csv").write_text(HEADER)
    (tmp_path / "README").write_text("notes")
    (tmp_path / "part-1.csv").touch()
    check(tmp_path, purchases("."))
    assert "inputs.product_buy: skipped, empty or no csv by their names: " in caplog.text
    assert "README" in caplog.text
    assert "part-1.csv" in caplog.text


def test_copies_beside_a_pattern_are_no_part_of_it_and_a_file_reached_twice_is_refused(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("2022-Jun.csv", "2022-Jun.csv~", "2022-Jun.csv.bak"):
        (tmp_path / name).write_text(HEADER)
    found = find_input("inputs.x", purchases("*.csv*"), tmp_path)
    assert found
    assert [file.name for file in found.files] == ["2022-Jun.csv"]
    assert "2022-Jun.csv~" in caplog.text
    for name in ("a.parquet", "a.parquet.bak"):
        pq.write_table(pa.table({"user": ["u"]}), tmp_path / name)
    found = find_input("inputs.x", purchases("*.parquet*"), tmp_path)
    assert found
    assert [file.name for file in found.files] == ["a.parquet"]
    for folder in ("b.parquet", "b.parquet.bak"):
        (tmp_path / folder).mkdir()
        pq.write_table(pa.table({"user": ["u"]}), tmp_path / folder / "part-0.parquet")
    found = find_input("inputs.x", purchases("b.parquet*"), tmp_path)
    assert found
    assert found.files == (tmp_path / "b.parquet" / "part-0.parquet",)
    (tmp_path / "2022-latest.csv").symlink_to("2022-Jun.csv")
    with pytest.raises(InputError, match=r"found 2022-Jun\.csv and 2022-latest\.csv, which are one file"):
        find_input("inputs.x", purchases("*.csv*"), tmp_path)


@pytest.mark.parametrize("path", ["log", "log/*"])
def test_files_whose_names_tell_no_format_are_read_where_it_is_given(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, path: str
) -> None:
    (tmp_path / "log").mkdir()
    shards = ["000000_0.gz", "000001_0.bz2", "000002_0", "events_000000000000", "part-00000-c000", "x.json"]
    others = [
        "000003_0.bak",
        "README",
        "a.json.zip",
        "README.md",
        "a.csv",
        "a.json~",
        "a.parquet",
        "b._COPYING_",
        "events.manifest",
        # downloads, copies and notes of other names
        "000002_0.dat",
        "CHECKSUMS",
        "SHA256SUMS",
        "crawl.log",
        "x.json.1",
        "x.json.crdownload",
        "x.json_old",
    ]
    packers = {".gz": gzip.compress, ".bz2": bz2.compress}
    for name in (*shards, *others):
        (tmp_path / "log" / name).write_bytes(packers.get(Path(name).suffix, bytes)(b'{"user": "a"}\n'))
    found = find_input("inputs.x", purchases(path, format="json"), tmp_path)
    assert found
    assert [file.name for file in found.files] == shards
    (line,) = caplog.messages
    # of a pattern, what Spark itself passes over is no part
    skipped = {Path(name).name for name in line.rpartition(": ")[2].split(", ")}
    assert skipped == {name for name in others if "*" not in path or name != "b._COPYING_"}
    assert {f"log/{name}" for name in shards} <= describe_files(tmp_path, [path])[path].keys()


def test_json_objects_that_share_a_line_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('\ufeff{"user": "a"} \n{"user": "b"}\n')
    check(tmp_path, purchases("a.jsonl"))
    for lines in ('{"user": "a"}{"user": "b"}', '{"user": "}{"}, {"user": "b"}\n'):
        (tmp_path / "b.jsonl").write_text(lines)
        with pytest.raises(
            InputError, match=r"expected one JSON object a line in .*b\.jsonl, found another one behind"
        ):
            check(tmp_path, purchases("b.jsonl"))


def test_json_objects_over_several_lines_are_refused_and_one_bad_line_is_not(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('[\n  {\n    "user": "a"\n  }\n]\n')
    with pytest.raises(InputError, match=r"one JSON object a line in .*a\.json, found '\[' and '{' as its first lines"):
        check(tmp_path, purchases("a.json"))
    (tmp_path / "b.json").write_text('{"user": "a\n{"user": "b"}\n')  # the first line is quarantined
    check(tmp_path, purchases("b.json"))


def test_a_compressed_file_of_nothing_is_empty_and_a_column_without_a_name_is_shown(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "a.csv").write_text(HEADER)
    with gzip.open(tmp_path / "b.csv.gz", "wb"):
        pass
    check(tmp_path, purchases("*.csv*"))
    assert "skipped, empty or no csv by their names: " in caplog.text
    assert "b.csv.gz" in caplog.text
    (tmp_path / "c.csv").write_text(HEADER.strip() + ",,\n")
    with pytest.raises(InputError, match=r"c\.csv, found '' twice; rename one of them, or end the lines without ','"):
        check(tmp_path, purchases("c.csv"))


def test_an_output_directory_among_the_rows_of_an_input_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(HEADER)
    (tmp_path / "log").mkdir()
    mapping = MappingSettings(inputs={"product_buy": purchases(".")})
    for out in (tmp_path / "out", tmp_path):
        with pytest.raises(InputError, match=r"--out \S*: expected it outside of .*, which inputs\.product_buy reads"):
            require_out_elsewhere(mapping, tmp_path, out)
    require_out_elsewhere(mapping, tmp_path / "log", tmp_path / "out")
    of_files = MappingSettings(inputs={"product_buy": purchases("*.csv")})
    require_out_elsewhere(of_files, tmp_path, tmp_path / "out")


def test_what_an_input_is_made_of_is_described_by_size_and_time_or_by_version(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(HEADER)
    make_delta(tmp_path / "orders", "user")
    newest = f"orders/_delta_log/{1:020}.json"
    (of_csv, of_commit) = (
        [stat.st_size, stat.st_mtime_ns] for stat in map(os.stat, (tmp_path / "a.csv", tmp_path / newest))
    )
    assert describe_files(tmp_path, ["*.csv", "orders", "gone.csv"]) == {
        "*.csv": {"a.csv": of_csv}, "orders": {"orders/_delta_log": [1, *of_commit]}, "gone.csv": {},
    }  # fmt: skip
    absolute = str(tmp_path / "a.csv")
    assert describe_files(None, [absolute, "a.csv"]) == {absolute: {absolute: of_csv}}


def test_a_delta_table_made_anew_and_text_beside_parquet_are_seen_to_change(tmp_path: Path) -> None:
    (tmp_path / "log").mkdir()
    pq.write_table(pa.table({"user": ["u"]}), tmp_path / "log" / "x.parquet")
    (tmp_path / "log" / "a.csv").write_text(HEADER)
    (tmp_path / "log" / "000000_0").write_text(HEADER)  # a part of a table that Hive has written as text
    make_delta(tmp_path / "orders", "user")
    before = describe_files(tmp_path, ["log", "orders"])
    shutil.rmtree(tmp_path / "orders")
    make_delta(tmp_path / "orders", "user", "time")
    os.utime(tmp_path / "orders" / "_delta_log" / f"{1:020}.json", ns=(0, 1))
    (tmp_path / "log" / "a.csv").write_text(HEADER * 2)
    (tmp_path / "log" / "000000_0").write_text(HEADER * 2)
    after = describe_files(tmp_path, ["log", "orders"])
    assert after["orders"] != before["orders"]
    for name in ("log/a.csv", "log/000000_0"):
        assert after["log"][name] != before["log"][name]


def test_names_that_spark_passes_over_are_no_part_of_a_pattern(tmp_path: Path) -> None:
    for name in (
        "2019-Oct.csv",
        "2019-Nov.csv.gz",
        ".2019-Oct.csv.crc",
        "._x.csv",
        ".~lock.x.csv#",
        "_part.csv",
        "b.csv._COPYING_",
    ):
        (tmp_path / name).write_bytes(gzip.compress(HEADER.encode()) if name.endswith(".gz") else HEADER.encode())
    found = find_input("inputs.x", purchases("*.csv*"), tmp_path)
    assert found
    assert [file.name for file in found.files] == ["2019-Nov.csv.gz", "2019-Oct.csv"]
    assert list(describe_files(tmp_path, ["*.csv*"])["*.csv*"]) == ["2019-Nov.csv.gz", "2019-Oct.csv"]
