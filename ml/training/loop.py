"""Trains one encoder by its objective; the same function runs in one process or as one of several ranks."""

import contextlib
import hashlib
import json
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import torch

from conf.encoders import EncoderSettings, InferenceSettings
from ml.data.sequence_batch import Feed, SequenceBatch, Tokens
from ml.files.atomic import draft_pattern, replace_folder, replace_text
from ml.metrics.ranking import RankingMetrics, ranking_sums
from ml.objectives.ranking import rank_last_items
from ml.objectives.registry import require_encoder
from ml.training.checkpoint import ModelCard, save_model
from ml.training.distributed import Ranks
from ml.training.hardware import forget_gpu_peak, free_gpu, peak_memory
from ml.training.run_state import Position, load_run, save_run
from ml.training.step import Learner, StepSums
from schemas.errors import TrainingError

log = logging.getLogger(__name__)

RUN, BEST, RESULT, ATTRIBUTES = "run.safetensors", "best", "result.json", "item_attributes.safetensors"
DRAFTS = (f".{RUN}.partial", draft_pattern(RESULT), f".{BEST}.new", f".{BEST}.old")
CHECKPOINT_FILES = (RUN, BEST, RESULT, ATTRIBUTES, *DRAFTS)
"""Patterns of what a folder of checkpoints holds, drafts of killed processes included."""

Report = Callable[[Mapping[str, Any]], None]
"""Takes one line of figures; only rank 0's does something."""


@dataclass(frozen=True)
class TrainingJob:
    """All that one model's training needs but its rows, small enough to send to every rank.

    Attributes
    ----------
    card : what is trained, and on which vocabulary and table version
    folder : where the best model goes, reachable from rank 0
    checkpoints : folder of what a killed run goes on from, reachable from all ranks
    data : identifies the rows and the settings that order them
    """

    card: ModelCard
    folder: Path
    checkpoints: Path
    seed: int
    data: str = ""

    @property
    def settings(self) -> EncoderSettings:
        """What is trained, and how."""
        return self.card.settings

    def fingerprint(self, world_size: int) -> str:
        """Changes with anything that the weights, or a position in the data, depend on."""
        # how vectors are made later changes no weight
        settings = replace(self.settings, training=self.settings.training.of_weights(), inference=InferenceSettings())
        decides = (replace(self.card, settings=settings), self.seed, self.data, world_size)
        # by the repr, a setting that is added later counts too; item attributes are there by their digest
        return hashlib.sha256(repr(decides).encode()).hexdigest()


@dataclass(frozen=True)
class TrainingResult:
    """What a training came to.

    Attributes
    ----------
    best_epoch : whose weights were kept, from 1
    metrics : of that epoch on the held-out clients; None where there was none to rank
    is_finished : False where the caller's time was up first; the same call goes on
    """

    encoder: str
    n_steps: int
    best_epoch: int
    metrics: RankingMetrics | None
    is_finished: bool = True

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "TrainingResult":
        """The result that ``dataclasses.asdict`` took apart."""
        metrics = values["metrics"] and RankingMetrics(**values["metrics"])
        return cls(**{**values, "metrics": metrics})


def train_model(
    job: TrainingJob,
    feed: Feed,
    ranks: Ranks,
    report: Report,
    is_time_up: Callable[[], bool] = lambda: False,
    on_saved: Callable[[], None] = lambda: None,
) -> TrainingResult:
    """Train one model, keep the weights of the epoch with the best NDCG@10, and write its folder at the end.

    Without a held-out client, or a ranking, the last epoch's weights are kept. The folder changes only when training is
    over. A call that was killed is made again with the same arguments: it goes on from its last checkpoint, to the same
    weights (on CPU; on a GPU sums may be rounded otherwise). A job that is finished already is not trained again, as
    long as its folder of checkpoints is there.

    Parameters
    ----------
    is_time_up : asked at every checkpoint; training stops there when any rank says yes
    on_saved : called on rank 0 when a checkpoint is written

    Raises
    ------
    ConfigError
        If the encoder and its objective do not go together.
    TrainingError
        If the loss or the weights stop being numbers, a checkpoint is damaged or not seen by all ranks, or what a
        finished job left is damaged.
    """
    require_encoder(job.card.encoder, job.settings)
    outcome = job.checkpoints / RESULT
    job_id = job.fingerprint(ranks.world_size)
    finished = _read_outcome(outcome, job_id)
    if finished and job.folder.is_dir():
        log.info("  %s: was finished, not trained again", job.card.encoder)
        return finished
    trainer = Trainer(job, feed, ranks, report, is_time_up, on_saved)
    if ranks.rank == 0:
        # of other settings: after a kill it would stand beside weights that are not its own
        outcome.unlink(missing_ok=True)
    result = trainer.run()
    if result.is_finished and ranks.rank == 0:
        # the result before the checkpoint goes: a kill between the two finds a finished job
        replace_text(outcome, json.dumps({"job": job_id, "result": asdict(result)}))
        trainer.run_file.unlink()
    return result


