"""Checks the checksums that a Parquet file's pages carry.

The Parquet reader of pyarrow 14 has no switch for it; pyarrow 15 has ``page_checksum_verification``, but Petastorm
fails there. Where pyarrow may be newer, this file goes.
"""

import mmap
import zlib
from collections.abc import Iterable
from pathlib import Path

import pyarrow.parquet as pq

_STORED_BYTES, _CHECKSUM = 3, 4  # of PageHeader in parquet.thrift
_TRUE, _FALSE, _BYTE, _I16, _I32, _I64, _DOUBLE, _BINARY, _STRUCT = 1, 2, 3, 4, 5, 6, 7, 8, 12
_MAX_DEPTH = 4  # of a struct in a page header: its page's header, the statistics in it, and some to spare


class PageError(Exception):
    """A page is not what its file says of it."""


def check_pages(file: pq.ParquetFile, path: str, groups: Iterable[int], columns: Iterable[str]) -> None:
    """Raise PageError if a page of these row groups and columns does not have the checksum that it carries."""
    wanted = set(columns)
    with Path(path).open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
        for group in groups:
            row_group = file.metadata.row_group(group)
            for number in range(row_group.num_columns):
                chunk = row_group.column(number)
                if chunk.path_in_schema in wanted:
                    start = chunk.dictionary_page_offset or chunk.data_page_offset
                    _check_chunk(content, start, start + chunk.total_compressed_size, chunk.path_in_schema)


def _check_chunk(content: mmap.mmap, start: int, end: int, column: str) -> None:
    """Check the pages that start between two bytes of a file."""
    if not 0 <= start <= end <= len(content):
        raise PageError(f"column {column!r} at bytes {start} to {end}, of {len(content)}")
    position = start
    with memoryview(content) as file:
        while position < end:
            try:
                with file[position:] as rest:
                    header = _HeaderReader(rest)
                    fields = header.read_numbers()
                page_start, n_bytes = position + header.position, fields[_STORED_BYTES]
                if not 0 <= n_bytes <= len(file) - page_start:
                    raise ValueError(n_bytes)
            except (LookupError, ValueError) as error:
                raise PageError(f"no page header at byte {position} of column {column!r}") from error
            with file[page_start : page_start + n_bytes] as page:
                if _CHECKSUM in fields and zlib.crc32(page) != fields[_CHECKSUM] & 0xFFFFFFFF:
                    raise PageError(f"the page at byte {position} of column {column!r} does not have its CRC")
            position = page_start + n_bytes


class _HeaderReader:
    """Reads a Thrift struct in the compact protocol, as far as page headers use it.

    Every step moves on by a byte at least, and an IndexError ends what would go beyond the content: no bytes, however
    damaged, keep it for longer than they are many.
    """

    def __init__(self, content: memoryview) -> None:
        self.content, self.position = content, 0

    def read_numbers(self, depth: int = 0) -> dict[int, int]:
        """The 32-bit fields of the struct here, by their ids; what is in other fields is passed over."""
        if depth > _MAX_DEPTH:
            raise ValueError(depth)
        numbers, field = {}, 0
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
                self.read_numbers(depth + 1)
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
