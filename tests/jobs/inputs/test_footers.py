"""What a footer says: columns of types that pyarrow does not know, and what Spark cannot decode."""

import base64
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pyarrow.parquet.encryption as encryption
import pytest
from damage import FLOAT16, spoil_arrow_schema, write_logical_type, write_nested

from conf.inputs import IngestSettings
from jobs.inputs.challenge_directory import count_rows, group_files
from jobs.inputs.footers import read_footer
from jobs.inputs.typed_files import typed_files
from schemas.behaviours import ItemKind
from schemas.errors import InputError
from schemas.tables import events_contract

TABLE = pa.table({"client_id": [1], "timestamp": ["2022-06-01 12:00:00"], "sku": [7], "extra": ["x"]})
CONTRACT = events_contract("sku", ItemKind.ID)


class PlainKeys(encryption.KmsClient):
    """Keys that are kept as they are."""

    def __init__(self, _: object) -> None:
        super().__init__()

    def wrap_key(self, key: bytes, _: str) -> bytes:
        return base64.b64encode(key)


def write_encrypted(path: Path, is_footer_plain: bool) -> None:
    factory = encryption.CryptoFactory(PlainKeys)
    settings = encryption.EncryptionConfiguration("f", column_keys={"c": ["sku"]}, plaintext_footer=is_footer_plain)
    properties = factory.file_encryption_properties(encryption.KmsConnectionConfig(), settings)
    with pq.ParquetWriter(path, TABLE.schema, encryption_properties=properties) as writer:
        writer.write_table(TABLE)


def write_split_bytes(path: Path) -> None:
    """As pyarrow 14 writes no integers: the list of encodings (PLAIN, RLE) in the footer becomes another one."""
    pq.write_table(TABLE, path, use_dictionary=False, compression="none", write_statistics=False)
    content = path.read_bytes()
    n_bytes = int.from_bytes(content[-8:-4], "little") + 8
    footer = content[-n_bytes:].replace(b"\x25\x06\x00", b"\x25\x06\x12")
    path.write_bytes(content[:-n_bytes] + footer)


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path: pq.write_table(TABLE, path, compression="brotli"),
         "column 'client_id': expected a codec of UNCOMPRESSED, SNAPPY, .*, found BROTLI; .*write the file again"),
        (write_split_bytes,
         "column 'client_id': expected an encoding that Spark can read, .*found BYTE_STREAM_SPLIT; .*defaults"),
        (lambda path: write_encrypted(path, False), "expected a Parquet file without encryption"),
        (lambda path: write_encrypted(path, True), "expected a Parquet file without encryption"),
    ],
    ids=["codec", "encoding", "encrypted", "encrypted_columns"],
)  # fmt: skip
def test_what_spark_cannot_decode_is_refused_by_name(
    tmp_path: Path, write: Callable[[Path], None], message: str
) -> None:
    write(tmp_path / "product_buy.parquet")
    with pytest.raises(InputError, match=rf"product_buy\.parquet: {message}"):
        group_files(tmp_path / "product_buy.parquet", CONTRACT)


def test_columns_that_are_not_read_may_be_stored_in_any_way(tmp_path: Path) -> None:
    codecs = {name: "brotli" if name == "extra" else "snappy" for name in TABLE.schema.names}
    pq.write_table(TABLE, tmp_path / "product_buy.parquet", compression=codecs)
    assert len(group_files(tmp_path / "product_buy.parquet", CONTRACT)) == 1


def test_a_file_of_newer_arrow_types_is_read_by_parquets_own_schema(tmp_path: Path) -> None:
    source = tmp_path / "product_buy.parquet"
    source.mkdir()
    pq.write_table(TABLE, source / "a.parquet")
    pq.write_table(TABLE, source / "b.parquet")
    spoil_arrow_schema(source / "b.parquet")
    plain, newer = group_files(source, CONTRACT)
    assert newer.columns == plain.columns
    assert count_rows(source) == 2
    assert typed_files([plain], "sku", ItemKind.ID, IngestSettings())
    assert typed_files([plain, newer], "sku", ItemKind.ID, IngestSettings()) is None, "only Spark opens it"


def write_name_that_is_no_text(path: Path) -> None:
    pq.write_table(pa.table({"abcdefgh": [1]}), path, store_schema=False)
    path.write_bytes(path.read_bytes().replace(b"abcdefgh", b"\xff" * 8))


@pytest.mark.parametrize(
    ("write", "message"),
    [
        # pyarrow and Spark go down into groups: 20,000 of them ended the process
        (lambda path: write_nested(path, 100), ": expected at most 100 groups of columns in one another"),
        (lambda path: write_nested(path, 10_000), ": expected at most 100 groups of columns in one another"),
        (lambda path: write_nested(path, 1, b"\x1c\x19\x0c\x16\x00\x16\x00\x00"),  # one of no columns
         " is not a whole Parquet file: expected 1 columns in each row group, found 0 in row group 0"),
        (lambda path: write_logical_type(path, 2, FLOAT16),
         ": expected columns of types that pyarrow .* knows, found one of a newer type, .*; write the file without"),
        (write_name_that_is_no_text, r": expected names of columns in UTF-8, found 'utf-8' codec"),
        (lambda path: path.write_bytes(b"PAR1" + b"\x18\xff" * 5 + b"\x0a\x00\x00\x00PAR1"),
         " is not a whole Parquet file: its footer holds no schema"),
    ],
    ids=["deep", "very_deep", "few_columns", "newer_type", "name", "no_schema"],
)  # fmt: skip
def test_a_footer_that_cannot_be_read_is_refused(tmp_path: Path, write: Callable[[Path], None], message: str) -> None:
    write(tmp_path / "a.parquet")
    with pytest.raises(InputError, match=rf"a\.parquet{message}"):
        read_footer(tmp_path / "a.parquet")


def test_footers_of_many_columns_and_groups_are_read(tmp_path: Path) -> None:
    write_nested(tmp_path / "deep.parquet", 99)
    assert read_footer(tmp_path / "deep.parquet").metadata.num_columns == 1
    times = pa.array([0], pa.timestamp("us", "UTC"))
    wide = {f"a{number}": pa.array([{"b": [{"c": 1, "d": "x"}], "e": times[0]}]) for number in range(100)}
    pq.write_table(pa.table(wide), tmp_path / "wide.parquet")
    assert read_footer(tmp_path / "wide.parquet").metadata.num_columns == 300