class Trainer:
    """A learner and the position in its run, on one rank."""

    def __init__(
        self,
        job: TrainingJob,
        feed: Feed,
        ranks: Ranks,
        report: Report,
        is_time_up: Callable[[], bool] = lambda: False,
        on_saved: Callable[[], None] = lambda: None,
    ) -> None:
        self.job, self.feed, self.ranks, self.report = job, feed, ranks, report
        self.is_time_up, self.on_saved = is_time_up, on_saved
        self.job_id = job.fingerprint(ranks.world_size)
        self.steps_per_epoch = ceil(feed.n_batches / job.settings.training.batches_per_step)
        free_gpu()  # of the encoder that was trained before
        self.learner = Learner(job.settings, job.card.vocabulary, job.seed, ranks, self.steps_per_epoch)
        forget_gpu_peak(self.learner.device)
        self.run_file, self.best = job.checkpoints / RUN, job.checkpoints / BEST
        self.position = self._resume()

    def run(self) -> TrainingResult:
        """All epochs that are left."""
        # no figure: readers of the log tell a new training by it from one that goes on, and which lines were lost
        self._report({"begins_at": self.learner.n_steps})
        while not self._is_over():
            if not self.train_epoch():
                return self._result(is_finished=False)
            self.end_epoch(self.validate())
        if self.ranks.rank == 0 and self.best.is_dir():  # else the run died after this step, and is at its end again
            self.job.folder.parent.mkdir(parents=True, exist_ok=True)
            replace_folder(self.best, self.job.folder)
        return self._result(is_finished=True)

    def train_epoch(self) -> bool:
        """The batches of the epoch that are left; False where the time was up before its end."""
        training, position = self.job.settings.training, self.position
        meter, n_done = Meter(), position.n_batches
        self.learner.encoder.train()
        # closed: where the time is up, the threads that read ahead end too
        with contextlib.closing(self.feed.training(position.epoch, skip=n_done)) as batches:
            while True:
                asked = time.monotonic()
                group = list(islice(batches, training.batches_per_step))
                meter.wait_seconds += time.monotonic() - asked
                sums = self.learner.step(group)
                # not where this rank's feed ends: others may have batches left
                if sums.is_over:
                    break
                meter.add(sums, group)
                # of all ranks: not this one's own batches, of which an epoch may have fewer than another rank's
                n_steps, n_done = self.learner.n_steps, n_done + training.batches_per_step
                is_checkpoint = n_steps % training.checkpoint_every_steps == 0
                if is_checkpoint or n_steps % training.log_every_steps == 0:
                    # looks at the loss before a checkpoint is replaced: one that is no number ends the run
                    self._report_interval(meter)
                    meter = Meter()
                if is_checkpoint:
                    self._move_to(replace(position, n_batches=n_done))
                    # all ranks stop or none: one that went on alone would wait for the others for ever
                    if self.ranks.sum([self.is_time_up()])[0]:
                        return False
        if meter.n_steps:
            self._report_interval(meter)
        return True

    def validate(self) -> RankingMetrics | None:
        """Rank the last item of every held-out client among all items; None where there is none, or no ranking."""
        learner, training = self.learner, self.job.settings.training
        if not learner.objective.ranks_items:
            return None
        sums = np.zeros(4)
        with contextlib.closing(self.feed.validation()) as batches:
            for batch in batches:
                asked = batch.tensors()
                left_out = None if training.rank_seen_items else asked.token_ids[:, :-1]
                ranks = rank_last_items(learner.encoder, learner.objective, asked, left_out=left_out)
                sums += ranking_sums(ranks)
        totals = self.ranks.sum(sums)
        if totals[0] == 0:
            return None
        metrics = RankingMetrics.from_sums(totals)
        self._report(
            {
                "validation/ndcg@10": metrics.ndcg_at_10,
                "validation/hr@10": metrics.hr_at_10,
                "validation/mrr": metrics.mrr,
                "validation/users": metrics.n_users,
            }
        )
        return metrics

    def end_epoch(self, metrics: RankingMetrics | None) -> None:
        """Keep the epoch's weights if they are the best so far, and move to the next epoch."""
        epoch = self.position.epoch
        score = metrics.ndcg_at_10 if metrics else float(epoch)  # without a held-out client the last epoch is best
        position = replace(self.position, epoch=epoch + 1, n_batches=0)
        if score > position.best_score:
            # the weights before the position: a run that dies between the two trains the epoch's end again
            position = replace(position, best_epoch=epoch, best_score=score, best_metrics=metrics)
            self._require_numbers()
            if self.ranks.rank == 0:
                figures = {"epoch": epoch, **(asdict(metrics) if metrics else {})}
                save_model(self.best, self.learner.encoder, self.job.card, figures)
        self._move_to(position)

    def _is_over(self) -> bool:
        position, training = self.position, self.job.settings.training
        n_without_gain = position.epoch - 1 - position.best_epoch
        is_out_of_patience = training.patience is not None and n_without_gain >= training.patience
        return position.epoch > training.epochs or is_out_of_patience

    def _resume(self) -> Position:
        position = load_run(self.run_file, self.learner, self.job_id)
        n_steps = self.learner.n_steps
        if self.ranks.sum([n_steps])[0] != n_steps * self.ranks.world_size:
            raise TrainingError(
                f"{self.job.card.encoder}: the ranks read different checkpoints, rank {self.ranks.rank} one of "
                f"{n_steps} steps; {self.job.checkpoints} must be a folder that all of them mount"
            )
        if n_steps and self.ranks.rank == 0:
            log.info("  %s: going on after step %d", self.job.card.encoder, n_steps)
        return position

    def _move_to(self, position: Position) -> None:
        self._require_numbers()
        self.position = position
        if self.ranks.rank == 0:
            save_run(self.run_file, self.learner, position, self.job_id)
            self.on_saved()

    def _require_numbers(self) -> None:
        weights = self.learner.encoder.dense_parameters()
        if not all(bool(torch.isfinite(weight).all()) for weight in weights):
            raise self._diverged("a weight is not a number")

    def _diverged(self, what: str) -> TrainingError:
        rate = self.job.settings.training.learning_rate
        kept = f"the checkpoint before it is kept in {self.run_file}" if self.run_file.exists() else "no checkpoint yet"
        return TrainingError(
            f"{self.job.card.encoder}: {what} at step {self.learner.n_steps}, epoch {self.position.epoch}; "
            f"lower training.learning_rate (now {rate}); {kept}"
        )

    def _report_interval(self, meter: "Meter") -> None:
        # here the CPU waits for the device, once an interval: a step only adds to the loss
        sums = self.ranks.sum([float(meter.loss), float(meter.n_targets), meter.n_sequences, meter.n_tokens])
        loss = sums[0] / sums[1]
        if not np.isfinite(loss):
            raise self._diverged(f"the loss is {loss}")
        seconds = time.monotonic() - meter.started
        self._report(
            {
                "steps": self.steps_per_epoch * self.job.settings.training.epochs,
                "train/loss": loss,
                "train/seconds": seconds,
                "train/sequences_per_second": sums[2] / seconds,
                "train/tokens_per_second": sums[3] / seconds,
                "feed/wait_pct": 100.0 * meter.wait_seconds / seconds,
                **peak_memory(self.learner.device),
            }
        )

    def _report(self, figures: Mapping[str, Any]) -> None:
        # the key under which the report page looks for an encoder's lines
        now = {"behaviour": self.job.card.encoder, "epoch": self.position.epoch, "step": self.learner.n_steps}
        self.report({**now, **figures})

    def _result(self, is_finished: bool) -> TrainingResult:
        position = self.position
        return TrainingResult(
            self.job.card.encoder, self.learner.n_steps, position.best_epoch, position.best_metrics, is_finished
        )


@dataclass
class Meter:
    """Sums over the steps since the last report, on one rank; the loss stays on its device."""

    loss: torch.Tensor | float = 0.0
    n_targets: int | torch.Tensor = 0
    n_sequences: int = 0
    n_tokens: int = 0
    n_steps: int = 0
    wait_seconds: float = 0.0
    started: float = field(default_factory=time.monotonic)

    def add(self, sums: StepSums, batches: list[SequenceBatch[Tokens]]) -> None:
        """Count one step."""
        self.n_steps += 1
        self.loss = self.loss + sums.loss
        self.n_targets = self.n_targets + sums.n_targets
        self.n_sequences += sum(len(batch.lengths) for batch in batches)
        self.n_tokens += sum(batch.n_tokens for batch in batches)


def _read_outcome(path: Path, job_id: str) -> TrainingResult | None:
    if not path.exists():
        return None
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        return TrainingResult.from_dict(values["result"]) if values["job"] == job_id else None
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise TrainingError(f"{path} is damaged ({error}); remove it to train this model again") from error
