"""Moments of stored blocks: tasks add up their rows, a tree of tasks merges the sums."""

from collections.abc import Iterable, Iterator, Sequence
from functools import reduce

from pyspark import SparkContext

from jobs.profiles.composition import StoredBlock
from ml.profiles.moments import Moments

BlockMoments = dict[str, Moments]
"""Block -> moments of the rows of the clients that have it."""

ROWS_PER_TASK = 50_000


def collect_moments(context: SparkContext, blocks: Sequence[StoredBlock]) -> BlockMoments:
    """The moments of each block, in one pass over its rows.

    A task holds ``BATCH_ROWS`` rows of one block at a time, and what travels to the driver is one matrix per block.

    Parameters
    ----------
    blocks : of the same clients; files that every executor can read
    """
    n_rows = len(blocks[0].rows)
    parts = [slice(start, min(start + ROWS_PER_TASK, n_rows)) for start in range(0, n_rows, ROWS_PER_TASK)]

    def add_up(own: Iterable[slice]) -> Iterator[BlockMoments]:
        yield from ({block.name: _moments_of(block, part) for block in blocks} for part in own)

    return context.parallelize(parts, len(parts)).mapPartitions(add_up).treeReduce(_merge)


def _moments_of(block: StoredBlock, part: slice) -> Moments:
    return reduce(Moments.merge, (Moments.of(batch.present) for batch in block.stream(part)))


def _merge(first: BlockMoments, second: BlockMoments) -> BlockMoments:
    return {name: moments.merge(second[name]) for name, moments in first.items()}
