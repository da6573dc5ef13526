"""Profiles: the blocks that each is composed of, the fit to their moments, and the Spark job that composes them."""

import logging
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from conf.pipeline import PipelineConfig
from conf.profile import EnsembleSettings
from jobs.blocks.table import Block, collect_blocks, dense_vectors, read_rows, require_clients
from jobs.profiles.moments import collect_moments
from jobs.storage.delta_tables import read_table
from jobs.storage.workspace import Workspace
from ml.profiles.composition import BlockRows, Composition, fit_composition, prepare_vectors
from schemas import columns as c
from schemas.blocks import ACTIVITY
from schemas.errors import EntryError
from schemas.tables import CLIENTS, PROFILES

log = logging.getLogger(__name__)

CLIENTS_PER_PARTITION = 20_000
_ORDER = "order"

Batches = Iterable[pa.RecordBatch]


@dataclass(frozen=True)
class ProfileBlocks:
    """The blocks of a run's profiles, in the profiles' order.

    Attributes
    ----------
    own : of ``ensemble``
    further : that ``ensemble.blocks`` names
    """

    own: tuple[Block, ...]
    further: tuple[Block, ...]

    @property
    def all(self) -> tuple[Block, ...]:
        """Own blocks, then further ones."""
        return self.own + self.further


def list_own_blocks(config: PipelineConfig, found: Container[str]) -> list[str]:
    """The blocks of ``ensemble``: of the encoders that have one, and ``activity`` where it is asked for."""
    encoders = [name for name in config.encoders if name in found]
    return [*encoders, *([ACTIVITY] if config.ensemble.activity else [])]


def collect_profile_blocks(spark: SparkSession, config: PipelineConfig, workspace: Workspace) -> ProfileBlocks:
    """The blocks of ``ensemble`` and the further ones that the configuration names.

    An encoder without a block is left out: it had nothing to train on.

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
    for name in (*own, *further):
        if name not in found:
            raise EntryError(
                f"block {name!r}: expected it in the table blocks, found {', '.join(found)}; run the stage that writes "
                "it first, import an entry by --block NAME=DIR, or take the name out of ensemble.blocks"
            )
    return ProfileBlocks(tuple(found[name] for name in own), tuple(found[name] for name in further))


def compose_profiles(
    spark: SparkSession,
    workspace: Workspace,
    profiles: Mapping[str, Sequence[Block]],
    cutoff: datetime,
    settings: EnsembleSettings,
) -> DataFrame:
    """Fit profiles of some blocks each, and compose them: rows of ``tables/profiles``.

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
    moments = collect_moments(rows, widths, settings)
    compositions = {
        name: fit_composition({block.name: moments[block.name] for block in blocks}, settings)
        for name, blocks in profiles.items()
    }
    for name, composition in compositions.items():
        log.info("  profile %s: %d columns of %s", name, composition.width, _describe(composition))
    clients = read_table(spark, workspace, CLIENTS).select(c.POSITION, c.CLIENT_ID)
    n_parts = max(spark.sparkContext.defaultParallelism, -(-clients.count() // CLIENTS_PER_PARTITION))
    order = F.create_map(*(F.lit(each) for number, name in enumerate(widths) for each in (name, number)))
    ordered = (
        rows.join(clients, on=c.CLIENT_ID)
        .select(c.POSITION, order[F.col(c.BLOCK)].alias(_ORDER), c.CLIENT_ID, c.IS_PRESENT, c.VECTOR)
        .repartitionByRange(n_parts, c.POSITION)
        .sortWithinPartitions(c.POSITION, _ORDER)
    )

    def stream(batches: Batches) -> Batches:
        for batch in whole_clients(batches, len(widths)):
            blocks = [_rows_of(batch, name, number, widths, settings) for number, name in enumerate(widths)]
            first = batch.take(pa.array(range(0, batch.num_rows, len(widths))))
            for name, composition in compositions.items():
                yield _compose(name, composition, blocks, first)

    return ordered.mapInArrow(stream, PROFILES.ddl)


def whole_clients(batches: Batches, n_rows: int) -> Iterator[pa.RecordBatch]:
    """The same rows in batches that end with a client's last row, of ``n_rows`` that each client has."""
    rest: list[pa.RecordBatch] = []
    for batch in batches:
        (joined,) = pa.Table.from_batches([*rest, batch]).combine_chunks().to_batches() or [batch]
        n_whole = joined.num_rows - joined.num_rows % n_rows
        rest = [joined.slice(n_whole)]
        if n_whole:
            yield joined.slice(0, n_whole)


def _rows_of(
    batch: pa.RecordBatch, name: str, number: int, widths: Mapping[str, int], settings: EnsembleSettings
) -> BlockRows:
    """The rows of one block, each of whose clients has one of every block, in the order of ``widths``."""
    own = batch.take(pa.array(range(number, batch.num_rows, len(widths))))
    is_present = own.column(c.IS_PRESENT).to_numpy(zero_copy_only=False)
    vectors = dense_vectors(own.column(c.VECTOR), is_present, widths[name])
    return BlockRows(name, prepare_vectors(name, vectors, settings), is_present)


def _compose(
    profile: str, composition: Composition, blocks: Sequence[BlockRows], clients: pa.RecordBatch
) -> pa.RecordBatch:
    """Rows of one profile.

    Parameters
    ----------
    blocks : those of the composition, in its order, and maybe others
    clients : ``position`` and ``client_id`` of the blocks' rows
    """
    own = [block for block in blocks if block.name in composition.transforms]
    vectors = composition.compose(own)
    is_present = np.stack([block.is_present for block in own], axis=1)  # [n, blocks]
    names = pa.array([block.name for block in own]).take(pa.array(np.nonzero(is_present)[1]))
    n_present = np.concatenate([[0], is_present.sum(axis=1).cumsum()])
    offsets = np.arange(0, vectors.size + 1, composition.width)
    return pa.RecordBatch.from_arrays(
        [
            pa.array([profile] * len(vectors)),
            clients.column(c.POSITION),
            clients.column(c.CLIENT_ID),
            pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(vectors.ravel(), pa.float32())),
            pa.ListArray.from_arrays(pa.array(n_present, pa.int32()), names),
        ],
        names=[c.PROFILE, c.POSITION, c.CLIENT_ID, c.VECTOR, c.PRESENT],
    )


def _describe(composition: Composition) -> str:
    reduced = {name: of_block for name, of_block in composition.transforms.items() if of_block.axes is not None}
    kept = [f"{name} {of_block.width}" for name, of_block in reduced.items()]
    return f"principal axes of {', '.join(kept)}" if kept else ", ".join(composition.transforms)
