"""Train: the encoders of the configuration, data-parallel on Spark's executors (jobs/runtime/rank_launcher.py)."""

import logging
from collections.abc import Collection, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from conf.encoders import EncoderSettings
from conf.pipeline import PipelineConfig
from jobs.blocks.encoders import TRAINED, PlannedModel, train_all
from jobs.runtime.progress import training_progress
from jobs.runtime.rank_launcher import count_ranks, run_ranks
from jobs.storage.delta_tables import DataFile, latest_commit, list_files, read_as_files, read_table
from jobs.storage.entry_files import snapshot_files, stream_batches
from jobs.storage.files import remove_empty_folder
from jobs.storage.locations import file_url
from jobs.storage.metrics_log import append_metrics
from jobs.storage.provenance import MODELS, changed_records, read_records
from jobs.storage.workspace import Workspace
from jobs.transforms.item_attributes import ATTRIBUTE_COLUMNS, read_item_attributes
from jobs.transforms.vocabulary import collect_summaries
from ml.data.sharding import FeedFile
from ml.data.vocabulary import VocabularyDescription
from ml.training.checkpoint import ModelCard
from ml.training.loop import ATTRIBUTES, CHECKPOINT_FILES, TrainingJob, TrainingResult
from schemas.columns import BEHAVIOUR, IS_HELD_OUT, WIDTH
from schemas.errors import TrainingError
from schemas.tables import ITEM_ATTRIBUTES, SEQUENCES, VOCABULARIES

log = logging.getLogger(__name__)


def run(
    spark: SparkSession, config: PipelineConfig, workspace: Workspace, only: Sequence[str] = (), prune: bool = False
) -> None:
    """Write one model folder per encoder that has a sequence to learn from.

    A stage that died goes on: finished models are left alone, and one in the making from its last checkpoint.

    Parameters
    ----------
    only : the encoders to train, whose names the configuration has; all where none is named
    prune : remove the models of earlier runs that the configuration does not name
    """
    count_ranks(spark, config.training)  # refuses more than this machine has cores for, before anything is made
    plans = plan_training(spark, config, workspace, only)
    planned = [plan.job.card.encoder for plan in plans]
    for name in only or config.encoders:
        if name not in planned and workspace.model(name).is_dir():  # later stages would read it
            raise TrainingError(
                f"encoder {name}: expected clients with two items or more, found none, but a model of an earlier run "
                f"in {workspace.model(name)}; remove that folder, or leave the encoder out (--set encoders.{name}=null)"
            )
    workspace.push("checkpoints")  # ranks of other hosts read there what is known of a merged stream's items
    with training_progress(workspace.metrics):
        results = launch(spark, config, workspace, plans)
    append_metrics(workspace.metrics, {"folders": [MODELS + result.encoder for result in results]})
    remove_other_models(workspace, config.encoders, prune)
    for result in results:
        score = ", no held-out client to rank"
        if result.metrics is not None:
            score = f", NDCG@10 {result.metrics.ndcg_at_10:.4f}, HR@10 {result.metrics.hr_at_10:.4f}"
        log.info("  %s: %d steps, best epoch %d%s", result.encoder, result.n_steps, result.best_epoch, score)


def plan_training(
    spark: SparkSession, config: PipelineConfig, workspace: Workspace, only: Sequence[str] = ()
) -> list[PlannedModel]:
    """One model per encoder, or per one of ``only``, on exactly the files of the newest version of ``sequences``."""
    vocabularies = collect_summaries(read_table(spark, workspace, VOCABULARIES))
    # pinned: the table's folder holds files of other versions too, which Petastorm would read
    version = latest_commit(spark, workspace, SEQUENCES).version
    snapshot = read_as_files(spark, workspace, SEQUENCES, version, config.sequences.row_group_mib)
    # a row of one token has no context to learn from
    files = list_files(snapshot.filter(F.col(WIDTH) > 1), SEQUENCES.partition_by)
    plans = []
    for name, encoder in config.encoders.items():
        if only and name not in only:
            continue
        stream = config.stream(name)
        own = [file for file in files if file.partition[BEHAVIOUR] == stream]
        training = tuple(_feed_file(file, encoder) for file in own if not file.partition[IS_HELD_OUT])
        if not training:
            log.info("  %s: no sequence of two items or more, left out", name)
            continue
        # of a held-out client the last events are read, whole or in chunks
        uncut = replace(encoder, history_chunks=1)
        validation = tuple(_feed_file(file, uncut) for file in own if file.partition[IS_HELD_OUT])
        vocabulary = vocabularies[stream]
        description, attributes = VocabularyDescription(vocabulary.n_tokens), None
        if encoder.is_merged:
            attributes = workspace.checkpoints(name).resolve() / ATTRIBUTES
            description = save_item_attributes(spark, config, workspace, stream, vocabulary.n_tokens, attributes)
        job = TrainingJob(
            card=ModelCard(name, encoder, description, vocabulary.fingerprint, version),
            folder=workspace.model(name).resolve(),
            checkpoints=workspace.checkpoints(name).resolve(),
            seed=config.seed,
            # a checkpoint counts only for the same files and the same buffer
            data=repr((training, validation, config.feed.shuffle_buffer_mib)),
        )
        plans.append(PlannedModel(job, training, validation, config.feed, attributes))
    if not plans:
        raise TrainingError("no behaviour has a client with two items or more before the target windows")
    return plans


