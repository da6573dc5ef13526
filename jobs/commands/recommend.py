"""recommend: the items that an encoder expects next of each client, by the user's own ids.

Writes ``recommendations``; reads ``clients``, ``vocabularies``, ``sequences``, ``ids`` and the encoder's model. What
lies after ``windows.input_end`` is not looked at: for the items of tomorrow the run is one with ``windows.mode=entry``.
"""

import logging
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from conf.encoders import EncoderSettings
from conf.pipeline import PipelineConfig
from jobs.blocks.vectors import ModelSource, find_models, join_sequences, map_chunks
from jobs.profiles.composition import read_own_ids, with_keys
from jobs.storage.delta_tables import read_table, write_table
from jobs.storage.workspace import Workspace
from ml.inference.top_k import next_items
from ml.models.protocol import SequenceEncoder
from ml.objectives.registry import OBJECTIVES, build_objective
from schemas import columns as c
from schemas.errors import ConfigError
from schemas.tables import CLIENTS, RECOMMENDATIONS, SEQUENCES, VOCABULARIES

log = logging.getLogger(__name__)


def require_recommender(config: PipelineConfig, name: str) -> None:
    """Raise ConfigError unless the configuration has an encoder of this name that can rank a behaviour's next items."""
    one = [each for each, encoder in config.encoders.items() if not encoder.is_merged]
    if name not in one:
        found = "an encoder of several behaviours" if name in config.encoders else "none of this name"
        raise ConfigError(
            f"--encoder {name}: expected an encoder of one behaviour, of {', '.join(one)}, found {found}; name one"
        )
    objective = config.encoders[name].objective
    if not OBJECTIVES[objective].ranks_items:
        raise ConfigError(
            f"--encoder {name}: expected an encoder that learns which item comes, found one of the objective "
            f"{objective}; name another"
        )
    if config.encoders[name].max_length < 2:
        raise ConfigError(
            f"--encoder {name}: expected an encoder that reads an event or more before the one it is asked for, found "
            f"one of max_length {config.encoders[name].max_length}; name another, or train it with 2 or more"
        )


def run(spark: SparkSession, config: PipelineConfig, workspace: Workspace, name: str, n_items: int) -> None:
    """Write the encoder's rows of the table; those of other encoders stay. Clients without a sequence have none."""
    encoder = config.encoders[name]
    (source,) = find_models(spark, config, workspace, [name])
    clients = read_table(spark, workspace, CLIENTS)
    ids = read_own_ids(spark, config, workspace)
    rows = join_sequences(clients, read_table(spark, workspace, SEQUENCES), [source.stream])
    rows = rows.filter(F.col(source.stream).isNotNull())
    ranked = rows.mapInArrow(
        map_chunks([source], partial(rank_items, encoder, n_items)),
        f"{c.CLIENT_ID} bigint, {c.POSITION} int, {c.TOKEN_ID} int, {c.SCORE} float",
    )
    # names are joined to the ranked items alone: the model knows token ids
    vocabulary = read_table(spark, workspace, VOCABULARIES).filter(F.col(c.BEHAVIOUR) == source.stream)
    items = with_own_ids(vocabulary.select(c.TOKEN_ID, c.KEY), ids, config.behaviour(source.stream).item)
    named = with_keys(ranked, ids).join(items, on=c.TOKEN_ID)
    write_table(
        named.select(F.lit(name).alias(c.ENCODER), c.CLIENT_ID, c.CLIENT_KEY, c.POSITION, c.ITEM, c.SCORE),
        workspace,
        RECOMMENDATIONS,
        # the settings see to it that a name is an identifier, without a quote
        where=f"{c.ENCODER} = '{name}'",
    )


def with_own_ids(items: DataFrame, ids: DataFrame | None, kind: str) -> DataFrame:
    """Token ids with ``item``: the user's own text for its key where ``tables/ids`` has one, else the key."""
    if ids is None:
        return items.withColumnRenamed(c.KEY, c.ITEM)
    own = ids.filter(F.col(c.KIND) == kind).select(F.col(c.ID).cast("string").alias("id"), F.col(c.KEY).alias("own"))
    joined = items.join(own, on=F.col(c.KEY) == F.col("id"), how="left")
    return joined.select(c.TOKEN_ID, F.coalesce("own", c.KEY).alias(c.ITEM))


def rank_items(
    encoder: EncoderSettings, n_items: int, chunk: pa.RecordBatch, source: ModelSource, model: SequenceEncoder
) -> pa.RecordBatch:
    """A row per client of ``join_sequences`` and item, best first."""
    objective, with_seen = build_objective(encoder, model.vocabulary), encoder.training.rank_seen_items
    tokens, scores = next_items(model, objective, source.sequences(chunk.column(source.stream)), n_items, with_seen)
    position = np.broadcast_to(np.arange(1, tokens.shape[1] + 1, dtype=np.int32), tokens.shape)
    client_ids = np.repeat(chunk.column(c.CLIENT_ID).to_numpy(), tokens.shape[1])
    arrays = [client_ids, position.ravel(), tokens.astype(np.int32).ravel(), scores.ravel()]
    made = pa.RecordBatch.from_arrays([*map(pa.array, arrays)], names=[c.CLIENT_ID, c.POSITION, c.TOKEN_ID, c.SCORE])
    # -1 stands where a client has seen all other items
    return made.filter(pc.greater_equal(made.column(c.TOKEN_ID), 0))
