"""Damage that a test does to a file."""

from pathlib import Path

import pyarrow.parquet as pq


def damage_pages(path: Path) -> None:
    """Overwrite the first column's pages of a Parquet file, and leave its footer whole."""
    column = pq.ParquetFile(path).metadata.row_group(0).column(0)
    content = bytearray(path.read_bytes())
    start = column.dictionary_page_offset or column.data_page_offset
    content[start : start + column.total_compressed_size] = b"\xff" * column.total_compressed_size
    path.write_bytes(bytes(content))
