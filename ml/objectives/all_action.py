"""Dense all-action: from random positions, any of the events that follow soon (PinnerFormer).

Pancha et al. 2022, arXiv:2205.04507, section 3.3.
"""

import torch
from torch import Tensor

from ml.data.sequence_batch import SECONDS_PER_DAY, SequenceBatch
from ml.objectives.item_prediction import predict_tokens
from ml.objectives.next_item import NextItem
from ml.objectives.protocol import TrainingBatch
from schemas.tokens import PAD


class AllAction(NextItem):
    """For causal encoders; validated as ``next_item`` is. A vector then stands for what a client does over some time.

    The published loss is a sampled softmax with corrected in-batch and random negatives: ``loss.name: sampled``, with
    ``similarity: cosine`` and ``learn_temperature``.
    """

    takes_packed = False

    def prepare(self, batch: SequenceBatch[Tensor], generator: torch.Generator, most_targets: int = 0) -> TrainingBatch:
        """Random positions of each row, with one of the events that follow each as its target.

        Those are the events of the next ``all_action.days`` where the batch has timestamps, and otherwise the next
        ``all_action.events``; where there are none, the next event.
        """
        token_ids, settings = batch.token_ids, self.settings.all_action
        is_before = (token_ids != PAD) & (batch_index(token_ids) < token_ids.shape[1] - 1)
        draws = torch.rand(token_ids.shape, generator=generator).masked_fill(~is_before, 2.0)
        n_chosen = min(settings.positions, token_ids.shape[1])
        highest = draws.kthvalue(n_chosen, dim=1, keepdim=True).values
        is_chosen = is_before & (draws <= highest)
        n_soon = self._count_soon(batch)
        offsets = 1 + (torch.rand(token_ids.shape, generator=generator) * n_soon).long()
        positives = (batch_index(token_ids) + torch.minimum(offsets, n_soon)).clamp(max=token_ids.shape[1] - 1)
        return self.with_negatives(
            predict_tokens(batch, token_ids.gather(1, positives), is_chosen), token_ids, generator
        )

    def _count_soon(self, batch: SequenceBatch[Tensor]) -> Tensor:
        """Int64 [B, L], how many events follow each one soon; at least 1."""
        n_after = batch.shape[1] - 1 - batch_index(batch.token_ids)
        if batch.timestamps is None:
            return n_after.clamp(1, self.settings.all_action.events)
        times = batch.timestamps.contiguous()
        horizon = times + self.settings.all_action.days * SECONDS_PER_DAY
        n_until = torch.searchsorted(times, horizon, right=True)  # times rise, 0 at PAD
        return (n_until - 1 - batch_index(times)).clamp(min=1)


def batch_index(column: Tensor) -> Tensor:
    """Int64 [B, L], the position of each element in its row."""
    return torch.arange(column.shape[1], device=column.device).expand_as(column)
