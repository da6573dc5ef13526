"""Reads what Parquet files say of themselves in Thrift, before other readers trust it."""

from typing import Any

LIST = 9
STRUCT = 12
_TRUE, _FALSE, _BYTE, _I16, _I32, _I64, _DOUBLE, _BINARY = 1, 2, 3, 4, 5, 6, 7, 8
_MAX_DEPTH = 4  # of a page header: its page's header, the statistics in it; of a schema's element: the unit of a time


class StructReader:
    """Reads structs in the compact protocol, as far as page headers and the elements of a schema use it.

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
        while (head := self.read_byte()) != 0:
            kind = head & 0x0F
            # the distance from the last field's id, or, where that is too large for 4 bits, the id itself
            field = field + (head >> 4) if head >> 4 else self.read_number()
            if kind == _I32:
                numbers[field] = self.read_number()
            elif kind in (_I16, _I64):
                self.read_number()
            elif kind in (_BYTE, _DOUBLE):
                self.position += 1 if kind == _BYTE else 8
            elif kind == _BINARY:
                n_bytes = self.read_varint()
                self.position += n_bytes
            elif kind == STRUCT:
                numbers[field] = self.read_numbers(depth + 1)
            elif kind not in (_TRUE, _FALSE):  # whose kind is their value
                raise ValueError(kind)
        return numbers

    def read_number(self) -> int:
        """A signed number of up to 64 bits."""
        value = self.read_varint()
        return (value >> 1) ^ -(value & 1)  # zigzag

    def read_varint(self) -> int:
        """A number of up to 64 bits without a sign, as sizes are."""
        value = 0
        for shift in range(0, 70, 7):  # 64 bits and what is left of the last byte
            byte = self.read_byte()
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
        raise ValueError(value)

    def read_byte(self) -> int:
        """The next byte."""
        byte = self.content[self.position]
        self.position += 1
        return byte
