"""Sequences and encoders -> each client's vectors, one block per encoder."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from pyspark import SparkContext, TaskContext
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from conf.encoders import InferenceSettings
from jobs.blocks.table import Block
from jobs.transforms.clients import rows_of_clients
from ml.data.sequence_batch import Sequences
from ml.inference.embed import embed_sequences
from ml.models.transformer import Bert4Rec
from ml.training.checkpoint import load_model
from schemas.columns import BEHAVIOUR, BLOCK, CLIENT_ID, IS_PRESENT, POSITION, TOKEN_IDS, VECTOR

ROWS_PER_CHUNK = 4096
"""Clients whose vectors one Python worker holds at a time."""
ROWS_DDL = f"{BLOCK} string, {CLIENT_ID} bigint, {IS_PRESENT} boolean, {VECTOR} array<float>"

Batches = Iterable[pa.RecordBatch]


@dataclass(frozen=True)
class ModelSource:
    """Where an encoder's model lies, what it reads, and the vocabulary that it must belong to.

    Attributes
    ----------
    name : of the encoder, and of its block
    stream : the sequences that it reads
    """

    name: str
    stream: str
    folder: Path
    vocabulary_fingerprint: str
    settings: InferenceSettings

    def load(self, device: str = "cpu") -> Bert4Rec:
        """The model on a device; ModelError if it is damaged or belongs to another vocabulary."""
        return load_model(self.folder, self.vocabulary_fingerprint)[0].to(device)

    def block(self) -> Block:
        """What the model's vectors are; loads it, so that one that is damaged is refused before Spark's tasks begin."""
        columns = tuple(f"{self.name}/{number}" for number in range(self.load().hidden_size))
        return Block(self.name, columns, f"{self.folder}, vocabulary {self.vocabulary_fingerprint}")


def join_sequences(clients: DataFrame, sequences: DataFrame, streams: Sequence[str]) -> DataFrame:
    """One row per relevant client: position, client_id and one column of token ids per stream, null if absent.

    Tokens are brought to their client before a model sees them: they are a hundred times smaller than vectors.
    """
    relevant = rows_of_clients(sequences, clients)
    by_client = relevant.groupBy(CLIENT_ID).pivot(BEHAVIOUR, list(streams)).agg(F.first(TOKEN_IDS))
    return clients.join(by_client, on=CLIENT_ID, how="left").select(POSITION, CLIENT_ID, *streams)


def embed_clients(sources: Sequence[ModelSource], may_find_gpu: bool = False) -> Callable[[Batches], Batches]:
    """A ``mapInArrow`` function: rows of ``join_sequences`` -> a row per block and client, ``ROWS_DDL``.

    Each Python worker loads each model once.

    Parameters
    ----------
    may_find_gpu : as in ``task_device``
    """

    def stream(batches: Batches) -> Batches:
        torch.set_num_threads(1)  # one Spark task, one core
        device = task_device(may_find_gpu)
        models = {source.name: source.load(device) for source in sources}
        for batch in batches:
            for start in range(0, batch.num_rows, ROWS_PER_CHUNK):
                chunk = batch.slice(start, ROWS_PER_CHUNK)
                yield from (_embed_chunk(chunk, source, models[source.name]) for source in sources)

    return stream


def may_find_gpu(context: SparkContext) -> bool:
    """Whether tasks may take a GPU that Spark did not give them: it gives none, and they run on this machine."""
    master = context.master or ""
    is_local = master == "local" or master.startswith("local[")
    return is_local and context.getConf().get("spark.task.resource.gpu.amount") is None


def task_device(may_find_gpu: bool) -> str:
    """Torch's device for the Spark task at hand: the GPU that Spark gave it, else the CPU.

    Parameters
    ----------
    may_find_gpu : without one from Spark, take what torch finds
    """
    task = TaskContext.get()
    resources: Mapping[str, object] = task.resources() if task else {}
    if gpu := resources.get("gpu"):
        return f"cuda:{gpu.addresses[0]}"  # type: ignore[attr-defined]
    return "cuda" if may_find_gpu and torch.cuda.is_available() else "cpu"


def _embed_chunk(chunk: pa.RecordBatch, source: ModelSource, model: Bert4Rec) -> pa.RecordBatch:
    column = chunk.column(source.stream)
    is_present = column.is_valid().to_numpy(zero_copy_only=False)
    token_ids = column.drop_null()
    sequences = Sequences(token_ids.values.to_numpy(), token_ids.offsets.to_numpy())
    vectors = embed_sequences(model, sequences, source.settings)  # [present clients, hidden size]
    offsets = np.concatenate([[0], np.cumsum(is_present * model.hidden_size)])
    starts = pa.array(offsets, pa.int32(), mask=np.append(~is_present, False))  # a masked start is a null vector
    return pa.RecordBatch.from_arrays(
        [
            pa.array([source.name] * len(column)),
            chunk.column(CLIENT_ID),
            pa.array(is_present),
            pa.ListArray.from_arrays(starts, pa.array(vectors.ravel(), pa.float32())),
        ],
        names=[BLOCK, CLIENT_ID, IS_PRESENT, VECTOR],
    )
