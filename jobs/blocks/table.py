"""The tables of blocks: what every kind of block writes, and what profiles read."""

import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from jobs.storage.delta_tables import exists, read_table, write_table
from jobs.storage.metrics_log import append_blocks
from jobs.storage.stored_rows import timestamp_literal
from jobs.storage.workspace import Workspace
from schemas import columns as c
from schemas.errors import EntryError
from schemas.tables import BLOCK_COLUMNS, BLOCKS, CLIENTS

log = logging.getLogger(__name__)

VECTORS_DDL = f"{c.CLIENT_ID} bigint, {c.VECTOR} array<float>"
"""One row per client that is present."""


@dataclass(frozen=True)
class Block:
    """Named vectors of clients, one part of a profile.

    Attributes
    ----------
    columns : a name for each number of a vector
    made_from : what the vectors were made from, for the reader of ``block_columns``
    """

    name: str
    columns: tuple[str, ...]
    made_from: str

    @classmethod
    def numbered(cls, name: str, width: int, made_from: str) -> "Block":
        """One whose columns have no meaning of their own: NAME/0, NAME/1, ..."""
        return cls(name, tuple(f"{name}/{number}" for number in range(width)), made_from)


def write_block(block: Block, vectors: DataFrame, clients: DataFrame, cutoff: datetime, workspace: Workspace) -> None:
    """Write the block's row of every client; those without a vector are not present.

    Parameters
    ----------
    vectors : one row per client that is present: ``client_id``, ``vector`` array<float>, one number per column
    clients : the clients table; vectors of others are left out
    cutoff : no event at or after it is in the vectors
    """
    rows = clients.select(c.CLIENT_ID).join(vectors, on=c.CLIENT_ID, how="left").select(
        F.lit(block.name).alias(c.BLOCK), c.CLIENT_ID, F.col(c.VECTOR).isNotNull().alias(c.IS_PRESENT), c.VECTOR
    )  # fmt: skip
    write_blocks([block], rows, cutoff, workspace)


def write_blocks(
    blocks: Sequence[Block], rows: DataFrame, cutoff: datetime, workspace: Workspace, former: Collection[str] = ()
) -> None:
    """Replace the rows of some blocks, and those of ``former`` ones, which are not made any more.

    Parameters
    ----------
    rows : one row per block and client: ``block``, ``client_id``, ``is_present``, ``vector``; their partitions make
        the files
    """
    spark = rows.sparkSession
    # quoted by repr: names are letters, digits, _, . and -, as the settings see to, and hold no quote
    where = f"{c.BLOCK} in ({', '.join(repr(name) for name in [*(block.name for block in blocks), *former])})"
    columns = [
        (block.name, position, column, block.made_from)
        for block in blocks
        for position, column in enumerate(block.columns)
    ]
    dated = rows.withColumn(c.CUTOFF, timestamp_literal(cutoff)).select(
        c.BLOCK, c.CUTOFF, c.CLIENT_ID, c.IS_PRESENT, c.VECTOR
    )
    write_table(dated, workspace, BLOCKS, keep_partitions=True, is_log=True, where=where)
    # after the rows: a block that is named there has some. In one partition, for each makes files of its own
    write_table(spark.createDataFrame(columns, BLOCK_COLUMNS.ddl).coalesce(1), workspace, BLOCK_COLUMNS, where=where)
    append_blocks(workspace.metrics, [block.name for block in blocks])


def remove_block(spark: SparkSession, name: str, cutoff: datetime, workspace: Workspace) -> None:
    """Remove the rows of a block that an earlier run made and this one cannot make."""
    if name in collect_blocks(spark, workspace):
        log.info("  %s: its rows of an earlier run are removed", name)
        write_blocks([], spark.createDataFrame([], BLOCKS.ddl).drop(c.CUTOFF), cutoff, workspace, former=[name])


def collect_blocks(spark: SparkSession, workspace: Workspace) -> dict[str, Block]:
    """The blocks of the run by name; none where no stage has written one yet."""
    if not exists(spark, workspace.table(BLOCK_COLUMNS.name)):
        return {}
    rows = read_table(spark, workspace, BLOCK_COLUMNS).orderBy(c.BLOCK, c.POSITION).collect()
    names = dict.fromkeys(row[c.BLOCK] for row in rows)
    by_name = {name: [row for row in rows if row[c.BLOCK] == name] for name in names}
    return {
        name: Block(name, tuple(row[c.COLUMN] for row in own), own[0][c.MADE_FROM]) for name, own in by_name.items()
    }


