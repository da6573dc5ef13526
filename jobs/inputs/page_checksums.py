"""Checks the checksums that a Parquet file's pages carry; pyarrow 14 reads pages without a look at them."""

import mmap
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq

_STORED_BYTES, _CHECKSUM = 3, 4  # of PageHeader in parquet.thrift
_TRUE, _FALSE, _BYTE, _I16, _I32, _I64, _DOUBLE, _BINARY, _STRUCT = 1, 2, 3, 4, 5, 6, 7, 8, 12


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
    place = start
    with memoryview(content) as pages:
        while place < end:
            try:
                header = _Reader(content, place)
                fields = dict(header.read_numbers())
                n_bytes = fields[_STORED_BYTES]
            except (IndexError, KeyError) as error:
                raise PageError(f"no page header at byte {place} of column {column!r}") from error
            with pages[header.place : header.place + n_bytes] as page:
                if _CHECKSUM in fields and zlib.crc32(page) != fields[_CHECKSUM] & 0xFFFFFFFF:
                    raise PageError(f"the page at byte {place} of column {column!r} does not have its CRC")
            place = header.place + n_bytes


@dataclass
class _Reader:
    """Reads a Thrift struct in the compact protocol, as far as page headers use it."""

    content: mmap.mmap
    place: int

    def read_numbers(self) -> Iterator[tuple[int, int]]:
        """The 32-bit fields of the struct here, by their ids; what is in other fields is passed over."""
        field = 0
        while (head := self._byte()) != 0:
            kind = head & 0x0F
            field = field + (head >> 4) if head >> 4 else self._number()
            if kind == _I32:
                yield field, self._number()
            else:
                self._pass_over(kind)

    def _pass_over(self, kind: int) -> None:
        if kind in (_I16, _I64):
            self._number()
        elif kind in (_BYTE, _DOUBLE):
            self.place += 1 if kind == _BYTE else 8
        elif kind == _BINARY:
            n_bytes = self._varint()
            self.place += n_bytes
        elif kind == _STRUCT:
            list(self.read_numbers())
        elif kind not in (_TRUE, _FALSE):
            raise KeyError(kind)

    def _number(self) -> int:
        value = self._varint()
        return (value >> 1) ^ -(value & 1)  # zigzag

    def _varint(self) -> int:
        value = shift = 0
        while True:
            byte = self._byte()
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    def _byte(self) -> int:
        byte = self.content[self.place]
        self.place += 1
        return byte
