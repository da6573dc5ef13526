"""Dense all-action: from random positions, any of the events that follow soon (PinnerFormer).

Pancha et al. 2022, arXiv:2205.04507, section 3.3.
"""

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from ml.data.segments import positions_from_newest, run_ends, sequence_numbers
from ml.data.sequence_batch import SECONDS_PER_DAY, SequenceBatch
from ml.objectives.item_prediction import predict_tokens
from ml.objectives.next_item import NextItem, moved_right
from ml.objectives.protocol import TrainingBatch

BEYOND_ANY_TIME = 2**40
"""Seconds, more than any time since 1970 and any horizon."""


class AllAction(NextItem):
    """For causal encoders; validated as ``next_item`` is. A vector then stands for what a client does over some time.

    The published loss is a sampled softmax with corrected in-batch and random negatives: ``loss.name: sampled``, with
    ``similarity: cosine`` and ``learn_temperature``.
    """

    def prepare(self, batch: SequenceBatch[Tensor], generator: torch.Generator, most_targets: int = 0) -> TrainingBatch:
        """Random positions of each sequence, with one of the events that follow each as its target.

        Those are the events of the next ``all_action.days`` where the batch has timestamps, and otherwise the next
        ``all_action.events``; where there are none, the next event. Sequences move one position to the right, as for
        ``next_item``, so that the position of the newest event, which inference reads, is trained.
        """
        token_ids, n_after = batch.token_ids, positions_from_newest(sequence_numbers(batch))
        chosen, offsets = (torch.rand(token_ids.shape, generator=generator, device=generator.device) for _ in range(2))
        is_chosen = lowest_of_sequences(chosen, n_after > 0, batch, self.settings.all_action.positions)
        n_soon = self._count_soon(batch, n_after)
        ahead = torch.minimum(1 + (offsets * n_soon).long(), n_soon)
        # past the end only at positions that are not chosen
        positives = (batch_index(token_ids) + ahead).clamp(max=token_ids.shape[1] - 1)
        # a chosen event is never the last of its sequence: it moves within
        is_chosen, labels = (F.pad(x[:, :-1], (1, 0)) for x in (is_chosen, token_ids.gather(1, positives)))
        prepared = predict_tokens(moved_right(batch), labels, is_chosen, most_targets)
        return self.with_negatives(prepared, batch, generator)

    def most_targets(self, lengths: NDArray[np.integer], n_positions: int) -> int:
        """So many positions of each sequence as the settings say, or all but its last."""
        chosen = np.minimum(lengths - 1, self.settings.all_action.positions)
        return int(chosen.sum())

    def _count_soon(self, batch: SequenceBatch[Tensor], n_after: Tensor) -> Tensor:
        """Int64 [B, L], how many events follow each one soon; at least 1."""
        if batch.timestamps is None:
            return n_after.clamp(1, self.settings.all_action.events)
        # within a sequence times rise; those of the next in a row come after any horizon
        number = F.pad(run_ends(sequence_numbers(batch))[:, :-1].long().cumsum(dim=1), (1, 0))
        times = (batch.timestamps + number * BEYOND_ANY_TIME).contiguous()
        n_until = torch.searchsorted(times, times + self.settings.all_action.days * SECONDS_PER_DAY, right=True)
        return (n_until - 1 - batch_index(times)).clamp(min=1)


def batch_index(column: Tensor) -> Tensor:
    """Int64 [B, L], the position of each element in its row."""
    return torch.arange(column.shape[1], device=column.device).expand_as(column)


def lowest_of_sequences(draws: Tensor, may_be: Tensor, batch: SequenceBatch[Tensor], n: int) -> Tensor:
    """Bool [B, L], where the n lowest draws (float [B, L], 0 to 1) of each sequence are that ``may_be``, or fewer."""
    shape, nowhere = draws.shape, draws.numel() + 1
    rows = torch.arange(1, 1 + shape[0], device=draws.device).unsqueeze(1)
    numbers = torch.where(may_be, rows if batch.segments is None else batch.segments, nowhere).flatten()
    # the sequence before the point, the draw behind it: one sort orders the draws of all sequences
    order = (numbers + draws.flatten().double()).argsort()
    of_order, index = numbers[order], torch.arange(len(order), device=order.device)
    is_first = torch.cat([torch.ones_like(of_order[:1], dtype=torch.bool), of_order[1:] != of_order[:-1]])
    rank = index - torch.where(is_first, index, 0).cummax(dim=0).values
    return may_be & torch.empty_like(rank).scatter_(0, order, rank).view(shape).lt(n)
