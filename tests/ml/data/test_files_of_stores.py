"""Row groups of files in S3 are those of the same files here, in the same order, by both readers."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from optional import READERS
from s3_server import BUCKET, S3Server

from ml.data.row_groups import Reader, read_row_groups
from ml.files.store import Store


@pytest.mark.parametrize("reader", READERS)
def test_both_readers_read_a_store(server: S3Server, tmp_path: Path, reader: Reader) -> None:
    folder = tmp_path / "behaviour=a%20b"  # as Spark writes it: its URL is encoded once more
    folder.mkdir()
    files = [folder / f"{number}.parquet" for number in range(2)]
    for number, file in enumerate(files):
        pq.write_table(
            pa.table({"token_ids": np.arange(10) + 100 * number, "x": np.arange(10)}), file, row_group_size=4
        )
    store = Store(f"s3://{BUCKET}/table")
    store.put([f"{folder.name}/{file.name}" for file in files], tmp_path)

    def read(urls: list[str], seed: int | None) -> list[Any]:
        return [rows.to_pydict() for rows in read_row_groups(urls, ["token_ids"], seed, reader)]

    for seed in (None, 3):
        found = read([f"{store.url}/behaviour=a%2520b/{file.name}" for file in files], seed)
        assert found == read([file.as_uri() for file in files], seed)
        assert len(found) == 6
