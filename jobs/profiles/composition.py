"""Profiles: the blocks that each is composed of, the fit to their moments, and the Spark job that composes them."""

import logging
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from datetime import datetime

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyspark.sql import DataFrame, Row, SparkSession
from pyspark.sql import functions as F

from conf.pipeline import PipelineConfig
from conf.profile import EnsembleSettings
from jobs.blocks.table import (
    Block,
    collect_absent_shares,
    collect_blocks,
    dense_vectors,
    read_rows,
    require_clients,
    vector_lists,
)
from jobs.storage.delta_tables import exists, read_table
from jobs.storage.workspace import Workspace
from jobs.transforms.ranks import in_parts
from ml.profiles.composition import BlockRows, Composition, Network, fit_composition, prepare_vectors, standardising
from ml.profiles.moments import Moments
from schemas import columns as c
from schemas.blocks import ACTIVITY, ON_REQUEST
from schemas.errors import EntryError
from schemas.tables import CLIENTS, IDS, PROFILES

log = logging.getLogger(__name__)

CLIENTS_PER_PARTITION = 20_000
"""Of profiles with 2,048 columns: 160 MB of float32 in a file."""
CLIENTS_FITTED = 20_000
"""Whose vectors quantiles and networks are fitted on, chosen by a hash of the id: 160 MB on the driver, of a block of
2,048 columns. The share of clients below a quantile then has a standard error of .0035 at most."""
N_QUANTILES = 101
"""Values of a column between which its shares are interpolated."""

Batches = Iterable[pa.RecordBatch]
Quantiles = dict[str, NDArray[np.float64]]
"""Block -> quantiles of its columns, [width, ``N_QUANTILES``]."""
BlockMoments = dict[str, Moments]
"""Block -> moments of the rows of the clients that have it."""


def list_own_blocks(config: PipelineConfig, found: Container[str]) -> list[str]:
    """The blocks of ``ensemble``: of the encoders that have one, and ``activity`` where it is asked for."""
    encoders = [name for name in config.encoders if name in found]
    return [*encoders, *([ACTIVITY] if config.ensemble.activity else [])]


def collect_profile_blocks(
    spark: SparkSession, config: PipelineConfig, workspace: Workspace, cutoff: datetime
) -> tuple[list[Block], list[Block]]:
    """The blocks of ``ensemble`` and the further ones that ``ensemble.blocks`` names, in the profiles' order.

    An encoder without a block is left out: it had nothing to train on; so is a block that its stage could not make, and
    one that no client has: its columns would be the same for all.

    Raises
    ------
    EntryError
        If another block is missing, or no encoder has one.
    """
    found = collect_blocks(spark, workspace)
    own, further = list_own_blocks(config, found), list(config.ensemble.named_blocks)
    if not config.encoders.keys() & found.keys():
        raise EntryError(
            f"expected blocks of the encoders {', '.join(config.encoders)}, found {', '.join(found) or 'none'}; run "
            "embed first"
        )
    for name in (name for name in config.encoders if name not in found):
        log.info("  %s: left out: the encoder has no block", name)
    for name in (name for name in ON_REQUEST if name in further and name not in found):
        log.info("  %s: left out: its stage found too little to make it from", name)
        further.remove(name)
    for name in (*own, *further):
        if name not in found:
            raise EntryError(
                f"block {name!r}: expected it in the table blocks, found {', '.join(found)}; run the stage that writes "
                "it first, import an entry by --block NAME=DIR, or take the name out of ensemble.blocks"
            )
    named = [*own, *further]
    for name, absent in collect_absent_shares(read_rows(spark, workspace, named, cutoff), named).items():
        if absent == 1:
            log.info("  %s: left out: no client to profile has it", name)
            (own if name in own else further).remove(name)
    if not own:
        raise EntryError(
            f"expected a client to profile with an event of an encoder ({', '.join(config.encoders)}), found none; see "
            "that input/relevant_clients.npy is of the same clients as the events"
        )
    return [found[name] for name in own], [found[name] for name in further]


