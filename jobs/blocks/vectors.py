"""Sequences and encoders -> each client's vectors, one block per encoder."""

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import torch
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from conf.encoders import InferenceSettings
from conf.pipeline import PipelineConfig
from jobs.blocks.table import Block, vector_lists
from jobs.runtime.devices import release_device, task_device
from jobs.storage.delta_tables import read_table
from jobs.storage.files import digest_file
from jobs.storage.working_copy import WorkingCopy
from jobs.storage.workspace import Workspace
from jobs.transforms.clients import rows_of_clients
from jobs.transforms.vocabulary import collect_summaries
from ml.data.arrow_rows import BYTES_OF, columns_to_read, sequences_of
from ml.data.sequence_batch import Sequences
from ml.inference.embed import embed_sequences
from ml.models.protocol import SequenceEncoder
from ml.training.checkpoint import WEIGHTS, load_model
from schemas.columns import BEHAVIOUR, BLOCK, CLIENT_ID, IS_PRESENT, POSITION, VECTOR
from schemas.errors import ModelError
from schemas.tables import VOCABULARIES

ROWS_PER_CHUNK = 4096
"""Clients whose vectors one Python worker holds at a time."""
ROWS_DDL = f"{BLOCK} string, {CLIENT_ID} bigint, {IS_PRESENT} boolean, {VECTOR} array<float>"

Batches = Iterable[pa.RecordBatch]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ModelSource:
    """Where an encoder's model lies, the stream that it reads, and the vocabulary that it must belong to.

    Attributes
    ----------
    reads_events : whether it reads event types and times beside token ids
    working_copy : that the folder is part of, where ``--out`` is a store
    """

    name: str
    stream: str
    folder: Path
    vocabulary_fingerprint: str
    settings: InferenceSettings
    reads_events: bool = False
    working_copy: WorkingCopy | None = None

    def load(self, device: str = "cpu") -> SequenceEncoder:
        """The model on a device; ModelError if it is damaged or belongs to another vocabulary."""
        return load_model(self.fetch(), self.vocabulary_fingerprint)[0].to(device)

    def fetch(self) -> Path:
        """The folder where it can be read, also on a host that only reaches the store."""
        return self.working_copy.fetch(self.folder) if self.working_copy else self.folder

    def sequences(self, column: pa.StructArray) -> Sequences:
        """Of the stream's column of ``join_sequences``, without nulls."""
        return sequences_of([pc.struct_field(column, name) for name in columns_to_read(self.reads_events)])

    def block(self) -> Block:
        """What the model's vectors are; loads it, so that one that is damaged is refused before Spark's tasks begin."""
        width = self.load().hidden_size
        digest = digest_file(self.fetch() / WEIGHTS)[:12]
        # neither a path nor a time: the same model gives the same block, wherever and whenever it was trained
        return Block.numbered(self.name, width, f"weights {digest}, vocabulary {self.vocabulary_fingerprint}")


def find_models(
    spark: SparkSession, config: PipelineConfig, workspace: Workspace, only: Sequence[str] = ()
) -> list[ModelSource]:
    """The trained models in the configuration's order; those of all encoders where ``only`` names none."""
    vocabularies = collect_summaries(read_table(spark, workspace, VOCABULARIES))
    sources = []
    for name, encoder in config.encoders.items():
        if only and name not in only:
            continue
        stream, folder = config.stream(name), workspace.model(name).resolve()
        if stream in vocabularies and folder.is_dir():
            fingerprint, settings, copy = vocabularies[stream].fingerprint, encoder.inference, workspace.working_copy
            sources.append(ModelSource(name, stream, folder, fingerprint, settings, encoder.reads_events, copy))
        else:
            log.info("  %s: left out: there is no %s", name, "model" if stream in vocabularies else "vocabulary")
    if not sources:
        raise ModelError(f"no model in {workspace.model('').resolve()}; run train first")
    return sources


def join_sequences(clients: DataFrame, sequences: DataFrame, streams: Sequence[str]) -> DataFrame:
    """One row per relevant client: position, client_id and a struct per stream, null if absent.

    It holds token ids and, where the stream has them, event types and times. They are brought to their client before a
    model sees them: they are many times smaller than vectors.
    """
    relevant = rows_of_clients(sequences, clients)
    # the streams are named: Spark would run a job to find the pivot's values. Each client has one row of each
    by_client = relevant.groupBy(CLIENT_ID).pivot(BEHAVIOUR, list(streams)).agg(F.first(F.struct(*BYTES_OF)))
    return clients.join(by_client, on=CLIENT_ID, how="left").select(POSITION, CLIENT_ID, *streams)


def map_chunks(
    sources: Sequence[ModelSource], of_chunk: Callable[[pa.RecordBatch, ModelSource, SequenceEncoder], pa.RecordBatch]
) -> Callable[[Batches], Batches]:
    """A ``mapInArrow`` function: some thousand rows at a time, by each model in turn.

    Each Python worker loads each model once, onto the GPU of its task where there is one.
    """

    def stream(batches: Batches) -> Batches:
        torch.set_num_threads(1)  # one Spark task, one core
        device = task_device()
        models: dict[str, SequenceEncoder] = {}
        try:
            models |= {source.name: source.load(device) for source in sources}
            for batch in batches:
                for start in range(0, batch.num_rows, ROWS_PER_CHUNK):
                    chunk = batch.slice(start, ROWS_PER_CHUNK)
                    yield from (of_chunk(chunk, source, models[source.name]) for source in sources)
        finally:
            models.clear()  # first, for a GPU frees only what nobody holds
            release_device()

    return stream


def embed_chunk(chunk: pa.RecordBatch, source: ModelSource, model: SequenceEncoder) -> pa.RecordBatch:
    """For ``map_chunks``: rows of ``join_sequences`` -> a row per client, ``ROWS_DDL``."""
    column = chunk.column(source.stream)
    is_present = column.is_valid().to_numpy(zero_copy_only=False)
    # of present clients alone, [present, hidden size]: the model refuses a sequence without a token
    vectors = embed_sequences(model, source.sequences(column.drop_null()), source.settings)
    return pa.RecordBatch.from_arrays(
        [
            pa.array([source.name] * len(column)),
            chunk.column(CLIENT_ID),
            pa.array(is_present),
            vector_lists(vectors, is_present),
        ],
        names=[BLOCK, CLIENT_ID, IS_PRESENT, VECTOR],
    )
