"""Moments of blocks: tasks add up their rows, a tree of tasks merges the sums."""

from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import DataFrame, Row

from conf.profile import EnsembleSettings
from jobs.blocks.table import dense_vectors
from ml.profiles.composition import prepare_vectors
from ml.profiles.moments import Moments
from schemas.columns import BLOCK, IS_PRESENT, VECTOR

BlockMoments = dict[str, Moments]
"""Block -> moments of the rows of the clients that have it."""

_SUMS_DDL = f"{BLOCK} string, n_rows bigint, mean binary, products binary"


def collect_moments(rows: DataFrame, widths: Mapping[str, int], settings: EnsembleSettings) -> BlockMoments:
    """The moments of each block, in one pass over its rows.

    A task holds one batch of rows at a time, and what travels to the driver is one matrix per block.

    Parameters
    ----------
    rows : of the blocks, as the table has them
    widths : block -> its columns
    """

    def add_up(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        sums: BlockMoments = {}
        for batch in batches:
            for name in pc.unique(batch.column(BLOCK)).to_pylist():
                own = batch.filter(pc.equal(batch.column(BLOCK), name)).column(VECTOR)
                vectors = dense_vectors(own, np.ones(len(own), dtype=bool), widths[name])
                sums = _merge(sums, {name: Moments.of(prepare_vectors(name, vectors, settings))})
        for name, of in sums.items():
            numbers = [[of.n_rows], [of.mean.tobytes()], [of.products.tobytes()]]
            yield pa.RecordBatch.from_arrays(
                [pa.array([name]), *map(pa.array, numbers)], names=[BLOCK, "n_rows", "mean", "products"]
            )

    present = rows.filter(IS_PRESENT).select(BLOCK, VECTOR)
    parts = present.mapInArrow(add_up, _SUMS_DDL).rdd.map(_moments_of)
    nobody = {name: Moments.of(np.zeros((0, width))) for name, width in widths.items()}
    return _merge(nobody, parts.treeAggregate({}, _merge, _merge))


def _moments_of(row: Row) -> BlockMoments:
    mean, products = (np.frombuffer(row[name]) for name in ("mean", "products"))
    return {row[BLOCK]: Moments(row["n_rows"], mean, products.reshape(len(mean), -1))}


def _merge(first: BlockMoments, second: BlockMoments) -> BlockMoments:
    return first | {name: first[name].merge(of) if name in first else of for name, of in second.items()}
