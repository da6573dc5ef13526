"""Train: the encoders of the configuration, data-parallel on Spark's executors (jobs/runtime/rank_launcher.py)."""

import logging
import shutil
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from conf.encoders import EncoderSettings
from conf.pipeline import PipelineConfig
from conf.training import FeedSettings
from jobs.runtime.progress import training_progress
from jobs.runtime.rank_launcher import run_ranks
from jobs.storage.delta_tables import DataFile, latest_commit, list_files, read_as_files, read_table
from jobs.storage.locations import file_url
from jobs.storage.metrics_log import TensorBoard, append_metrics
from jobs.storage.workspace import Workspace
from jobs.transforms.vocabulary import VocabularySummary, collect_summaries
from ml.compat.allocator import keep_freed_memory
from ml.data.petastorm_feed import PetastormFeed
from ml.data.sequence_batch import Feed
from ml.data.sharding import FeedFile
from ml.data.vocabulary import VocabularyDescription
from ml.training.checkpoint import ModelCard
from ml.training.distributed import OneProcess, Ranks
from ml.training.loop import TrainingJob, TrainingResult, train_model
from ml.training.stall_watch import StallWatch, WatchedFeed
from schemas.columns import BEHAVIOUR, IS_HELD_OUT, WIDTH
from schemas.errors import ConfigError, TrainingError
from schemas.tables import SEQUENCES, VOCABULARIES

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PlannedModel:
    """One model's training and the files of the pinned snapshot that it reads; validation is the held-out clients'."""

    job: TrainingJob
    training_files: tuple[FeedFile, ...]
    validation_files: tuple[FeedFile, ...]
    feed: FeedSettings

    def open_feed(self, ranks: Ranks) -> Feed:
        """The batches of one rank."""
        return PetastormFeed(
            self.training_files,
            self.validation_files,
            self.job.settings.training.tokens_per_batch,
            self.feed,
            ranks.rank,
            ranks.world_size,
            self.job.seed,
        )


def run(spark: SparkSession, config: PipelineConfig, workspace: Workspace) -> None:
    """Write one model folder per encoder that has a sequence to learn from.

    A stage that died goes on: finished models are left alone, and one in the making from its last checkpoint.
    """
    require_task_slots(spark, config.training.n_ranks)
    plans = plan_training(spark, config, workspace)
    with training_progress(workspace.metrics):
        results = launch(spark, config, workspace, plans)
    remove_other_models(workspace, {plan.job.card.encoder for plan in plans})
    shutil.rmtree(workspace.checkpoints(""))
    for result in results:
        log.info("  %s: %d steps, best epoch %d%s", result.encoder, result.n_steps, result.best_epoch, _score(result))


def require_task_slots(spark: SparkSession, n_ranks: int) -> None:
    """Raise ConfigError where local mode has fewer cores than ranks: a launcher would wait for them in vain."""
    context = spark.sparkContext
    n_slots = context.defaultParallelism
    if str(context.master).startswith("local") and n_ranks > n_slots:
        raise ConfigError(
            f"training.n_ranks={n_ranks} needs as many cores at once, found {n_slots} in {context.master}; "
            f"give --set training.n_ranks={n_slots} or a spark.master with more"
        )


def plan_training(spark: SparkSession, config: PipelineConfig, workspace: Workspace) -> list[PlannedModel]:
    """One model per encoder, on exactly the files of the newest version of ``sequences``."""
    vocabularies = collect_summaries(read_table(spark, workspace, VOCABULARIES))
    version = latest_commit(spark, workspace, SEQUENCES).version
    snapshot = read_as_files(spark, workspace, SEQUENCES, version, config.sequences.row_group_mib)
    # a row of one token has no context to learn from
    files = list_files(snapshot.filter(F.col(WIDTH) > 1), SEQUENCES.partition_by)
    plans = []
    for name, encoder in config.encoders.items():
        own = [file for file in files if file.partition[BEHAVIOUR] == config.stream(name)]
        training = tuple(_feed_file(file, encoder.max_length) for file in own if not file.partition[IS_HELD_OUT])
        if not training:
            log.info("  %s: no sequence of two items or more, left out", name)
            continue
        validation = tuple(_feed_file(file, encoder.max_length) for file in own if file.partition[IS_HELD_OUT])
        job = TrainingJob(
            card=_card(name, encoder, vocabularies[config.stream(name)], version),
            folder=workspace.model(name).resolve(),
            checkpoints=workspace.checkpoints(name).resolve(),
            seed=config.seed,
            data=repr((training, validation, config.feed)),
        )
        plans.append(PlannedModel(job, training, validation, config.feed))
    if not plans:
        raise TrainingError("no behaviour has a client with two items or more before the target windows")
    return plans


