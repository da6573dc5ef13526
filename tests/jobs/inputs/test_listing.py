"""Which files of a source are read: each regular one, or a line says why not."""

import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from conf.load import load_config
from jobs.inputs.challenge_directory import check_challenge, count_rows, group_files
from jobs.inputs.data_files import describe_files, log_unread_files
from jobs.inputs.listing import list_source, parquet_files
from schemas.behaviours import ItemKind
from schemas.errors import InputError
from schemas.tables import events_contract

TABLE = pa.table({"client_id": [1], "timestamp": ["2022-06-01 12:00:00"], "url": [7]})


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A folder of one file."""
    folder = tmp_path / "data" / "page_visit.parquet"
    folder.mkdir(parents=True)
    pq.write_table(TABLE, folder / "a.parquet")
    return folder


def test_parquet_is_read_whatever_it_is_called_and_through_links(source: Path, tmp_path: Path) -> None:
    others = ["000002_0", "_day=1/e", "_x=1.parquet", "part-00002", "b.parq", "d.PARQUET", "day=1/e", "x:y/f"]
    for name in others:
        (source / name).parent.mkdir(exist_ok=True)
        pq.write_table(TABLE, source / name)
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "deep").mkdir(parents=True)
    pq.write_table(TABLE, elsewhere / "deep" / "g")
    (source / "linked").symlink_to(elsewhere)
    pq.write_table(TABLE, tmp_path / "one")
    (source / "h").symlink_to(tmp_path / "one")
    expected = sorted(source / name for name in ("a.parquet", *others, "linked/deep/g", "h"))
    (group,) = group_files(source, events_contract("url", ItemKind.ID))
    assert list(group.files) == expected
    assert count_rows(source) == len(expected)
    described = describe_files(source.parent, [source.name])[source.name]
    assert list(described) == [str(path.relative_to(source.parent)) for path in expected]


def test_what_is_not_read_is_named_with_the_reason(source: Path, caplog: pytest.LogCaptureFixture) -> None:
    (source / "README.txt").write_text("visits")
    (source / "sub").mkdir()
    (source / "sub" / "0.csv").write_text("1,2,3")
    (source / "000001_0").touch()
    os.mkfifo(source / "pipe")
    pq.write_table(TABLE, source / "b.parquet._COPYING_")
    for copy in ("a.parquet.bak", "a.parquet~"):
        pq.write_table(TABLE, source / copy)
    (source / "_SUCCESS").touch()
    (source / ".a.parquet.crc").touch()
    for hidden in ("_temporary", ".day=1"):
        (source / hidden).mkdir()
        pq.write_table(TABLE, source / hidden / "c.parquet")
    data = source.parent
    (data / "input").mkdir()
    for name in ("page_visit.csv", "page_visit.parq", "foo.parquet", "input/relevant_client.npy", ".x", "product_buy"):
        (data / name).touch()
    (data / "input" / "relevant_clients.npy").touch()
    log_unread_files(data, load_config("demo"))
    first, *lines = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert sorted([first, *lines[:-1]]) == [
        "  page_visit.parquet: skipped, a copy under way: b.parquet._COPYING_",
        "  page_visit.parquet: skipped, a copy, by its name: a.parquet.bak, a.parquet~",
        "  page_visit.parquet: skipped, empty: 000001_0",
        "  page_visit.parquet: skipped, no Parquet: README.txt, sub/0.csv",
        "  page_visit.parquet: skipped, no regular file: pipe",
    ]
    assert lines[-1].startswith(
        "  not read: foo.parquet, input/relevant_client.npy, page_visit.csv, page_visit.parq, product_buy; the sources"
    )


def test_a_clean_directory_is_passed_without_a_word(source: Path, caplog: pytest.LogCaptureFixture) -> None:
    (source.parent / "oracle").mkdir()  # of a simulated shop
    log_unread_files(source.parent, load_config("demo"))
    assert caplog.records == []


def test_a_folder_without_parquet_is_refused_with_what_it_holds(source: Path) -> None:
    (source / "a.parquet").rename(source / ".a.parquet")
    with pytest.raises(InputError, match=r"page_visit\.parquet: expected Parquet files in this folder, found none;"):
        parquet_files(source)
    (source / "a.csv").write_text("1,2,3")
    with pytest.raises(InputError, match=r"in this folder, found only a\.csv \(no Parquet\); remove it or fill it"):
        parquet_files(source)


def test_a_source_of_a_name_that_spark_passes_over_is_refused(source: Path) -> None:
    path = (source / "a.parquet").rename(source.parent / "_visits.parquet")
    with pytest.raises(
        InputError, match=r"_visits\.parquet: expected a name that neither starts with \. or _ .*; rename"
    ):
        parquet_files(path)


def delta_table(folder: Path) -> None:
    (folder / "_delta_log").mkdir()


def hudi_table(folder: Path) -> None:
    (folder / "day=1" / ".hoodie").mkdir(parents=True)


def iceberg_table(folder: Path) -> None:
    (folder / "metadata").mkdir()
    (folder / "metadata" / "v1.metadata.json").touch()


def circle(folder: Path) -> None:
    (folder / "again").symlink_to(folder.parent)


def same_folder(folder: Path) -> None:
    (folder / "b").mkdir()
    (folder / "c").symlink_to(folder / "b")


def link_to_nothing(folder: Path) -> None:
    (folder / "b").symlink_to(folder / "none")


def link_to_itself(folder: Path) -> None:
    (folder / "b").symlink_to(folder / "b")


def pipe(folder: Path) -> None:
    os.mkfifo(folder / "b.parquet")


def colon(folder: Path) -> None:
    pq.write_table(TABLE, folder / "12:00.parquet")


def colon_and_wildcard(folder: Path) -> None:
    (folder / "12:00 [1]").mkdir()
    pq.write_table(TABLE, folder / "12:00 [1]" / "b.parquet")


def same_file(folder: Path) -> None:
    (folder / "latest.parquet").symlink_to("a.parquet")


def no_utf8(folder: Path) -> None:
    Path(os.fsdecode(os.fsencode(folder) + b"/\xff.parquet")).write_bytes(b"PAR1")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (delta_table, r"page_visit\.parquet: expected plain Parquet files, found a Delta table.*export its rows"),
        (hudi_table, "day=1: expected plain Parquet files, found a Hudi table"),
        (iceberg_table, "found an Iceberg table"),
        (
            circle,
            r"again/page_visit\.parquet: expected each folder once, found it as .*page_visit\.parquet too; remove",
        ),
        (same_folder, "c: expected each folder once, found it as .*b too; remove the link"),
        (same_file, r"latest\.parquet: expected each file once, found it as .*a\.parquet too; remove the link"),
        (link_to_nothing, "b: expected a file, found a link to nothing; remove it"),
        (link_to_itself, "b: expected a file, found a link to nothing; remove it"),
        (pipe, r"b\.parquet: expected a regular file, found a pipe"),
        (colon, r"12:00\.parquet: expected a name without a colon.*rename it"),
        (colon_and_wildcard, "expected a name without a colon"),
        (no_utf8, r"\\udcff\.parquet': expected a name in UTF-8"),
    ],
)
def test_what_may_hold_rows_and_cannot_be_read_is_refused_by_name(source: Path, spoil, message: str) -> None:
    spoil(source)
    with pytest.raises(InputError, match=message):
        list_source(source)


def test_a_folder_that_may_not_be_read_is_refused(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(InputError, match=r"expected files that can be read, found .*Permission denied"):
        list_source(source)


def test_a_source_that_links_to_nothing_is_not_one_left_out(source: Path) -> None:
    pq.write_table(TABLE, source.parent / "product_buy.parquet")
    (source.parent / "search_query.parquet").symlink_to(source.parent / "none")
    with pytest.raises(InputError, match=r"search_query\.parquet: expected a file, found a link to nothing"):
        check_challenge(source.parent, load_config("demo").restricted_to("search_query"))
