"""What a rank does to train encoders: which files it reads, where it writes, and one model after the other."""

import contextlib
import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from conf.training import FeedSettings
from jobs.runtime.temp_dirs import scratch_folder
from jobs.storage.metrics_log import TensorBoard, append_metrics
from jobs.storage.working_copy import METRICS, WorkingCopy
from ml.data.item_attributes import ItemAttributes
from ml.data.parquet_feed import ParquetFeed
from ml.data.sequence_batch import Feed
from ml.data.sharding import FeedFile
from ml.files.store import patience
from ml.training.distributed import Ranks
from ml.training.loop import TrainingJob, train_model
from ml.training.stall_watch import StallWatch, WatchedFeed
from ml.training.step import open_feed
from schemas.errors import OutputError

log = logging.getLogger(__name__)

TRAINED = ("models", "checkpoints", "tensorboard")
"""Folders that a training writes into."""
CHECKPOINT_SECONDS = 60.0
"""For so long a checkpoint is tried to be copied to a store that does not answer: the next one may be."""


@dataclass(frozen=True)
class PlannedModel:
    """One model's training and the files of the pinned snapshot that it reads; validation is the held-out clients'.

    Attributes
    ----------
    attributes : file of its vocabulary's item attributes, which all ranks mount; None where it has none
    """

    job: TrainingJob
    training_files: tuple[FeedFile, ...]
    validation_files: tuple[FeedFile, ...]
    feed: FeedSettings
    attributes: Path | None = None

    def moved(self, move: Callable[[Path], Path]) -> "PlannedModel":
        """The same, with its files where another host has them."""
        job = replace(self.job, folder=move(self.job.folder), checkpoints=move(self.job.checkpoints))
        return replace(self, job=job, attributes=move(self.attributes) if self.attributes else None)

    def load_job(self) -> TrainingJob:
        """The job with the arrays that were too large to send to a rank."""
        if self.attributes is None:
            return self.job
        vocabulary = replace(self.job.card.vocabulary, attributes=ItemAttributes.load(self.attributes))
        return replace(self.job, card=replace(self.job.card, vocabulary=vocabulary))

    def open_feed(self, ranks: Ranks) -> Feed:
        """The batches of one rank."""

        def make(tokens_per_batch: int) -> Feed:
            files, share = (self.training_files, self.validation_files), (ranks.rank, ranks.world_size, self.job.seed)
            return ParquetFeed(*files, tokens_per_batch, self.feed, *share, has_events=self.job.settings.reads_events)

        return open_feed(self.job.settings, ranks, make)


def train_all(
    ranks: Ranks,
    watch: StallWatch | None,
    plans: list[PlannedModel],
    metrics: Path,
    working_copy: WorkingCopy | None,
    run_id: str,
) -> list[dict[str, Any]]:
    """Train the models one after the other on this rank; rank 0 logs the figures.

    The results are ``TrainingResult`` as plain values: from a rank, they come through Spark's Python worker.

    Parameters
    ----------
    metrics : log of figures
    working_copy : that this and the folders of all jobs are part of, where ``--out`` is a store
    run_id : names the folder of the TensorBoard files
    """
    here = working_copy.here(scratch_folder()) if working_copy else None
    push = partial(_push_trained, ranks, here)
    if working_copy and here:
        push()  # what a start of the ranks before this one could not
        # a sum ends when all ranks take part: none looks at the store before rank 0 has copied
        ranks.sum([0.0])
        if here is not working_copy:  # another host than the driver's
            here.pull(*TRAINED)
            moved = partial(working_copy.moved, other=here)
            plans, metrics = [plan.moved(moved) for plan in plans], moved(metrics)
    writes_boards = ranks.rank == 0 and plans[0].job.settings.training.tensorboard
    boards = TensorBoard(metrics.parent / "tensorboard" / run_id.replace(":", "-")) if writes_boards else None

    def report(values: Mapping[str, Any]) -> None:
        if ranks.rank == 0:
            append_metrics(metrics, values)
        if boards:
            boards.add(values)

    results = []
    try:
        for plan in plans:
            feed = plan.open_feed(ranks)
            # each batch tells the watch that there is progress
            watched = WatchedFeed(feed, watch) if watch else feed
            on_saved = partial(push, CHECKPOINT_SECONDS)
            results.append(train_model(plan.load_job(), watched, ranks, report, on_saved=on_saved))
    finally:
        if boards:
            boards.close()
        push(CHECKPOINT_SECONDS)  # what failed has left its figures
    # not in the block above: there, what it raises would hide the error of the training
    push()
    return [asdict(result) for result in results]


def _push_trained(ranks: Ranks, here: WorkingCopy | None, seconds: float | None = None) -> None:
    if here is None or ranks.rank != 0:
        return
    try:
        with patience(seconds) if seconds else contextlib.nullcontext():
            here.push(*TRAINED, METRICS)
    except OutputError as error:
        if seconds is None:
            raise
        log.warning("  the checkpoint is on this host alone until the next one: %s", error)