def launch(
    spark: SparkSession, config: PipelineConfig, workspace: Workspace, plans: list[PlannedModel]
) -> list[TrainingResult]:
    """Train all models in one start of the ranks, or in this process where one rank is asked for."""
    run_id = datetime.now(UTC).isoformat()
    arguments = (plans, workspace.metrics.resolve(), run_id, config.training.threads_per_rank)
    if config.training.n_ranks == 1:
        return train_all(OneProcess(), *arguments)
    meeting_place, ranks_log = workspace.checkpoints("").resolve(), workspace.logs / "ranks.log"
    outcomes = run_ranks(spark, config.training, train_all_on_rank, arguments, meeting_place, ranks_log)
    return [TrainingResult.from_dict(values) for values in outcomes]


def train_all_on_rank(
    ranks: Ranks, watch: StallWatch, plans: list[PlannedModel], metrics: Path, run_id: str, threads: int
) -> list[dict[str, Any]]:
    """``train_all`` as one of several ranks, with results as plain values."""
    return [asdict(result) for result in train_all(ranks, plans, metrics, run_id, threads, watch)]


def train_all(
    ranks: Ranks,
    plans: list[PlannedModel],
    metrics: Path,
    run_id: str,
    threads: int,
    watch: StallWatch | None = None,
) -> list[TrainingResult]:
    """Train the models one after the other on this rank; rank 0 logs the figures."""
    writes_boards = ranks.rank == 0 and plans[0].job.settings.training.tensorboard
    boards = TensorBoard(metrics.parent / "tensorboard" / run_id.replace(":", "-")) if writes_boards else None

    def report(values: Mapping[str, Any]) -> None:
        if ranks.rank == 0:
            append_metrics(metrics, {"run": run_id, **values})
        if boards:
            boards.add(values)

    keep_freed_memory()
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        return [train_model(plan.job, watched_feed(plan.open_feed(ranks), watch), ranks, report) for plan in plans]
    finally:
        torch.set_num_threads(before)
        if boards:
            boards.close()


def watched_feed(feed: Feed, watch: StallWatch | None) -> Feed:
    """The feed, whose batches tell the watch that there is progress."""
    return WatchedFeed(feed, watch) if watch else feed


def remove_other_models(workspace: Workspace, trained: set[str]) -> None:
    """Delete the models of an earlier run that this one did not train, so that none is taken for its own."""
    for folder in workspace.model("").iterdir():
        if folder.name not in trained:
            shutil.rmtree(folder)


def _card(name: str, encoder: EncoderSettings, vocabulary: VocabularySummary, version: int) -> ModelCard:
    description = VocabularyDescription(vocabulary.n_tokens)
    return ModelCard(name, encoder, description, vocabulary.fingerprint, version)


def _feed_file(file: DataFile, max_length: int) -> FeedFile:
    return FeedFile(file_url(file.url), file.n_rows, min(int(str(file.partition[WIDTH])), max_length))


def _score(result: TrainingResult) -> str:
    if result.metrics is None:
        return ", no held-out client to rank"
    return f", NDCG@10 {result.metrics.ndcg_at_10:.4f}, HR@10 {result.metrics.hr_at_10:.4f}"


if __name__ == "__main__":
    from jobs.cli import main_stage

    sys.exit(main_stage("train"))
