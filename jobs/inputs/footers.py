"""Parquet footers: what a file's columns are, and whether Spark can decode them."""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from jobs.inputs.thrift import LIST, STRUCT, StructReader
from schemas.errors import InputError

MAX_DEPTH = 100
"""Of groups in one another: pyarrow and Spark go down into them, and 20,000 of them ended the process."""
_N_CHILDREN = 5  # of SchemaElement in parquet.thrift
_VERSION, _SCHEMA = 0x15, 0x10 | LIST  # the first two fields of FileMetaData, each with its type
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
            # a Parquet file ends in the size of its footer and four letters
            file.seek(-min(8, path.stat().st_size), 2)
            end = file.read()
            n_bytes = int.from_bytes(end[:4], "little")
            if end[4:] == b"PARE":
                raise _encrypted(path)
            if end[4:] == b"PAR1" and n_bytes + 8 <= path.stat().st_size:  # else pyarrow says what it is
                file.seek(-8 - n_bytes, 2)
                _check_depth(path, file.read(n_bytes))
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
        _ = footer.schema.names  # are decoded now
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: expected names of columns in UTF-8, found {error}; write the file again") from error
    except (pa.ArrowException, OSError) as error:
        if "LogicalType that is not recognized" in str(error):
            raise InputError(
                f"{path}: expected columns of types that pyarrow {pa.__version__} knows, found one of a newer type, "
                "such as float16 or variant; write the file without that column, or with float32 or text in it"
            ) from error
        raise InputError(f"{path} is not a whole Parquet file: {error}; copy or write it again") from error
    _check_columns(path, footer)
    # a footer is signed where columns are encrypted; the signature stands behind it
    if footer.metadata.serialized_size < n_bytes:
        raise _encrypted(path)
    return footer


def _check_depth(path: Path, content: bytes) -> None:
    """Raise InputError for a schema of groups that lie too deep in one another, or for a footer without a schema."""
    try:
        reader = StructReader(memoryview(content))
        if (head := reader.read_byte()) == _VERSION:
            reader.read_number()
            head = reader.read_byte()
        size_and_kind = reader.read_byte()
        if head != _SCHEMA or size_and_kind & 0x0F != STRUCT:
            raise ValueError(head, size_and_kind)
        n_elements = reader.read_varint() if size_and_kind >> 4 == 15 else size_and_kind >> 4
        if n_elements <= MAX_DEPTH:  # nearly all files: no walk
            return
        # the elements are the tree of groups, depth first
        left: list[int] = []  # children to come, of each group around an element
        for _ in range(n_elements):
            n_children = reader.read_numbers().get(_N_CHILDREN, 0)
            while left and left[-1] == 0:
                left.pop()
            if left:
                left[-1] -= 1
            if n_children > 0:
                left.append(n_children)
            if len(left) > MAX_DEPTH:
                raise InputError(
                    f"{path}: expected at most {MAX_DEPTH} groups of columns in one another, found more; write the "
                    "columns that are needed into a file of their own"
                )
    except (IndexError, ValueError) as error:
        raise InputError(
            f"{path} is not a whole Parquet file: its footer holds no schema; copy or write it again"
        ) from error


def _check_columns(path: Path, footer: Footer) -> None:
    """Raise InputError unless each row group has all columns."""
    metadata = footer.metadata
    for group in range(metadata.num_row_groups):
        if (n_columns := metadata.row_group(group).num_columns) != metadata.num_columns:
            raise InputError(
                f"{path} is not a whole Parquet file: expected {metadata.num_columns} columns in each row group, found "
                f"{n_columns} in row group {group}; copy or write it again"
            )


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
