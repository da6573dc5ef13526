"""Parquet footers: what a file's columns are, and whether Spark can decode them."""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from schemas.errors import InputError

_ARROW_SCHEMA = b"ARROW:schema"
# as pyarrow names them; Spark brings a decoder for each
_CODECS = ("UNCOMPRESSED", "SNAPPY", "GZIP", "ZSTD", "LZ4")
_ENCODINGS = (
    "PLAIN",
    "PLAIN_DICTIONARY",
    "RLE_DICTIONARY",
    "RLE",
    "BIT_PACKED",
    "DELTA_BINARY_PACKED",
    "DELTA_LENGTH_BYTE_ARRAY",
    "DELTA_BYTE_ARRAY",
)


@dataclass(frozen=True)
class Footer:
    """What a Parquet file says of its columns.

    Attributes
    ----------
    schema : from the Arrow schema that the file may carry, else from Parquet's own
    is_plain : whether pyarrow opens the file as it is
    """

    schema: pa.Schema
    metadata: pq.FileMetaData
    is_plain: bool = True


def read_footer(path: Path) -> Footer:
    """The footer of a file; InputError if that is no whole Parquet file, or an encrypted one."""
    try:
        with path.open("rb") as file:
            file.seek(-min(8, path.stat().st_size), 2)
            end = file.read()
            n_bytes = int.from_bytes(end[:4], "little")
            if end[4:] == b"PARE":
                raise _encrypted(path)
            try:
                whole = pq.ParquetFile(path)
                footer = Footer(whole.schema_arrow, whole.metadata)
            except pa.ArrowException:
                if end[4:] != b"PAR1":
                    raise
                # an Arrow schema of newer types, such as string_view, which Parquet's own schema does without
                file.seek(-8 - n_bytes, 2)
                # renamed, pyarrow passes it over; at the same length, since the footer's other offsets must stay true
                renamed = file.read().replace(_ARROW_SCHEMA, _ARROW_SCHEMA.upper())
                metadata = pq.read_metadata(pa.BufferReader(b"PAR1" + renamed))
                footer = Footer(metadata.schema.to_arrow_schema(), metadata, is_plain=False)
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path} is not a whole Parquet file: {error}; copy or write it again") from error
    # a footer is signed where columns are encrypted; the signature stands behind it
    if footer.metadata.serialized_size < n_bytes:
        raise _encrypted(path)
    return footer


def find_undecodable(metadata: pq.FileMetaData, columns: Collection[str]) -> list[str]:
    """What of these columns Spark has no decoder for, a text for each; none where it can read them."""
    numbers = [number for number in range(metadata.num_columns) if metadata.schema.column(number).path in columns]
    found = set()
    for group in range(metadata.num_row_groups):
        for number in numbers:
            chunk = metadata.row_group(group).column(number)
            name = f"column {chunk.path_in_schema!r}"
            if chunk.compression not in _CODECS:
                found.add(f"{name}: expected a codec of {', '.join(_CODECS)}, found {chunk.compression}")
            for encoding in set(chunk.encodings).difference(_ENCODINGS):
                found.add(f"{name}: expected an encoding that Spark can read, such as PLAIN, found {encoding}")
    return sorted(found)


def _encrypted(path: Path) -> InputError:
    return InputError(f"{path}: expected a Parquet file without encryption, found an encrypted one; write it again")