def save_item_attributes(
    spark: SparkSession, config: PipelineConfig, workspace: Workspace, stream: str, n_tokens: int, path: Path
) -> VocabularyDescription:
    """Write what is known of a merged stream's items to a file, and say what it holds, without its arrays.

    The driver reads the table's files a batch at a time; its arrays take 47 bytes per token.
    """
    rows = read_as_files(spark, workspace, ITEM_ATTRIBUTES).filter(F.col(BEHAVIOUR) == stream)
    files = snapshot_files(rows)
    behaviours = [config.behaviours[name] for name in config.streams()[stream].behaviours]
    items = tuple(dict.fromkeys(behaviour.item for behaviour in behaviours))
    attributes = read_item_attributes(stream_batches(files, ATTRIBUTE_COLUMNS), items, n_tokens)
    path.parent.mkdir(parents=True, exist_ok=True)
    attributes.save(path)
    return VocabularyDescription.of_attributes(attributes, items).without_arrays()


def launch(
    spark: SparkSession, config: PipelineConfig, workspace: Workspace, plans: list[PlannedModel]
) -> list[TrainingResult]:
    """Train all models in one start of the ranks, or in this process where one rank is asked for."""
    run_id = datetime.now(UTC).isoformat()
    arguments = (plans, workspace.metrics.resolve(), workspace.working_copy, run_id)
    checkpoints = workspace.checkpoints("")
    notes, ranks_log = workspace.notes_of_ranks(checkpoints), workspace.logs / "ranks.log"
    outcomes = run_ranks(spark, config.training, train_all, arguments, notes, ranks_log, "train", checkpoints)
    workspace.pull(*TRAINED)  # what a rank on another host has made
    return [TrainingResult.from_dict(values) for values in outcomes]


def remove_other_models(workspace: Workspace, encoders: Collection[str], prune: bool) -> None:
    """Remove the models of earlier runs that no encoder of the configuration has, if ``prune`` is set; else name them.

    Only what our records name is removed: another folder there, whatever it holds, is somebody's own.
    """
    recorded = read_records(workspace)
    for folder in sorted(workspace.model("").glob("[!.]*/")):
        if folder.name in encoders:
            continue
        if MODELS + folder.name not in recorded or folder.is_symlink():
            log.warning("  %s is left alone: no run in this --out is recorded to have made it", folder)
            continue
        if not prune:
            log.warning("  model %s is kept, and no stage reads it: no encoder has its name (--prune)", folder.name)
            continue
        log.info("  model %s is removed: no encoder has its name (--prune)", folder.name)
        workspace.remove(folder)
        with changed_records(workspace) as records:
            records.pop(MODELS + folder.name, None)


def clean_up(config: PipelineConfig, workspace: Workspace, only: Sequence[str] = (), prune: bool = False) -> None:
    """Remove what the trainings of ``run`` with these options went on from; nothing of others'."""
    folder = workspace.checkpoints("")
    for path in folder.glob("[!.]*/"):
        # also of encoders that the configuration no longer names; by its files, for another folder is somebody's own
        is_ours = all(any(map(file.match, CHECKPOINT_FILES)) for file in path.iterdir())
        if path.name in (only or config.encoders) or (not only and is_ours):
            workspace.remove(path)
    remove_empty_folder(folder)


def _feed_file(file: DataFile, encoder: EncoderSettings) -> FeedFile:
    width = int(str(file.partition[WIDTH]))
    # above the length of a chunk, widths are its multiples (Stream.layout)
    n_chunks = width // encoder.max_length if encoder.history_chunks > 1 and width > encoder.max_length else 1
    return FeedFile(file_url(file.url), file.n_rows * n_chunks, min(width, encoder.max_length), n_chunks)


if __name__ == "__main__":
    from jobs.cli import main_stage

    main_stage("train")
