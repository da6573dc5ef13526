"""Checks a Parquet file's pages before they are decoded: the checksums that they carry, and what they grow to.

The Parquet reader of pyarrow 14 has no switch for checksums; pyarrow 15 has ``page_checksum_verification``, but
Petastorm fails there. Where pyarrow may be newer, that part goes. No version bounds memory: a thousand bytes of Parquet
may stand for gigabytes, by compression, and by one long text that a dictionary lends to every row.
"""

import mmap
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq

MAX_PAGE_BYTES = 2**28
"""Of a page as it is decoded: far more than writers put into one, most of which end a page at a mebibyte."""
_DECODED_BYTES, _STORED_BYTES, _CHECKSUM = 2, 3, 4  # of PageHeader in parquet.thrift
_DATA_PAGES, _N_VALUES = (5, 8), 1  # of both kinds; in their headers
_TRUE, _FALSE, _BYTE, _I16, _I32, _I64, _DOUBLE, _BINARY, _STRUCT = 1, 2, 3, 4, 5, 6, 7, 8, 12
_MAX_DEPTH = 4  # of a struct in a page header: its page's header, the statistics in it, and some to spare


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
                    header = _HeaderReader(rest)
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


class _HeaderReader:
    """Reads a Thrift struct in the compact protocol, as far as page headers use it.

    Every step moves on by a byte at least, and an IndexError ends what would go beyond the content: no bytes, however
    damaged, keep it for longer than they are many.
    """

    def __init__(self, content: memoryview) -> None:
        self.content, self.position = content, 0

    def read_numbers(self, depth: int = 0) -> dict[int, Any]:
        """The 32-bit fields of the struct here, and the structs in it, by their ids; others are passed over."""
        if depth > _MAX_DEPTH:
            raise ValueError(depth)
        numbers: dict[int, Any] = {}
        field = 0
        while (head := self._byte()) != 0:
            kind = head & 0x0F
            field = field + (head >> 4) if head >> 4 else self._number()
            if kind == _I32:
                numbers[field] = self._number()
            elif kind in (_I16, _I64):
                self._number()
            elif kind in (_BYTE, _DOUBLE):
                self.position += 1 if kind == _BYTE else 8
            elif kind == _BINARY:
                n_bytes = self._varint()
                self.position += n_bytes
            elif kind == _STRUCT:
                numbers[field] = self.read_numbers(depth + 1)
            elif kind not in (_TRUE, _FALSE):
                raise ValueError(kind)
        return numbers

    def _number(self) -> int:
        value = self._varint()
        return (value >> 1) ^ -(value & 1)  # zigzag

    def _varint(self) -> int:
        value = 0
        for shift in range(0, 70, 7):  # 64 bits and what is left of the last byte
            byte = self._byte()
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
        raise ValueError(value)

    def _byte(self) -> int:
        byte = self.content[self.position]
        self.position += 1
        return byte
