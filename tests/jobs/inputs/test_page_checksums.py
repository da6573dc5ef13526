"""Every kind of page header is read; what a page's checksum says is tested with ``typed_files``."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from damage import damage_pages

from jobs.inputs.page_checksums import PageError, check_pages

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
