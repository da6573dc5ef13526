"""The train stage on small tables: the pinned snapshot, Horovod's ranks, and the models it leaves."""

import json
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
import torch
from pyspark.sql import SparkSession

from conf.load import load_config
from conf.settings import PipelineConfig
from jobs import train_ensemble
from jobs.io import read_table, write_table
from jobs.workspace import Workspace
from ml.checkpoint import load_model
from ml.distributed import Ranks
from ml.training import TrainingJob
from schemas.errors import ConfigError, TrainingError
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
            rows.append((name, client % 5 == 0, 1 if len(tokens) == 1 else 8, client, tokens, len(tokens)))
    write_table(spark.createDataFrame(rows, SEQUENCES.ddl).coalesce(1), workspace, SEQUENCES)


def test_training_reads_exactly_the_newest_versions_files(spark: SparkSession, workspace: Workspace) -> None:
    """The folder still holds the older version's files; a reader that lists it would train on them."""
    write_tables(spark, workspace, 400, ["page_visit"])
    write_tables(spark, workspace, 40, ["page_visit"])
    (job,) = train_ensemble.plan_training(spark, config(), workspace)
    n_rows = sum(file.n_rows for file in (*job.training_files, *job.validation_files))
    # of 40 clients, every eighth has a single event and is not trained on
    assert n_rows == 35
    in_folder = list(Path(workspace.table("sequences")).rglob("*.parquet"))
    used = {urlsplit(file.url).path for file in (*job.training_files, *job.validation_files)}
    assert len(in_folder) > len(used)
    assert job.card.sequences_version == 1

    train_ensemble.run(spark, config(), workspace)
    lines = [json.loads(line) for line in workspace.metrics.read_text().splitlines()]
    (users,) = [line["validation/users"] for line in lines if "validation/users" in line]
    assert users == read_table(spark, workspace, SEQUENCES).filter("is_held_out and width > 1").count()
    assert load_model(workspace.model("page_visit"))[1] == job.card


def test_models_of_an_earlier_run_that_this_one_does_not_train_are_removed(
    spark: SparkSession, workspace: Workspace
) -> None:
    write_tables(spark, workspace, 40, ["page_visit"])
    workspace.model("search_query").mkdir(parents=True)
    train_ensemble.run(spark, config(), workspace)
    assert [folder.name for folder in workspace.model("").iterdir()] == ["page_visit"]


def test_nothing_to_learn_from_is_told(spark: SparkSession, workspace: Workspace) -> None:
    write_tables(spark, workspace, 1, ["page_visit"])
    with pytest.raises(TrainingError, match="no behaviour has a client with two items"):
        train_ensemble.run(spark, config(), workspace)


def test_more_ranks_than_cores_are_refused_at_once(spark: SparkSession, workspace: Workspace) -> None:
    with pytest.raises(ConfigError, match=r"training\.n_ranks=99 needs as many cores at once, found 2"):
        train_ensemble.run(spark, config("training.n_ranks=99"), workspace)


def test_an_error_of_a_rank_reaches_the_driver_as_itself(spark: SparkSession, workspace: Workspace) -> None:
    write_tables(spark, workspace, 80, ["page_visit"])
    told = config("training.n_ranks=2", "training.learning_rate=1e30", "training.epochs=3")
    with pytest.raises(TrainingError, match=r"lower training\.learning_rate"):
        train_ensemble.run(spark, told, workspace)


def test_two_ranks_and_one_process_agree_on_the_same_global_batch(spark: SparkSession, workspace: Workspace) -> None:
    import horovod.spark

    write_tables(spark, workspace, 40, ["page_visit"])
    overrides = ["model.embedding_dropout=0", "model.encoder_dropout=0", "training.clip_norm=0.1"]
    jobs = {
        loss: train_ensemble.plan_training(spark, config(*overrides, f"loss.name={loss}"), workspace)[0]
        for loss in ("full", "sampled")
    }
    tokens = torch.randint(FIRST_ITEM, FIRST_ITEM + N_ITEMS, (5, 6, 8), generator=torch.Generator().manual_seed(0))

    def train_steps(is_distributed: bool) -> dict[str, dict[str, np.ndarray]]:
        from ml.distributed import HorovodRanks, OneProcess

        ranks = HorovodRanks() if is_distributed else OneProcess()
        return {loss: weights_after_steps(job, ranks) for loss, job in jobs.items()}

    def weights_after_steps(job: TrainingJob, ranks: Ranks) -> dict[str, np.ndarray]:
        from ml.masking import MaskedBatch, mask_tokens
        from ml.training import Trainer

        trainer = Trainer(job, ranks, lambda _: None)
        for step, batch in enumerate(tokens):
            masked = mask_tokens(batch, job.card.n_tokens, job.masking, torch.Generator().manual_seed(step))
            # unequal shares: rank 0 has four rows of six, so an average of averages would differ
            mine = slice(None) if ranks.world_size == 1 else [slice(4), slice(4, None)][ranks.rank]
            # every item is a candidate on every rank, so that the sampled losses are comparable
            negatives = torch.arange(FIRST_ITEM, job.card.n_tokens) if trainer.is_sampled else None
            trainer.update(MaskedBatch(masked.inputs[mine], masked.labels[mine]), negatives)
        return {name: weight.numpy() for name, weight in trainer.model.state_dict().items()}

    alone = train_steps(False)
    for of_rank in horovod.spark.run(train_steps, args=(True,), num_proc=2, use_gloo=True, verbose=0):
        for loss, weights in alone.items():
            for name, weight in weights.items():
                np.testing.assert_allclose(of_rank[loss][name], weight, rtol=1e-4, atol=1e-5, err_msg=f"{loss} {name}")
