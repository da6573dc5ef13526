"""Checks a Parquet file's pages before they are decoded: the checksums that they carry, and what they grow to.

The Parquet reader of pyarrow 14 has no switch for checksums; pyarrow 15 has ``page_checksum_verification``, but
Petastorm fails there. Where pyarrow may be newer, that part goes. No version bounds memory: a thousand bytes of Parquet
may stand for gigabytes, by compression, and by one long text that a dictionary lends to every row.
"""

import mmap
import zlib
from collections.abc import Iterable
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq

from jobs.inputs.thrift import StructReader

MAX_PAGE_BYTES = 2**28
"""Of a page as it is decoded: far more than writers put into one, most of which end a page at a mebibyte."""
_DECODED_BYTES, _STORED_BYTES, _CHECKSUM = 2, 3, 4  # of PageHeader in parquet.thrift
_DATA_PAGES, _N_VALUES = (5, 8), 1  # of both kinds; in their headers


class PageError(Exception):
    """A page is not what its file says of it."""


def check_pages(file: pq.ParquetFile, path: str, groups: Iterable[int], columns: Iterable[str]) -> int:
    """The bytes that a row of these row groups and columns may take as it is decoded; texts of dictionaries aside.

    Raises
    ------
    PageError
        If a page does not have the checksum that it carries, or is larger than any writer makes one.
    """
    wanted, row_bytes = set(columns), 0
    with Path(path).open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
        for group in groups:
            row_group = file.metadata.row_group(group)
            for number in range(row_group.num_columns):
                chunk = row_group.column(number)
                if chunk.path_in_schema in wanted:
                    start = chunk.dictionary_page_offset or chunk.data_page_offset
                    end = start + chunk.total_compressed_size
                    row_bytes = max(row_bytes, _check_chunk(content, start, end, chunk.path_in_schema))
    return row_bytes


def longest_lent_text(path: str, groups: Iterable[int], columns: Iterable[str]) -> int:
    """Bytes of the longest text in the dictionaries of these row groups and columns; of pages that were checked."""
    names, longest = list(columns), 0
    file = pq.ParquetFile(path, read_dictionary=names)  # texts stay in their dictionary
    for group in groups:
        for row in file.iter_batches(1, [group], names):
            lengths = [pc.max(pc.binary_length(text.dictionary)).as_py() for text in row.columns]
            longest = max([longest, *filter(None, lengths)])
            break  # the first row brings the whole dictionary
    return longest


def _check_chunk(content: mmap.mmap, start: int, end: int, column: str) -> int:
    """Check the pages that start between two bytes of a file; the most bytes of a row, as the mean of its page."""
    if not 0 <= start <= end <= len(content):
        raise PageError(f"column {column!r} at bytes {start} to {end}, of {len(content)}")
    position, row_bytes = start, 0
    # each view is released before the map is closed, which fails while one is left
    with memoryview(content) as file:
        while position < end:
            try:
                with file[position:] as rest:
                    header = StructReader(rest)
                    fields = header.read_numbers()
                page_start, n_bytes = position + header.position, fields[_STORED_BYTES]
                n_decoded = fields[_DECODED_BYTES]
                if not 0 <= n_bytes <= len(file) - page_start or n_decoded < 0:
                    raise ValueError(n_bytes, n_decoded)
                for kind in set(_DATA_PAGES) & fields.keys():
                    row_bytes = max(row_bytes, n_decoded // max(1, fields[kind][_N_VALUES]))
            except (LookupError, ValueError, TypeError) as error:
                raise PageError(f"no page header at byte {position} of column {column!r}") from error
            if n_decoded > MAX_PAGE_BYTES:
                raise PageError(
                    f"the page at byte {position} of column {column!r} is {n_decoded:,} bytes large, expected at most "
                    f"{MAX_PAGE_BYTES:,}"
                )
            with file[page_start : page_start + n_bytes] as page:
                # Thrift has signed numbers alone
                if _CHECKSUM in fields and zlib.crc32(page) != fields[_CHECKSUM] & 0xFFFFFFFF:
                    raise PageError(f"the page at byte {position} of column {column!r} does not have its CRC")
            position = page_start + n_bytes
    return row_bytes
