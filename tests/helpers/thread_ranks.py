"""Two ranks in one process."""

import threading
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ml.training.distributed import ExchangingRanks


class ThreadRanks(ExchangingRanks):
    """Two ranks that are threads; what one has to give lies in a list that both see."""

    world_size = 2

    def __init__(self, rank: int, given: list[Any], barrier: threading.Barrier) -> None:
        self.rank, self._given, self._barrier = rank, given, barrier

    def _exchange(self, tensor: Tensor) -> list[Tensor]:
        self._given[self.rank] = tensor.clone()
        self._barrier.wait(30)
        both = list(self._given)
        self._barrier.wait(30)
        return both

    def _allreduce(self, tensor: Tensor, name: str) -> Callable[[], object]:
        both = self._exchange(tensor)
        return lambda: tensor.copy_(both[0] + both[1])

    def _allgather(self, tensor: Tensor, name: str) -> Callable[[], Tensor]:
        both = self._exchange(tensor)
        return lambda: torch.cat(both)


def two_ranks() -> list[ThreadRanks]:
    """Both must take part in each exchange, in a thread of its own."""
    given, barrier = [None, None], threading.Barrier(2)
    return [ThreadRanks(rank, given, barrier) for rank in range(2)]
