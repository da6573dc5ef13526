"""Every kind of page header is read; what a page's checksum says is tested with ``typed_files``."""

import contextlib
import mmap
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from damage import damage_pages
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.inputs.page_checksums import PageError, _check_chunk, check_pages, longest_lent_text

COLUMNS = ("sku", "timestamp")


def write(path: Path, **options: object) -> pq.ParquetFile:
    values = {"sku": [1, None, 3] * 50, "timestamp": ["2022-06-01 12:00:00", None, ""] * 50}
    pq.write_table(pa.table(values), path, row_group_size=100, data_page_size=100, **options)
    return pq.ParquetFile(path)


@pytest.mark.parametrize("version", ["1.0", "2.0"])
@pytest.mark.parametrize("use_dictionary", [True, False])
@pytest.mark.parametrize("codec", ["none", "snappy", "zstd"])
def test_pages_without_a_checksum_pass(tmp_path: Path, version: str, use_dictionary: bool, codec: str) -> None:
    path = tmp_path / "a.parquet"
    file = write(path, data_page_version=version, use_dictionary=use_dictionary, compression=codec)
    check_pages(file, str(path), range(file.num_row_groups), COLUMNS)


def test_a_header_that_is_none_is_told_unless_its_column_or_row_group_is_not_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    write(path)
    damage_pages(path)
    file = pq.ParquetFile(path)
    with pytest.raises(PageError, match=r"no page header at byte 4 of column 'sku'"):
        check_pages(file, str(path), [0], COLUMNS)
    check_pages(file, str(path), [0], ["timestamp"])
    check_pages(file, str(path), [1], COLUMNS)


def check_bytes(content: bytes, start: int = 0, end: int | None = None) -> None:
    with mmap.mmap(-1, len(content)) as file:
        file.write(content)
        _check_chunk(file, start, len(content) if end is None else end, "sku")


def header(n_bytes: int, n_decoded: int = 8) -> bytes:
    """A page's type and its bytes, decoded and stored, in a byte each, in Thrift's compact protocol."""
    return bytes([0x15, 0, 0x15, (n_decoded << 1) ^ (n_decoded >> 31), 0x15, (n_bytes << 1) ^ (n_bytes >> 31), 0])


def test_a_chunk_is_as_many_pages_as_it_is_long() -> None:
    check_bytes(header(3) + b"abc" + header(0))
    check_bytes(b"no page", 3, 3)


@pytest.mark.parametrize(
    ("content", "position"),
    [
        (header(-5) + b"abcde", 0),  # read on from here, it would come by the same header again and again
        (header(-1) + b"abcde", 0),
        (header(3) + b"abc" + header(60) + b"abc", 10),
        (header(3) + b"abc" + header(1)[:3], 10),
        (header(3, -1) + b"abc", 0),
        (b"\x15" + b"\xff" * 2000, 0),  # a number without an end
        (b"\x1c" * 5000, 0),  # structs without an end
        (b"\x18\xff\xff\xff\xff\x7f" + b"a" * 50, 0),  # a text of 32 GiB
        (b"\x19" + b"a" * 50, 0),  # a list, of which no page header has one
    ],
)
def test_sizes_that_cannot_be_are_told(content: bytes, position: int) -> None:
    with pytest.raises(PageError, match=rf"^no page header at byte {position} of column 'sku'$"):
        check_bytes(content)


def test_a_page_that_grows_beyond_what_writers_make_is_told() -> None:
    check_bytes(header(3, 63) + b"abc")
    large = b"\x15\x00\x15\xff\xff\xff\xff\x01\x15\x06\x00abc"  # 3 bytes, decoded -2**28
    with pytest.raises(PageError, match="no page header"):
        check_bytes(large)
    with pytest.raises(PageError, match=r"^the page at byte 0 of column 'sku' is 268,435,457 bytes large, expected"):
        check_bytes(large.replace(b"\xff\xff\xff\xff\x01", b"\x82\x80\x80\x80\x02"))


@pytest.mark.parametrize("version", ["1.0", "2.0"])
@pytest.mark.parametrize("use_dictionary", [True, False])
def test_what_a_row_may_take_is_known_before_one_is_decoded(tmp_path: Path, version: str, use_dictionary: bool) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(
        pa.table({"id": range(2000), "timestamp": [None, *["x" * 5000] * 1998, "y" * 7000]}),
        path,
        row_group_size=1000,
        data_page_version=version,
        use_dictionary=use_dictionary,
    )
    row_bytes = check_pages(pq.ParquetFile(path), str(path), [0, 1], ["id", "timestamp"])
    lent = longest_lent_text(str(path), [0, 1], ["timestamp"])
    if use_dictionary:
        assert row_bytes < 20
        assert (lent, longest_lent_text(str(path), [0], ["timestamp"])) == (7000, 5000)
    else:
        assert 4900 < row_bytes < 5100
        assert check_pages(pq.ParquetFile(path), str(path), [0, 1], ["id"]) < 20


@pytest.mark.parametrize(("start", "end"), [(-1, 4), (4, 2), (0, 11), (11, 12)])
def test_a_chunk_beyond_its_file_is_told(start: int, end: int) -> None:
    with pytest.raises(PageError, match=rf"^column 'sku' at bytes {start} to {end}, of 10$"):
        check_bytes(header(3) + b"abc", start, end)


@given(st.binary(min_size=1, max_size=300))
@settings(max_examples=500)
def test_any_bytes_are_pages_or_are_told(content: bytes) -> None:
    with contextlib.suppress(PageError):
        check_bytes(content)