def read_rows(spark: SparkSession, workspace: Workspace, names: Collection[str], cutoff: datetime) -> DataFrame:
    """The rows of some blocks at a cutoff, as the table has them."""
    is_asked_for = F.col(c.BLOCK).isin(*names) & (F.col(c.CUTOFF) == timestamp_literal(cutoff))
    return read_table(spark, workspace, BLOCKS).filter(is_asked_for)


def collect_absent_shares(rows: DataFrame, names: Collection[str]) -> dict[str, float]:
    """Share of the clients that are not present, of each of the named blocks that has rows.

    Parameters
    ----------
    rows : of the table ``blocks``, at one cutoff
    """
    share = F.avg((~F.col(c.IS_PRESENT)).cast("double")).alias("absent")
    shares = {row[c.BLOCK]: row["absent"] for row in rows.groupBy(c.BLOCK).agg(share).collect()}
    return {name: shares[name] for name in names if name in shares}


def require_clients(spark: SparkSession, workspace: Workspace, names: Collection[str], cutoff: datetime) -> None:
    """Raise EntryError where a block has no row at the cutoff of each client of the clients table, or of others."""
    clients = read_table(spark, workspace, CLIENTS).select(c.CLIENT_ID, c.POSITION)
    n_clients = clients.count()
    # a client who is not in the clients table gets no position, which tells it from the table's own
    rows = read_rows(spark, workspace, names, cutoff).select(c.BLOCK, c.CLIENT_ID).join(clients, c.CLIENT_ID, "left")
    counts = rows.groupBy(c.BLOCK).agg(F.count("*").alias("n"), F.count(c.POSITION).alias("n_own")).collect()
    found = {row[c.BLOCK]: (row["n_own"], row["n"] - row["n_own"]) for row in counts}
    for name in names:
        n_own, n_others = found.get(name, (0, 0))
        if (n_own, n_others) != (n_clients, 0):
            raise EntryError(
                f"block {name!r}: expected a row of each of the {n_clients:,} clients at the cutoff {cutoff}, found "
                f"{n_own:,} of them and {n_others:,} others; run the stage that writes it again"
            )


def collect_digests(
    spark: SparkSession, workspace: Workspace, names: Collection[str], cutoff: datetime
) -> dict[str, str]:
    """Digest of the rows of each of the blocks that have some: equal for equal rows, in any order."""
    row = F.xxhash64(c.CLIENT_ID, c.IS_PRESENT, c.VECTOR)
    # xor takes rows in any order; the count is beside it, for two equal rows cancel out
    digests = read_rows(spark, workspace, names, cutoff).groupBy(c.BLOCK).agg(
        F.count("*").alias("n"), F.hex(F.bit_xor(row)).alias("digest")
    )  # fmt: skip
    return {each[c.BLOCK]: f"{each['n']} {each['digest']}" for each in digests.collect()}


def vector_lists(vectors: NDArray[np.float32], is_present: NDArray[np.bool_] | None = None) -> pa.ListArray:
    """The column ``vector`` of n clients, null where a client is not present.

    Parameters
    ----------
    vectors : float32 [m, width], of the clients that are present
    is_present : bool [n]; None where all are
    """
    if is_present is None:
        is_present = np.ones(len(vectors), dtype=bool)
    offsets = np.concatenate([[0], np.cumsum(is_present * vectors.shape[1])])
    starts = pa.array(offsets, pa.int32(), mask=np.append(~is_present, False))  # a masked start is a null vector
    return pa.ListArray.from_arrays(starts, pa.array(vectors.ravel(), pa.float32()))


def vector_rows(client_ids: pa.Array, vectors: NDArray[np.float32]) -> pa.RecordBatch:
    """Rows of ``VECTORS_DDL``; the vectors float32 [n, width]."""
    return pa.RecordBatch.from_arrays([client_ids, vector_lists(vectors)], names=[c.CLIENT_ID, c.VECTOR])


def dense_vectors(vectors: pa.ListArray, is_present: NDArray[np.bool_], width: int) -> NDArray[np.float32]:
    """The vectors of some rows, float32 [n, width], zeros where a client is not present.

    Raises
    ------
    EntryError
        If the vectors are not ``width`` wide.
    """
    numbers = vectors.filter(pa.array(is_present)).flatten().to_numpy(zero_copy_only=False)
    n_present = int(is_present.sum())
    if len(numbers) != n_present * width:
        raise EntryError(
            f"expected {n_present} vectors of the {width} columns that {BLOCK_COLUMNS.name} names, found "
            f"{len(numbers)} numbers; run the stage that writes the block again"
        )
    dense = np.zeros((len(vectors), width), np.float32)
    dense[is_present] = numbers.reshape(-1, width)
    return dense
