"""Damage that a test does to a file."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from pyspark.sql import SparkSession

# fields of a schema's element, behind the name of a column, as Thrift's compact protocol has them
INTERVAL = b"\x25\x2a"  # ConvertedType 21
UUID = b"\x6c\xec\x00\x00"  # LogicalType, of whose fields it is the 14th
FLOAT16 = b"\x6c\xfc\x00\x00"  # the 15th, which pyarrow 14 does not know


def damage_pages(path: Path) -> None:
    """Overwrite the first column's pages of a Parquet file, and leave its footer whole."""
    column = pq.ParquetFile(path).metadata.row_group(0).column(0)
    content = bytearray(path.read_bytes())
    start = column.dictionary_page_offset or column.data_page_offset
    content[start : start + column.total_compressed_size] = b"\xff" * column.total_compressed_size
    path.write_bytes(bytes(content))


def spoil_arrow_schema(path: Path) -> None:
    """Make the Arrow schema of a Parquet file one that pyarrow 14 cannot read, as that of a file with string_view."""
    schema = pq.read_metadata(path).metadata[b"ARROW:schema"]
    path.write_bytes(path.read_bytes().replace(schema, b"A" * len(schema)))


def flip_stored_bit(spark: SparkSession, source: Path) -> None:
    """Make a source folder of one purchase whose page of skus carries a checksum, and change the sku by one bit."""
    frame = spark.createDataFrame(
        [(1, "2022-06-01 12:00:00", 77_777_777)], "client_id bigint, timestamp string, sku bigint"
    )
    frame.coalesce(1).write.option("compression", "none").mode("overwrite").parquet(str(source))
    (path,) = source.glob("*.parquet")
    data = path.read_bytes()
    column = pq.ParquetFile(path).metadata.row_group(0).column(2)
    place = data.index((77_777_777).to_bytes(8, "little"), column.data_page_offset)
    path.write_bytes(data[:place] + (77_777_776).to_bytes(8, "little") + data[place + 8 :])
    for checksum in source.glob(".*.crc"):
        checksum.unlink()


def write_nested(path: Path, n_groups: int, row_groups: bytes = b"\x0c") -> None:
    """A Parquet file of a footer alone, in Thrift's compact protocol: one column in so many groups in one another.

    Its list of row groups is empty, if it is not given.
    """
    group = b"\x35\x00\x18\x01g\x15\x02\x00"  # required, named g, of one child
    leaf = b"\x15\x02\x25\x00\x18\x01x\x00"  # a required int32, named x
    n_elements = (n_groups + 2).to_bytes(2, "little")  # with the root
    size = bytes([0xFC, n_elements[0] & 0x7F | 0x80, n_elements[0] >> 7 | (n_elements[1] & 0x3F) << 1])
    footer = b"\x15\x02\x19" + size + group * (n_groups + 1) + leaf + b"\x16\x00\x19" + row_groups + b"\x00"
    path.write_bytes(b"PAR1" + footer + len(footer).to_bytes(4, "little") + b"PAR1")


def write_logical_type(path: Path, n_bytes: int, kind: bytes) -> None:
    """A Parquet file with one value of so many bytes in its column ``a``, of a type that pyarrow 14 cannot write."""
    values = pa.array([b"x" * n_bytes], pa.binary(n_bytes))
    pq.write_table(pa.table({"a": values}), path, store_schema=False)
    content = path.read_bytes()
    start = -8 - int.from_bytes(content[-8:-4], "little")
    footer = content[start:-8].replace(b"\x18\x01a\x00", b"\x18\x01a" + kind + b"\x00", 1)
    path.write_bytes(content[:start] + footer + len(footer).to_bytes(4, "little") + b"PAR1")
