"""One step of learning: hide tokens, compare, update. Knows the ranks, not where batches come from."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from conf.encoders import LossSettings, MaskingSettings, ModelSettings
from conf.training import TrainingSettings
from ml.models.transformer import Bert4Rec
from ml.objectives.cloze import HiddenBatch, MaskedBatch, hidden_batch, mask_tokens, shift_tokens
from ml.objectives.losses import chosen_loss, draw_negatives, hidden_loss
from ml.training.distributed import OneProcess, Ranks
from ml.training.optimizers import build_optimizers, learning_rate, set_learning_rate
from schemas.tokens import FIRST_ITEM


@dataclass(frozen=True)
class Recipe:
    """How one model is made and updated.

    Attributes
    ----------
    n_tokens : V, the special tokens and the items
    max_length : the longest sequence it reads
    """

    model: ModelSettings
    n_tokens: int
    max_length: int
    training: TrainingSettings
    masking: MaskingSettings
    loss: LossSettings
    seed: int = 0

    @property
    def is_sampled(self) -> bool:
        """Whether the loss compares with sampled items; the tables' gradients are sparse then."""
        return chosen_loss(self.loss, self.n_tokens - FIRST_ITEM) != "full"


class StepSums(NamedTuple):
    """One rank's sums over one step; the loss stays on its device until somebody asks for its value."""

    loss: Tensor
    n_positions: int


class Learner:
    """A model, its optimisers and the number of steps they took, on one rank.

    All that is random in a step (masks, negatives, dropout) is drawn from generators seeded by (seed, step, rank):
    the number of steps is the whole state of the generators.

    Parameters
    ----------
    recipe : the same on all ranks
    ranks : that train together
    steps_per_epoch : what the learning rate's schedule counts by
    """

    def __init__(self, recipe: Recipe, ranks: Ranks | None = None, steps_per_epoch: int = 1) -> None:
        self.recipe, self.ranks = recipe, ranks or OneProcess()
        self.steps_per_epoch = steps_per_epoch
        self.device = self.ranks.device(recipe.training.device)
        torch.manual_seed(recipe.seed)
        model = Bert4Rec(recipe.model, recipe.n_tokens, recipe.max_length, sparse_table=recipe.is_sampled)
        self.model = model.to(self.device)
        if recipe.training.compile:
            compile_encoder(self.model)
        if recipe.is_sampled:
            for table in self.model.table_parameters():
                table.register_hook(_one_row_per_token)
        self.optimizers = build_optimizers(self.model, recipe.training)
        self.ranks.broadcast(self.model)
        self.n_steps = 0

    def step(self, batches: Sequence[NDArray[np.integer]]) -> StepSums:
        """Hide tokens of the batches (each [B, L], left-padded) and update the model by all of them."""
        recipe = self.recipe
        torch.manual_seed(self._seed(0))
        generator = torch.Generator().manual_seed(self._seed(1))
        masked = [self._hide(torch.as_tensor(batch, dtype=torch.int64), generator) for batch in batches]
        n_negatives = recipe.loss.n_negatives
        negatives = draw_negatives(recipe.n_tokens, n_negatives, generator) if recipe.is_sampled else None
        return self.update(masked, negatives)

    def update(self, masked: Sequence[MaskedBatch], negatives: Tensor | None) -> StepSums:
        """Update the model by masked batches, all compared with the same negatives (int64 [K]).

        Every hidden position of all batches and ranks counts the same, however many a rank has.
        """
        for optimizer in self.optimizers:
            optimizer.zero_grad()
        hidden = [hidden_batch(batch) for batch in masked]
        n_positions = sum(len(batch.labels) for batch in hidden)
        n_everywhere = cache(self.ranks.begin_sum([n_positions]))  # comes while the loss is computed
        negatives = None if negatives is None else negatives.to(self.device)
        loss = torch.zeros((), device=self.device)
        for batch in hidden:
            batch_loss = self._loss(batch, negatives)
            (batch_loss / n_everywhere()[0]).backward()
            loss += batch_loss.detach()
        self._apply_gradients()
        return StepSums(loss, n_positions)

    def _hide(self, token_ids: Tensor, generator: torch.Generator) -> MaskedBatch:
        if self.model.is_causal:
            return shift_tokens(token_ids)
        return mask_tokens(token_ids, self.recipe.n_tokens, self.recipe.masking, generator)

    def _loss(self, batch: HiddenBatch, negatives: Tensor | None) -> Tensor:
        is_half = self.recipe.training.precision == "bfloat16"
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=is_half):
            return hidden_loss(self.model, batch.to(self.device), negatives, self.recipe.loss)

    def _apply_gradients(self) -> None:
        training = self.recipe.training
        set_learning_rate(self.optimizers, learning_rate(training, self.n_steps, self.steps_per_epoch))
        self.ranks.sum_gradients(self.model.parameters())
        dense = [p for p in self.model.parameters() if p.grad is not None and not p.grad.is_sparse]
        torch.nn.utils.clip_grad_norm_(dense, training.clip_norm)
        for optimizer in self.optimizers:
            optimizer.step()
        self.n_steps += 1

    def _seed(self, use: int) -> int:
        return mix_seed(self.recipe.seed, self.n_steps, self.ranks.rank, use)


def compile_encoder(model: Bert4Rec) -> None:
    """Have ``encode_at`` compiled when it is first called, but for the look-up in a table of sparse gradients.

    The compiler knows none of these: a graph that held the look-up would run as it is, after a page of warnings.
    """
    if model.has_sparse_table:
        model.item_table.vectors = torch.compiler.disable(model.item_table.vectors)  # type: ignore[method-assign]
    model.encode_at = torch.compile(model.encode_at)  # type: ignore[method-assign]


def mix_seed(*parts: int) -> int:
    """One 63-bit seed from several numbers; different numbers give unrelated streams."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> np.uint64(1))


def _one_row_per_token(gradient: Tensor) -> Tensor:
    """A token met often in a batch is one row of the gradient, before it is sent to other ranks."""
    return gradient.coalesce() if gradient.is_sparse else gradient
