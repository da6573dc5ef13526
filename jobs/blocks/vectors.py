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

from conf.encoders import InferenceSettings
from jobs.storage.entry_files import rectangle
from jobs.transforms.clients import rows_of_clients
from ml.data.sequence_batch import Sequences
from ml.inference.embed import embed_sequences
from ml.models.protocol import SequenceEncoder
from ml.training.checkpoint import load_model
from schemas.columns import ACTIVITY, BEHAVIOUR, CLIENT_ID, EMBEDDING, POSITION, PRESENT, TOKEN_IDS

ROWS_PER_CHUNK = 4096
"""Clients whose vectors one Python worker holds at a time."""

Batches = Iterable[pa.RecordBatch]


@dataclass(frozen=True)
class ModelSource:
    """Where one behaviour's model lies and the vocabulary that it must belong to."""

    behaviour: str
    folder: Path
    vocabulary_fingerprint: str

    def load(self) -> SequenceEncoder:
        """The model; ModelError if it is damaged or belongs to another vocabulary."""
        return load_model(self.folder, self.vocabulary_fingerprint)[0]


def join_sequences(
    clients: DataFrame, sequences: DataFrame, behaviours: Sequence[str], activity: DataFrame | None = None
) -> DataFrame:
    """One row per relevant client: position, client_id and one column per behaviour, null if absent.

    A behaviour's column holds a struct of token_ids and, where it is given, activity. Tokens are brought to their
    client before a model sees them: they are a hundred times smaller than vectors.

    Parameters
    ----------
    activity : behaviour, client_id, activity array<float>, for each client with a sequence of the behaviour
    """
    relevant = rows_of_clients(sequences, clients)
    if activity is not None:
        relevant = relevant.join(activity, on=[BEHAVIOUR, CLIENT_ID], how="left")
    sequence = F.first(F.struct(TOKEN_IDS, *([] if activity is None else [ACTIVITY])))
    by_client = relevant.groupBy(CLIENT_ID).pivot(BEHAVIOUR, list(behaviours)).agg(sequence)
    joined = clients.join(by_client, on=CLIENT_ID, how="left")
    return joined.select(POSITION, CLIENT_ID, *behaviours)


def embed_clients(
    sources: Sequence[ModelSource], settings: InferenceSettings, n_counts: int = 0
) -> Callable[[Batches], Batches]:
    """A ``mapInArrow`` function: rows of ``join_sequences`` -> rows of ``tables/embeddings``.

    Each Python worker loads each model once.
    """

    def stream(batches: Batches) -> Batches:
        torch.set_num_threads(1)  # one Spark task, one core
        models = {source.behaviour: source.load() for source in sources}
        for batch in batches:
            for start in range(0, batch.num_rows, ROWS_PER_CHUNK):
                yield _embed_chunk(batch.slice(start, ROWS_PER_CHUNK), models, settings, n_counts)

    return stream


def _embed_chunk(
    chunk: pa.RecordBatch, models: dict[str, SequenceEncoder], settings: InferenceSettings, n_counts: int
) -> pa.RecordBatch:
    blocks = [_embed_column(chunk.column(name), model, settings, n_counts) for name, model in models.items()]
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


def _embed_column(
    column: pa.StructArray, model: SequenceEncoder, settings: InferenceSettings, n_counts: int
) -> NDArray[np.float32]:
    """One behaviour's vectors, float32 [rows, hidden size and counts]; zeros where the client is absent."""
    rows = np.flatnonzero(column.is_valid().to_numpy(zero_copy_only=False))
    token_ids, *activity = column.drop_null().flatten()
    sequences = Sequences(token_ids.values.to_numpy(), token_ids.offsets.to_numpy())
    vectors = np.zeros((len(column), model.hidden_size + n_counts), np.float32)
    vectors[rows, : model.hidden_size] = embed_sequences(model, sequences, settings)
    if activity and len(rows):
        vectors[rows, model.hidden_size :] = rectangle(activity[0], np.dtype(np.float32))
    return vectors
