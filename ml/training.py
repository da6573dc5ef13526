"""Trains one BERT4Rec by the cloze task; the same function runs in one process or as one of Horovod's ranks."""

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from conf.settings import FeedSettings, LossSettings, MaskingSettings, TrainingSettings
from ml.bert4rec import Bert4Rec
from ml.checkpoint import ModelCard, save_model
from ml.distributed import Ranks, reduce_gradients, step
from ml.feed import training_batches, validation_batches
from ml.folders import replace_folder
from ml.loss import cloze_loss, draw_negatives, uses_sampled_softmax
from ml.masking import MaskedBatch, mask_tokens
from ml.ranking import RankingMetrics, rank_last_items, ranking_sums
from ml.sharding import FeedFile, steps_by_width, width_schedule
from schemas.errors import TrainingError
from schemas.tokens import FIRST_ITEM, PAD

log = logging.getLogger(__name__)

Report = Callable[[Mapping[str, Any]], None]
"""Takes one line of figures; only rank 0's does something."""


@dataclass(frozen=True)
class TrainingJob:
    """All that one model's training needs, small enough to send to every rank.

    Attributes
    ----------
    card : what is trained, and on which vocabulary and table version
    training_files, validation_files : of the pinned snapshot; validation rows are the held-out clients
    folder : where the best model goes, reachable from rank 0
    """

    card: ModelCard
    training_files: tuple[FeedFile, ...]
    validation_files: tuple[FeedFile, ...]
    folder: Path
    seed: int
    training: TrainingSettings
    masking: MaskingSettings
    loss: LossSettings
    feed: FeedSettings


@dataclass(frozen=True)
class TrainingResult:
    """What a training came to.

    Attributes
    ----------
    best_epoch : whose weights were kept, from 1
    metrics : of that epoch on the held-out clients; None where there was none to rank
    """

    behaviour: str
    n_steps: int
    best_epoch: int
    metrics: RankingMetrics | None

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "TrainingResult":
        """The result that ``dataclasses.asdict`` took apart."""
        metrics = values["metrics"] and RankingMetrics(**values["metrics"])
        return cls(**{**values, "metrics": metrics})


def train_model(job: TrainingJob, ranks: Ranks, report: Report) -> TrainingResult:
    """Train one model, keep the weights of the epoch with the best NDCG@10, and write its folder at the end.

    Without a held-out client the last epoch's weights are kept. The folder changes only when training is over.

    Raises
    ------
    TrainingError
        If the loss stops being a number.
    """
    trainer = Trainer(job, ranks, report)
    staged = job.folder.with_name(f".{job.folder.name}.best")
    best_epoch, best_score, best_metrics = 0, -1.0, None
    for epoch in range(1, job.training.epochs + 1):
        trainer.train_epoch(epoch)
        metrics = trainer.validate(epoch)
        score = metrics.ndcg_at_10 if metrics else float(epoch)
        if score > best_score:
            best_epoch, best_score, best_metrics = epoch, score, metrics
            if ranks.rank == 0:
                save_model(staged, trainer.model, job.card, {"epoch": epoch, **(asdict(metrics) if metrics else {})})
    if ranks.rank == 0:
        replace_folder(staged, job.folder)
    return TrainingResult(job.card.behaviour, trainer.n_steps, best_epoch, best_metrics)


