"""Petastorm 0.12 and 0.13 cannot read a store with pyarrow 14.

They call ``pyarrow.parquet.ParquetDataset`` with ``validate_schema``, which pyarrow takes with file systems of its own
old kind alone, and not with those of fsspec that they make of an ``s3://`` URL.
Upstream: https://github.com/uber/petastorm/issues/758.
Ends with: no release yet; the last one is 0.13.1.
"""

import warnings
from typing import Any


def open_store(paths: list[str], system: Any) -> tuple[list[str], Any]:
    """URLs of files as Petastorm takes them, and the file system to give it with them.

    Parameters
    ----------
    paths : as ``system``, of fsspec, calls the files
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        from pyarrow.filesystem import DaskFileSystem

        class StoreFiles(DaskFileSystem):
            def isdir(self, path: str) -> bool:
                return bool(self.fs.isdir(path))

            def isfile(self, path: str) -> bool:
                return bool(self.fs.isfile(path))

        files = StoreFiles(system)
    # of an s3 URL it takes bucket and path for the name of the file, whatever the file system
    return [f"s3://{path}" for path in paths], files
