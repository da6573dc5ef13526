"""One step of training: inputs and targets, loss, update. Knows the ranks, not where batches come from."""

from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from conf.encoders import EncoderSettings
from ml.data.sequence_batch import SequenceBatch, Tokens
from ml.data.vocabulary import VocabularyDescription
from ml.models.registry import build_encoder
from ml.objectives.protocol import TrainingBatch
from ml.objectives.registry import build_objective
from ml.training.distributed import Ranks
from ml.training.optimizers import build_optimizers, learning_rate


class StepSums(NamedTuple):
    """One rank's sums over one step; the loss stays on its device until somebody asks for its value."""

    loss: Tensor
    n_targets: int


class Learner:
    """An encoder, its objective, its optimisers and the number of steps they took, on one rank.

    All that is random in a step (masks, candidates, dropout) is drawn from generators seeded by (seed, step, rank):
    the number of steps is the whole state of the generators.

    Parameters
    ----------
    ranks : that train together, all with the same other arguments; None for a process alone
    steps_per_epoch : what the learning rate's schedule counts by
    """

    def __init__(
        self,
        settings: EncoderSettings,
        vocabulary: VocabularyDescription,
        seed: int = 0,
        ranks: Ranks | None = None,
        steps_per_epoch: int = 1,
    ) -> None:
        self.settings, self.seed, self.ranks = settings, seed, ranks or Ranks()
        self.steps_per_epoch = steps_per_epoch
        self.device = self.ranks.device(settings.training.device)
        self.objective = build_objective(settings, vocabulary)
        torch.manual_seed(seed)
        self.encoder = build_encoder(settings, vocabulary, self.objective.is_sampled)
        self.encoder.heads = self.objective.build_heads(self.encoder.hidden_size)
        self.encoder.to(self.device)
        if settings.training.compile:
            self.encoder.compile_encode_at()
        if self.encoder.has_sparse_tables:
            for table in self.encoder.row_parameters():
                # a token met often in a batch is one row of the gradient, before it is sent to other ranks
                table.register_hook(Tensor.coalesce)
        self.optimizers = build_optimizers(self.encoder, settings.training)
        self.ranks.broadcast(self.encoder)
        self.n_steps = 0

    def step(self, batches: Sequence[SequenceBatch[Tokens]]) -> StepSums:
        """Update the encoder by what the objective asks of the batches."""
        # dropout draws from torch's global generator, on every device; masks and candidates from one on the CPU
        torch.manual_seed(self._seed(0))
        generator = torch.Generator().manual_seed(self._seed(1))
        prepared = [self.objective.prepare(batch.tensors(), generator) for batch in batches]
        return self.update(prepared, self.objective.draw_candidates(generator))

    def update(self, batches: Sequence[TrainingBatch], candidates: Tensor | None) -> StepSums:
        """Update the encoder by prepared batches, all compared with the same candidates (int64 [K]).

        Every target of all batches and ranks counts the same, however many a rank has.
        """
        for optimizer in self.optimizers:
            optimizer.zero_grad()
        n_targets = sum(batch.n_targets for batch in batches)
        # the sum over the ranks comes while the loss is computed; cached, because it can be waited for only once
        n_everywhere = cache(self.ranks.begin_sum([n_targets]))
        candidates = None if candidates is None else candidates.to(self.device)
        loss = torch.zeros((), device=self.device)
        for batch in batches:
            batch_loss = self._loss(batch.to(self.device), candidates)
            (batch_loss / n_everywhere()[0]).backward()
            loss += batch_loss.detach()
        self._apply_gradients()
        return StepSums(loss, n_targets)

    def _loss(self, batch: TrainingBatch, candidates: Tensor | None) -> Tensor:
        encoder, is_half = self.encoder, self.settings.training.precision == "bfloat16"
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=is_half):
            hidden = encoder.encode_at(batch.inputs, batch.positions)  # [M, D]

            def score(tokens: Tensor) -> Tensor:
                return encoder.logits(encoder.output_vectors(hidden), tokens)

            return self.objective.loss(hidden, batch.targets, candidates, score)

    def _apply_gradients(self) -> None:
        training = self.settings.training
        rate = learning_rate(training, self.n_steps, self.steps_per_epoch)
        for group in (group for optimizer in self.optimizers for group in optimizer.param_groups):
            group["lr"] = rate
        self.ranks.sum_gradients(self.encoder.parameters())
        # sparse gradients are not clipped: RowAdam divides each by its own size
        dense = [p for p in self.encoder.parameters() if p.grad is not None and not p.grad.is_sparse]
        torch.nn.utils.clip_grad_norm_(dense, training.clip_norm)
        for optimizer in self.optimizers:
            optimizer.step()
        self.n_steps += 1

    def _seed(self, use: int) -> int:
        return mix_seed(self.seed, self.n_steps, self.ranks.rank, use)


def mix_seed(*parts: int) -> int:
    """One 63-bit seed from several numbers; different numbers give unrelated streams."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> np.uint64(1))