class Trainer:
    """A model, its optimisers and the position in the run, on one rank."""

    def __init__(self, job: TrainingJob, ranks: Ranks, report: Report) -> None:
        self.job, self.ranks, self.report = job, ranks, report
        n_items = job.card.n_tokens - FIRST_ITEM
        self.is_sampled = uses_sampled_softmax(job.loss, n_items)
        torch.manual_seed(job.seed)
        self.model = Bert4Rec(job.card.model, job.card.n_tokens, job.card.max_length, sparse_table=self.is_sampled)
        self.optimizers = build_optimizers(self.model, job.training, ranks)
        ranks.broadcast(self.model, self.optimizers)
        self.steps = steps_by_width(job.training_files, ranks.world_size, job.training.tokens_per_batch)
        self.n_steps = 0

    def train_epoch(self, epoch: int) -> None:
        """One pass over the training rows."""
        job, ranks = self.job, self.ranks
        self._set_learning_rate(job.training.learning_rate * job.training.decay_factor ** (epoch - 1))
        # dropout draws from the global generator, masks and negatives from one of their own
        torch.manual_seed(mix_seed(job.seed, epoch, ranks.rank, 0))
        generator = torch.Generator().manual_seed(mix_seed(job.seed, epoch, ranks.rank, 1))
        schedule = width_schedule(self.steps, job.seed, epoch)
        meter = Meter()
        self.model.train()
        for token_ids in meter.timed(self._batches(schedule, epoch)):
            meter.add(*self.train_step(token_ids, generator), token_ids)
            self.n_steps += 1
            is_last = meter.n_batches == len(schedule)
            if self.n_steps % job.training.log_every_steps == 0 or is_last:
                self._report_interval(meter, epoch, len(schedule))

    def train_step(self, token_ids: Tensor, generator: torch.Generator) -> tuple[float, int]:
        """Mask one batch (int64 [B, L]) and update the model by it, as ``update`` says."""
        job, n_tokens = self.job, self.model.n_tokens
        masked = mask_tokens(token_ids, n_tokens, job.masking, generator)
        negatives = draw_negatives(n_tokens, job.loss.n_negatives, generator) if self.is_sampled else None
        return self.update(masked, negatives)

    def update(self, masked: MaskedBatch, negatives: Tensor | None) -> tuple[float, int]:
        """One step of the optimisers; this rank's summed loss and the positions it sums over.

        Every hidden position of all ranks counts the same, however many a rank has.
        """
        job, model = self.job, self.model
        for optimizer in self.optimizers:
            optimizer.zero_grad()
        loss, n_positions = cloze_loss(model, masked, negatives)
        (loss / self.ranks.sum([n_positions])[0]).backward()
        for optimizer in self.optimizers:
            reduce_gradients(optimizer)
        torch.nn.utils.clip_grad_norm_(list(model.dense_parameters()), job.training.clip_norm)
        for optimizer in self.optimizers:
            step(optimizer)
        return loss.item(), n_positions

    def validate(self, epoch: int) -> RankingMetrics | None:
        """Rank the last item of every held-out client among all items; None where there is none."""
        job, ranks = self.job, self.ranks
        sums = np.zeros(4)
        for batch in validation_batches(
            job.validation_files, job.training.tokens_per_batch, ranks.rank, ranks.world_size
        ):
            sums += ranking_sums(rank_last_items(self.model, torch.from_numpy(batch).long()))
        totals = ranks.sum(sums)
        if totals[0] == 0:
            return None
        metrics = RankingMetrics.from_sums(totals)
        self.report(
            {
                "behaviour": job.card.behaviour,
                "epoch": epoch,
                "validation/ndcg@10": metrics.ndcg_at_10,
                "validation/hr@10": metrics.hr_at_10,
                "validation/mrr": metrics.mrr,
                "validation/users": metrics.n_users,
            }
        )
        return metrics

    def _batches(self, schedule: NDArray[np.int64], epoch: int) -> Iterator[Tensor]:
        job, ranks = self.job, self.ranks
        batches = training_batches(
            job.training_files,
            schedule,
            job.training.tokens_per_batch,
            job.feed,
            ranks.rank,
            ranks.world_size,
            seed=(job.seed, epoch),
        )
        return (torch.from_numpy(batch).long() for batch in batches)

    def _set_learning_rate(self, learning_rate: float) -> None:
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = learning_rate

    def _report_interval(self, meter: "Meter", epoch: int, steps_per_epoch: int) -> None:
        sums = self.ranks.sum(meter.sums())
        loss = sums[0] / sums[1]
        if not np.isfinite(loss):
            raise TrainingError(
                f"{self.job.card.behaviour}: the loss is {loss} at step {self.n_steps}; "
                f"lower training.learning_rate (now {self.job.training.learning_rate})"
            )
        seconds = meter.seconds()
        self.report(
            {
                "behaviour": self.job.card.behaviour,
                "epoch": epoch,
                "step": self.n_steps,
                "steps": steps_per_epoch * self.job.training.epochs,
                "train/loss": loss,
                "train/sequences_per_second": sums[2] / seconds,
                "train/tokens_per_second": sums[3] / seconds,
                "feed/wait_pct": 100.0 * meter.wait_seconds / seconds,
            }
        )
        meter.start_interval()


class Meter:
    """Sums over the steps since the last report, on one rank."""

    def __init__(self) -> None:
        self.n_batches = 0
        self.start_interval()

    def start_interval(self) -> None:
        """Begin to sum anew."""
        self.loss, self.n_positions, self.n_sequences, self.n_tokens = 0.0, 0, 0, 0
        self.wait_seconds, self._started = 0.0, time.monotonic()

    def timed(self, batches: Iterator[Tensor]) -> Iterator[Tensor]:
        """The batches, with the time that each was waited for."""
        while True:
            asked = time.monotonic()
            batch = next(batches, None)
            self.wait_seconds += time.monotonic() - asked
            if batch is None:
                return
            self.n_batches += 1
            yield batch

    def add(self, loss: float, n_positions: int, token_ids: Tensor) -> None:
        """Count one step."""
        self.loss += loss
        self.n_positions += n_positions
        self.n_sequences += len(token_ids)
        self.n_tokens += int((token_ids != PAD).sum())

    def sums(self) -> list[float]:
        """Loss, positions, sequences, real tokens."""
        return [self.loss, self.n_positions, self.n_sequences, self.n_tokens]

    def seconds(self) -> float:
        """Since the interval began."""
        return time.monotonic() - self._started


def build_optimizers(model: Bert4Rec, settings: TrainingSettings, ranks: Ranks) -> list[Any]:
    """AdamW for the encoder, and for the tables too unless their gradients are sparse: then SparseAdam.

    Weights decay on matrices only: decay on an item's row would pull it to zero at every step in which the
    item does not even occur.
    """
    decaying = {id(parameter) for parameter in model.decaying_parameters()}
    tables = {id(parameter) for parameter in model.table_parameters()}
    named = list(model.named_parameters())
    is_sparse = model.item_table.sparse
    dense = [(name, p) for name, p in named if not (is_sparse and id(p) in tables)]
    groups = [
        {"params": [p for _, p in dense if id(p) in decaying], "weight_decay": settings.weight_decay},
        {"params": [p for _, p in dense if id(p) not in decaying], "weight_decay": 0.0},
    ]
    optimizers = [ranks.distribute(torch.optim.AdamW(groups, lr=settings.learning_rate), dense)]
    if is_sparse:
        rows = [(name, p) for name, p in named if id(p) in tables]
        sparse = torch.optim.SparseAdam([p for _, p in rows], lr=settings.learning_rate)
        optimizers.append(ranks.distribute(sparse, rows))
    return optimizers


def mix_seed(*parts: int) -> int:
    """One 63-bit seed from several numbers; different numbers give unrelated streams."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> np.uint64(1))
