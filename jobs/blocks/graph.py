"""Events -> the graph of clients and skus, and vectors of its clients, learnt by the ranks."""

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from functools import reduce
from math import ceil
from typing import Literal, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from conf.graph import GraphSettings
from jobs.blocks.table import vector_lists
from jobs.blocks.vectors import ModelSource, map_chunks
from jobs.runtime.caching import cache_rows
from jobs.transforms.pairs import CLIENT_NUMBER, WEIGHT, number_clients, number_items
from jobs.transforms.vocabulary import split_keys
from jobs.transforms.windows import events_before
from ml.data.edge_files import read_edges, read_item_vectors
from ml.data.row_groups import Reader
from ml.files.store import arrow_system
from ml.models.protocol import SequenceEncoder
from ml.training.distributed import Ranks
from ml.training.graph import train_clients
from ml.training.stall_watch import StallWatch
from schemas import columns as c
from schemas.behaviours import ADD_TO_CART, PRODUCT_BUY

RELATIONS = (PRODUCT_BUY, ADD_TO_CART)
"""Behaviours that make edges; the position of one is the relation's number."""
RELATION = "relation"
EDGES_PER_PART = 2_000_000
"""In a file, which one task of Spark sorts: 24 MB, at 12 bytes an edge."""
CLIENTS_PER_ROW_GROUP = 65_536
"""Written at once: at 64 numbers each, 16 MiB beside the vectors that the rank holds."""


def link_clients(spark: SparkSession, events: Mapping[str, DataFrame], cutoff: datetime) -> DataFrame:
    """One row per client, sku and relation with an event before the cutoff: ``client_id``, ``item``, ``relation``.

    Parameters
    ----------
    events : of behaviours of ``RELATIONS`` whose items are skus
    """
    # begins with no rows: a configuration may have none of these behaviours
    parts = [spark.createDataFrame([], f"{c.CLIENT_ID} bigint, {c.ITEM} bigint, {RELATION} int")]
    for behaviour, rows in events.items():
        relation = F.lit(RELATIONS.index(behaviour)).alias(RELATION)
        parts.append(events_before(rows, cutoff).select(c.CLIENT_ID, F.col(c.SKU).alias(c.ITEM), relation))
    return reduce(DataFrame.unionAll, parts).distinct()


def number_edges(
    edges: DataFrame, clients: DataFrame, settings: GraphSettings, n_ranks: int, cached: ExitStack
) -> tuple[DataFrame, DataFrame]:
    """The edges that are learnt, ``EDGES``: those of the skus with the most, of the clients and the busiest others.

    And these skus: ``item``, ``item_number``.

    Parameters
    ----------
    edges : as ``link_clients`` gives them
    n_ranks : all edges of a client are in one part, and a rank reads whole parts
    """
    edges = cache_rows(edges.withColumn(WEIGHT, F.lit(1)), cached)
    n_parts = n_ranks * max(1, ceil(edges.count() / (n_ranks * EDGES_PER_PART)))
    busiest = number_clients(edges, clients, cached)
    n_clients = busiest.filter("is_given").count() + settings.max_other_clients
    kept = edges.join(busiest.filter(F.col(CLIENT_NUMBER) < n_clients), on=c.CLIENT_ID)
    items = number_items(edges, settings.max_items, cached)
    numbered = kept.join(items, on=c.ITEM).select(
        # by a hash: parts are about equally large, and all edges of a client are in one
        F.pmod(F.xxhash64(c.CLIENT_ID), F.lit(n_parts)).cast("int").alias(c.PART),
        c.CLIENT_ID,
        (F.col(c.ITEM_NUMBER) * len(RELATIONS) + F.col(RELATION)).alias(c.TARGET_NUMBER),
    )
    return numbered, items


def tokens_of_skus(vocabulary: DataFrame, is_merged: bool) -> DataFrame:
    """The skus of one stream's vocabulary: ``item``, ``token_id``."""
    own = split_keys(vocabulary).filter(F.col(c.ITEM) == c.SKU) if is_merged else vocabulary
    return own.select(F.col(c.KEY).cast("bigint").alias(c.ITEM), c.TOKEN_ID)


def item_vectors(items: DataFrame, tokens: DataFrame, source: ModelSource) -> DataFrame:
    """What an encoder knows of items without a sequence: ``item_number``, ``vector``; none of those without a token.

    Parameters
    ----------
    items : ``item``, ``item_number``
    tokens : ``item``, ``token_id``
    """

    def of_chunk(chunk: pa.RecordBatch, _: ModelSource, model: SequenceEncoder) -> pa.RecordBatch:
        token_ids = torch.tensor(chunk.column(c.TOKEN_ID).to_numpy(), dtype=torch.int64, device=model.device)
        with torch.inference_mode():
            vectors = model.item_vectors(token_ids).cpu().numpy()
        columns = [chunk.column(c.ITEM_NUMBER), vector_lists(vectors)]
        return pa.RecordBatch.from_arrays(columns, names=[c.ITEM_NUMBER, c.VECTOR])

    known = items.join(tokens, on=c.ITEM).select(c.ITEM_NUMBER, c.TOKEN_ID)
    return known.mapInArrow(map_chunks([source], of_chunk), f"{c.ITEM_NUMBER} int, {c.VECTOR} array<float>")


class ItemFiles(NamedTuple):
    """URLs of the files of an encoder's vectors of the graph's items, and how many columns these have."""

    urls: tuple[str, ...]
    width: int


@dataclass(frozen=True)
class GraphJob:
    """What a rank needs to know.

    Attributes
    ----------
    files : URL, part and number of edges of each file of ``EDGES``
    n_items : skus in the graph
    given : the skus' vectors, where they are not learnt
    folder : path, or URL of a store, that takes a Parquet file of vectors from each rank
    """

    files: tuple[tuple[str, int, int], ...]
    n_items: int
    given: ItemFiles | None
    settings: GraphSettings
    reader: Reader
    device: Literal["auto", "cpu", "cuda"]
    folder: str


def train_share(ranks: Ranks, watch: StallWatch | None, job: GraphJob) -> list[float]:
    """Learn the graph with the other ranks and write the vectors of this rank's clients; the mean loss by epoch."""
    own = [file for file in job.files if file[1] % ranks.world_size == ranks.rank]
    share = read_edges([url for url, _, _ in own], sum(n_edges for _, _, n_edges in own), job.reader)
    given = read_item_vectors(job.given.urls, job.n_items, job.given.width, job.reader) if job.given else None
    vectors, losses = train_clients(
        share, job.n_items, len(RELATIONS), job.settings, ranks, ranks.device(job.device),
        watch.note_progress if watch else lambda: None, given,
    )  # fmt: skip
    system, folder = arrow_system(job.folder)
    system.create_dir(folder)
    schema = pa.schema({c.CLIENT_ID: pa.int64(), c.VECTOR: pa.list_(pa.float32())})
    # named by the rank: ranks that are started again replace the files of those that failed
    with pq.ParquetWriter(f"{folder}/{ranks.rank}.parquet", schema, filesystem=system) as writer:
        for start in range(0, len(vectors), CLIENTS_PER_ROW_GROUP):
            rows = slice(start, start + CLIENTS_PER_ROW_GROUP)
            columns = [pa.array(share.client_ids[rows]), vector_lists(vectors[rows])]
            writer.write_batch(pa.record_batch(columns, schema=schema))
    return losses