def compose_profiles(
    spark: SparkSession,
    workspace: Workspace,
    profiles: Mapping[str, Sequence[Block]],
    cutoff: datetime,
    settings: EnsembleSettings,
    ids: DataFrame | None = None,
    models: Mapping[str, str] | None = None,
) -> DataFrame:
    """Fit profiles of some blocks each, and compose them: rows of ``tables/profiles``.

    Parameters
    ----------
    ids : ``tables/ids``, where the clients' ids may be of it
    models : encoder -> what its block was made from

    Raises
    ------
    EntryError
        If a block lacks clients, has others, or holds a number that is not finite.
    ConfigError
        As ``fit_composition``.
    """
    widths = {block.name: len(block.columns) for blocks in profiles.values() for block in blocks}
    require_clients(spark, workspace, list(widths), cutoff)
    rows = read_rows(spark, workspace, list(widths), cutoff)
    quantiles = collect_quantiles(rows, widths, settings)
    moments = collect_moments(rows, widths, settings, quantiles)
    networks = collect_networks(rows, widths, settings, quantiles, moments)
    compositions = {
        name: fit_composition({block.name: moments[block.name] for block in blocks}, settings, networks)
        for name, blocks in profiles.items()
    }
    for name, composition in compositions.items():
        # blocks are projected where the settings say so, or where the profile would be too wide
        axes = [f"{block} {own.width}" for block, own in composition.transforms.items() if own.axes is not None]
        parts = f"principal axes of {', '.join(axes)}" if axes else ", ".join(composition.transforms)
        log.info("  profile %s: %d columns of %s", name, composition.width, parts)
    clients = with_keys(read_table(spark, workspace, CLIENTS).select(c.POSITION, c.CLIENT_ID), ids)
    n_clients = clients.count()
    n_parts = max(spark.sparkContext.defaultParallelism, -(-n_clients // CLIENTS_PER_PARTITION))
    # a client's rows are sorted by the order of the blocks in ``widths``, not by their names
    order = F.create_map(*(F.lit(each) for number, name in enumerate(widths) for each in (name, number)))
    with_positions = rows.join(clients, on=c.CLIENT_ID).select(
        c.POSITION, order[F.col(c.BLOCK)].alias("order"), c.CLIENT_ID, c.CLIENT_KEY, c.IS_PRESENT, c.VECTOR
    )
    # a file then holds neighbours, and an export writes each array in order
    ordered = in_parts(with_positions, c.POSITION, n_clients, n_parts).sortWithinPartitions(c.POSITION, "order")

    def stream(batches: Batches) -> Batches:
        for batch in whole_clients(batches, len(widths)):
            # each client has a row of every block, in the order of ``widths``
            by_block = [batch.take(pa.array(range(n, batch.num_rows, len(widths)))) for n in range(len(widths))]
            blocks = []
            for name, own in zip(widths, by_block, strict=True):
                is_present = own.column(c.IS_PRESENT).to_numpy(zero_copy_only=False)
                vectors = dense_vectors(own.column(c.VECTOR), is_present, widths[name])
                blocks.append(BlockRows(name, prepare_vectors(name, vectors, settings, quantiles), is_present))
            for name, composition in compositions.items():
                yield _compose(name, composition, blocks, by_block[0], models or {})

    return ordered.mapInArrow(stream, PROFILES.ddl)


def read_own_ids(spark: SparkSession, config: PipelineConfig, workspace: Workspace) -> DataFrame | None:
    """``tables/ids``; None where a run has none."""
    # beside a challenge directory the table is of an earlier run by a mapping: its integers are of other clients. Of a
    # mapping with integer ids it holds no client's text
    has_ids = config.mapping.inputs and exists(spark, workspace.table(IDS.name))
    return read_table(spark, workspace, IDS) if has_ids else None


def with_keys(clients: DataFrame, ids: DataFrame | None) -> DataFrame:
    """The clients with ``client_key``, the user's own text for each, null where there is none."""
    if ids is None:
        return clients.withColumn(c.CLIENT_KEY, F.lit(None).cast("string"))
    own = ids.filter(F.col(c.KIND) == c.CLIENT_ID)
    keys = own.select(F.col(c.ID).alias(c.CLIENT_ID), F.col(c.KEY).alias(c.CLIENT_KEY))
    return clients.join(keys, on=c.CLIENT_ID, how="left")


def collect_quantiles(rows: DataFrame, widths: Mapping[str, int], settings: EnsembleSettings) -> Quantiles:
    """The quantiles of each column over a sample of clients, of the blocks whose transform asks for them.

    Parameters
    ----------
    rows, widths : as ``collect_moments``
    """
    shares = np.linspace(0.0, 1.0, N_QUANTILES)
    found = {}
    for name in (name for name in widths if settings.of_block(name).transform == "quantile"):
        # in Spark, percentile_approx took a minute for 465 columns of two thousand clients
        vectors = collect_sample(rows, name, widths[name])
        # values that are there, not between two: a column of counts has few, and each is the end of a range of shares
        quantiles = np.quantile(vectors, shares, axis=0, method="inverted_cdf") if len(vectors) else None
        found[name] = np.zeros((widths[name], N_QUANTILES)) if quantiles is None else quantiles.T.astype(np.float64)
    return found


def collect_sample(rows: DataFrame, name: str, width: int) -> NDArray[np.float32]:
    """The vectors of ``CLIENTS_FITTED`` clients that have a block, or of all if they are fewer, float32 [n, width].

    Parameters
    ----------
    rows : as ``collect_moments``
    """
    of_block = rows.filter((F.col(c.BLOCK) == name) & F.col(c.IS_PRESENT))
    # in a stated order, so that what is fitted depends on the vectors alone
    sample = of_block.orderBy(F.xxhash64(c.CLIENT_ID), c.CLIENT_ID).limit(CLIENTS_FITTED)
    # pandas, for what Arrow hands over are arrays, where a collected row is a list of Python's numbers
    frame: pd.DataFrame = sample.select(c.VECTOR).toPandas()
    return np.array(frame[c.VECTOR].tolist(), dtype=np.float32).reshape(-1, width)


def collect_moments(
    rows: DataFrame, widths: Mapping[str, int], settings: EnsembleSettings, quantiles: Quantiles | None = None
) -> BlockMoments:
    """The moments of each block, in one pass over its rows.

    A task holds one batch of rows at a time, and what travels to the driver is one matrix per block.

    Parameters
    ----------
    rows : of the blocks, as the table has them
    widths : block -> its columns
    quantiles : as ``collect_quantiles`` finds them
    """

    def add_up(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        sums: BlockMoments = {}
        for batch in batches:
            for name in pc.unique(batch.column(c.BLOCK)).to_pylist():
                own = batch.filter(pc.equal(batch.column(c.BLOCK), name)).column(c.VECTOR)
                vectors = dense_vectors(own, np.ones(len(own), dtype=bool), widths[name])
                sums = _merge(sums, {name: Moments.of(prepare_vectors(name, vectors, settings, quantiles))})
        for name, of in sums.items():
            # as bytes: of an array the RDD would make a Python object for each number
            numbers = [[of.n_rows], [of.mean.tobytes()], [of.products.tobytes()]]
            yield pa.RecordBatch.from_arrays(
                [pa.array([name]), *map(pa.array, numbers)], names=[c.BLOCK, "n_rows", "mean", "products"]
            )

    ddl = f"{c.BLOCK} string, n_rows bigint, mean binary, products binary"
    sums = rows.filter(c.IS_PRESENT).select(c.BLOCK, c.VECTOR).mapInArrow(add_up, ddl).rdd.map(_moments_of)
    nobody = {name: Moments.of(np.zeros((0, width))) for name, width in widths.items()}
    # a matrix of each task on the driver at once would be too much: a tree of tasks merges them
    return _merge(nobody, sums.treeAggregate({}, _merge, _merge))


def collect_networks(
    rows: DataFrame,
    widths: Mapping[str, int],
    settings: EnsembleSettings,
    quantiles: Quantiles,
    moments: BlockMoments,
) -> dict[str, Network]:
    """The networks of the blocks whose columns one is to make fewer, trained on the driver on a sample of clients.

    Parameters
    ----------
    rows, widths : as ``collect_moments``
    """
    found = {}
    for name, width in widths.items():
        own = settings.of_block(name)
        if own.reduction == "axes" or own.max_columns is None or own.max_columns >= width:
            continue
        vectors = collect_sample(rows, name, width)
        everybody = BlockRows(name, prepare_vectors(name, vectors, settings, quantiles), np.ones(len(vectors), bool))
        standard = standardising(moments[name]).apply(everybody)
        log.info("  %s: %s of %d columns, trained on %d clients", name, own.reduction, own.max_columns, len(vectors))
        # here, and not at the top: Spark's Python workers import this module, and torch takes them seconds
        from ml.profiles.compression import fit_network

        found[name] = fit_network(standard, own.max_columns, own.reduction)
    return found


def _moments_of(row: Row) -> BlockMoments:
    mean, products = (np.frombuffer(row[name]) for name in ("mean", "products"))
    return {row[c.BLOCK]: Moments(row["n_rows"], mean, products.reshape(len(mean), -1))}


def _merge(first: BlockMoments, second: BlockMoments) -> BlockMoments:
    return first | {name: first[name].merge(of) if name in first else of for name, of in second.items()}


def whole_clients(batches: Batches, n_rows: int) -> Iterator[pa.RecordBatch]:
    """The same rows in batches that end with a client's last row, of ``n_rows`` that each client has.

    Spark cuts its batches after a number of rows, wherever that is.
    """
    rest: list[pa.RecordBatch] = []
    for batch in batches:
        # a table without rows has no batch. Nothing is left in the end: a range of positions holds its clients whole
        (joined,) = pa.Table.from_batches([*rest, batch]).combine_chunks().to_batches() or [batch]
        n_whole = joined.num_rows - joined.num_rows % n_rows
        rest = [joined.slice(n_whole)]
        if n_whole:
            yield joined.slice(0, n_whole)


def _compose(
    profile: str,
    composition: Composition,
    blocks: Sequence[BlockRows],
    clients: pa.RecordBatch,
    models: Mapping[str, str],
) -> pa.RecordBatch:
    """Rows of one profile.

    Parameters
    ----------
    blocks : those of the composition, in its order, and maybe others
    clients : ``position``, ``client_id`` and ``client_key`` of the blocks' rows
    """
    own = [block for block in blocks if block.name in composition.transforms]
    vectors = composition.compose(own)
    is_present = np.stack([block.is_present for block in own], axis=1)  # [n, blocks]
    # nonzero goes row by row: the names of a client's blocks follow each other, in the profile's order
    names = pa.array([block.name for block in own]).take(pa.array(np.nonzero(is_present)[1]))
    n_present = np.concatenate([[0], is_present.sum(axis=1).cumsum()])
    return pa.RecordBatch.from_arrays(
        [
            pa.array([profile] * len(vectors)),
            clients.column(c.POSITION),
            clients.column(c.CLIENT_ID),
            vector_lists(vectors),
            pa.ListArray.from_arrays(pa.array(n_present, pa.int32()), names),
            clients.column(c.CLIENT_KEY),
            pa.array([list(models.items())] * len(vectors), pa.map_(pa.string(), pa.string())),
        ],
        names=[c.PROFILE, c.POSITION, c.CLIENT_ID, c.VECTOR, c.PRESENT, c.CLIENT_KEY, c.MODELS],
    )
