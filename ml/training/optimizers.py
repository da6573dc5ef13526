"""How weights are updated: AdamW for matrices, row-wise Adam for sparse tables, and the learning rate."""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from conf.training import TrainingSettings
from ml.models.protocol import SequenceEncoder


class RowAdam(Optimizer):
    """Adam (Kingma and Ba 2015) for tables whose gradients are sparse; a step touches the rows of its batch only.

    A row's second moment is one number, the mean over its columns (as in FBGEMM's partial row-wise Adam), so the
    state is one table, not two. Each row counts its own steps: a row met for the first time late in training starts
    as it would have at the beginning. A common count would make its first step (1 - beta1) / sqrt(1 - beta2) = 3.2
    times too long. A row that is not in a batch keeps its weights: no momentum moves it.

    Parameters
    ----------
    parameters : float [V, D] each, with sparse gradients
    """

    beta1, beta2, eps = 0.9, 0.999, 1e-8
    """Adam's own: decay of the first and the second moment, per step of the row; and what keeps 0 out of a divisor."""

    def __init__(self, parameters: Iterable[Any], lr: float = 1e-3) -> None:
        super().__init__(parameters, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update the rows that have a gradient."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    gradient = parameter.grad.coalesce()
                    self.update(parameter, gradient.indices()[0], gradient.values())

    @torch.no_grad()
    def update(self, table: Tensor, rows: Tensor, gradient: Tensor, skips_zeros: bool = False) -> None:
        """Update some rows of a table.

        Parameters
        ----------
        rows : int64 [R], each once
        gradient : float [R, D]
        skips_zeros : leave rows alone whose gradient is 0; they may come several times
        """
        (group,) = self.param_groups
        state: dict[str, Tensor] = self.state[table]
        if not state:
            state["mean"] = torch.zeros_like(table)
            state["square"] = table.new_zeros(len(table), 1)
            state["n_steps"] = table.new_zeros(len(table), 1)
        before = {name: values.index_select(0, rows) for name, values in state.items()}
        n_steps = before["n_steps"] + 1  # [R, 1]
        mean = before["mean"].lerp(gradient, 1 - self.beta1)  # [R, D]
        square = before["square"].lerp(gradient.square().mean(1, keepdim=True), 1 - self.beta2)
        spread = (square / (1 - self.beta2**n_steps)).sqrt_().add_(self.eps)  # [R, 1]
        change = mean / (spread * (1 - self.beta1**n_steps))
        after = {"n_steps": n_steps, "mean": mean, "square": square}
        if skips_zeros:
            # by where, not by a choice of rows: to know their number is to wait for the device
            is_used = (gradient != 0).any(dim=1, keepdim=True)  # [R, 1]
            change = torch.where(is_used, change, 0.0)
            after = {name: torch.where(is_used, values, before[name]) for name, values in after.items()}
        for name, values in after.items():
            state[name].index_copy_(0, rows, values)
        table.index_add_(0, rows, change, alpha=-group["lr"])


def build_optimizers(encoder: SequenceEncoder, settings: TrainingSettings) -> list[Optimizer]:
    """AdamW for the dense parameters, and for the tables too unless their gradients are sparse: then RowAdam.

    Weights decay on matrices only: decay on an item's row would pull it to zero at every step in which the
    item does not even occur.
    """
    decaying = {id(parameter) for parameter in encoder.decaying_parameters()}
    tables = {id(parameter) for parameter in encoder.row_parameters()} if encoder.has_sparse_tables else set()
    dense = [p for p in encoder.parameters() if id(p) not in tables]
    sparse = [p for p in encoder.parameters() if id(p) in tables]
    groups = [
        {"params": [p for p in dense if id(p) in decaying], "weight_decay": settings.weight_decay},
        {"params": [p for p in dense if id(p) not in decaying], "weight_decay": 0.0},
    ]
    # one kernel for all parameters; on a CPU it gains models of the demo's size a tenth, the paper's nothing
    optimizers: list[Optimizer] = [torch.optim.AdamW(groups, fused=True if encoder.device.type == "cuda" else None)]
    if sparse:
        optimizers.append(RowAdam(sparse))
    return optimizers


def learning_rate(settings: TrainingSettings, step: int, steps_per_epoch: int) -> float:
    """The rate of a step, counted from 0: a straight rise, then one fall per epoch or half a cosine to the end."""
    # plus one, so that the first step has a rate and the last of the warmup is not yet the full one
    rise = min(1.0, (step + 1) / (settings.warmup_steps + 1))
    if settings.decay == "step":
        fall = settings.decay_factor ** (step // steps_per_epoch)
    else:
        n_falling = max(1, settings.epochs * steps_per_epoch - settings.warmup_steps)
        done = min(1.0, max(0, step - settings.warmup_steps) / n_falling)
        fall = (1 + math.cos(math.pi * done)) / 2
    return settings.learning_rate * rise * fall
