"""Sequences and models -> each client's vectors."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from ml.bert4rec import Bert4Rec
from ml.checkpoint import load_model
from ml.encoder import embed_sequences
from schemas.columns import BEHAVIOUR, CLIENT_ID, EMBEDDING, POSITION, PRESENT, TOKEN_IDS

ROWS_PER_CHUNK = 4096
"""Clients whose vectors one Python worker holds at a time."""

Batches = Iterable[pa.RecordBatch]


@dataclass(frozen=True)
class ModelSource:
    """Where one behaviour's model lies and the vocabulary that it must belong to."""

    behaviour: str
    folder: Path
    vocabulary_fingerprint: str

    def load(self) -> Bert4Rec:
        """The model; ModelError if it is damaged or belongs to another vocabulary."""
        return load_model(self.folder, self.vocabulary_fingerprint)[0]


def join_sequences(clients: DataFrame, sequences: DataFrame, behaviours: Sequence[str]) -> DataFrame:
    """One row per relevant client: position, client_id and one ``array<int>`` column per behaviour, null if absent.

    Tokens are brought to their client before a model sees them: they are a hundred times smaller than vectors.
    """
    relevant = sequences.join(clients.select(CLIENT_ID), on=CLIENT_ID, how="left_semi")
    by_client = relevant.groupBy(CLIENT_ID).pivot(BEHAVIOUR, list(behaviours)).agg(F.first(TOKEN_IDS))
    joined = clients.join(by_client, on=CLIENT_ID, how="left")
    return joined.select(POSITION, CLIENT_ID, *behaviours)


def embed_clients(sources: Sequence[ModelSource], tokens_per_batch: int) -> Callable[[Batches], Batches]:
    """A ``mapInArrow`` function: rows of ``join_sequences`` -> rows of ``tables/embeddings``.

    Each Python worker loads each model once.
    """

    def stream(batches: Batches) -> Batches:
        torch.set_num_threads(1)  # one Spark task, one core
        models = {source.behaviour: source.load() for source in sources}
        for batch in batches:
            for start in range(0, batch.num_rows, ROWS_PER_CHUNK):
                yield _embed_chunk(batch.slice(start, ROWS_PER_CHUNK), models, tokens_per_batch)

    return stream


def _embed_chunk(chunk: pa.RecordBatch, models: dict[str, Bert4Rec], tokens_per_batch: int) -> pa.RecordBatch:
    blocks = [_embed_column(chunk.column(name), model, tokens_per_batch) for name, model in models.items()]
    vectors = np.concatenate(blocks, axis=1)
    offsets = pa.array(np.arange(0, vectors.size + 1, vectors.shape[1]), pa.int32())
    is_present = np.stack([chunk.column(name).is_valid().to_numpy(zero_copy_only=False) for name in models], axis=1)
    present = [[name for name, has_it in zip(models, row, strict=True) if has_it] for row in is_present]
    return pa.RecordBatch.from_arrays(
        [
            chunk.column(POSITION),
            chunk.column(CLIENT_ID),
            pa.ListArray.from_arrays(offsets, pa.array(vectors.ravel(), pa.float32())),
            pa.array(present, pa.list_(pa.string())),
        ],
        names=[POSITION, CLIENT_ID, EMBEDDING, PRESENT],
    )


def _embed_column(sequences: pa.Array, model: Bert4Rec, tokens_per_batch: int) -> NDArray[np.float32]:
    """One behaviour's vectors, float32 [rows, D]; zeros where the client is absent."""
    rows = np.flatnonzero(sequences.is_valid().to_numpy(zero_copy_only=False))
    vectors = np.zeros((len(sequences), model.hidden_size), np.float32)
    vectors[rows] = embed_sequences(model, list(sequences.drop_null().to_numpy(zero_copy_only=False)), tokens_per_batch)
    return vectors
