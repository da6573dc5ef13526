"""Small tables that the train stage reads, and its settings."""

import numpy as np
from pyspark.sql import SparkSession

from conf.load import load_config
from conf.pipeline import PipelineConfig
from jobs.storage.delta_tables import write_table
from jobs.storage.workspace import Workspace
from schemas.tables import SEQUENCES, VOCABULARIES
from schemas.tokens import FIRST_ITEM

N_ITEMS = 10


def config(*overrides: str) -> PipelineConfig:
    small = ["model.hidden_size=8", "model.n_layers=1", "training.epochs=1", "training.n_ranks=1"]
    return load_config("demo", [*small, *overrides])


def write_tables(spark: SparkSession, workspace: Workspace, n_clients: int, behaviours: list[str]) -> None:
    generator = np.random.default_rng(0)
    words = [(name, str(item), FIRST_ITEM + item, 9) for name in behaviours for item in range(N_ITEMS)]
    write_table(spark.createDataFrame(words, VOCABULARIES.ddl), workspace, VOCABULARIES)
    rows = []
    for name in behaviours:
        for client in range(n_clients):
            tokens = generator.integers(FIRST_ITEM, FIRST_ITEM + N_ITEMS, 1 + client % 8).tolist()
            rows.append((name, client % 5 == 0, 1 if len(tokens) == 1 else 8, client, tokens, len(tokens), None, None))
    write_table(spark.createDataFrame(rows, SEQUENCES.ddl).coalesce(1), workspace, SEQUENCES)
