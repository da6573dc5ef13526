"""Blocks of a few clients as the stages before ``profile`` leave them, from literal vectors."""

from collections.abc import Mapping
from datetime import datetime

import numpy as np
from numpy.typing import ArrayLike
from pyspark.sql import SparkSession

from conf.inputs import WindowSettings
from jobs.blocks.table import Block, write_blocks
from jobs.storage.delta_tables import read_table, write_table
from jobs.storage.workspace import Workspace
from jobs.transforms.windows import derive_windows, read_windows, windows_frame
from schemas.tables import CLIENTS, WINDOWS

ROWS_DDL = "block string, client_id bigint, is_present boolean, vector array<float>"


def write_clients(spark: SparkSession, workspace: Workspace, client_ids: ArrayLike) -> datetime:
    """The tables ``windows`` and ``clients``; the cutoff."""
    write_table(windows_frame(spark, derive_windows(datetime(2022, 9, 28), WindowSettings())), workspace, WINDOWS)
    rows = [(position, int(client), True) for position, client in enumerate(np.asarray(client_ids))]
    write_table(spark.createDataFrame(rows, CLIENTS.ddl), workspace, CLIENTS)
    return read_windows(spark, workspace).input_end


def put_blocks(
    spark: SparkSession, workspace: Workspace, vectors: Mapping[str, Mapping[int, ArrayLike]]
) -> dict[str, Block]:
    """Blocks of the clients of the workspace, in one write: block -> client id -> vector of those that are present."""
    cutoff = read_windows(spark, workspace).input_end
    client_ids = [row["client_id"] for row in read_table(spark, workspace, CLIENTS).collect()]
    blocks, rows = {}, []
    for name, of_clients in vectors.items():
        own = {client: np.asarray(vector, dtype=float).tolist() for client, vector in of_clients.items()}
        width = len(next(iter(own.values())))
        blocks[name] = Block(name, tuple(f"{name}/{number}" for number in range(width)), "a test")
        rows += [(name, client, client in own, own.get(client)) for client in client_ids]
    write_blocks(list(blocks.values()), spark.createDataFrame(rows, ROWS_DDL), cutoff, workspace)
    return blocks
