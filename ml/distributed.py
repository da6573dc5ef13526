"""The one place that talks to Horovod; the training loop sees ``Ranks`` and also runs in one process without it."""

from collections.abc import Iterable
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim import Optimizer

NamedParameters = Iterable[tuple[str, nn.Parameter]]


class Ranks(Protocol):
    """The processes that train one model together, seen from one of them.

    Attributes
    ----------
    rank : this process, 0 <= rank < world_size; rank 0 writes
    world_size : how many there are
    """

    rank: int
    world_size: int

    def distribute(self, optimizer: Optimizer, parameters: NamedParameters) -> Any:
        """An optimiser whose ``reduce_gradients`` sums the gradients over the ranks."""

    def broadcast(self, model: nn.Module, optimizers: Iterable[Any]) -> None:
        """Give every rank the parameters and optimiser state of rank 0."""

    def sum(self, values: Iterable[float]) -> NDArray[np.float64]:
        """The element-wise sum over the ranks, float64 [n]; all ranks must call it with as many values."""


class OneProcess:
    """No other rank: what Horovod would do is already true."""

    rank = 0
    world_size = 1

    def distribute(self, optimizer: Optimizer, parameters: NamedParameters) -> Any:
        """The optimiser itself."""
        return optimizer

    def broadcast(self, model: nn.Module, optimizers: Iterable[Any]) -> None:
        """Nothing to do."""

    def sum(self, values: Iterable[float]) -> NDArray[np.float64]:
        """The values themselves."""
        return np.array(list(values), np.float64)


class HorovodRanks:
    """Ranks started by ``horovod.spark.run``; making one joins the group."""

    def __init__(self) -> None:
        import horovod.torch as hvd

        hvd.init()
        self._hvd = hvd
        self.rank: int = hvd.rank()
        self.world_size: int = hvd.size()

    def distribute(self, optimizer: Optimizer, parameters: NamedParameters) -> Any:
        """Horovod's optimiser: gradients are summed as they appear, sparse ones by exchanging only their rows."""
        return self._hvd.DistributedOptimizer(optimizer, named_parameters=list(parameters), op=self._hvd.Sum)

    def broadcast(self, model: nn.Module, optimizers: Iterable[Any]) -> None:
        """Parameters always; optimiser state where there is some.

        To broadcast a fresh optimiser Horovod first takes a step on zero gradients: that decays the weights and
        counts in Adam's bias correction, so the ranks would not train as one process does.
        """
        for optimizer in optimizers:
            if optimizer.state_dict()["state"]:
                self._hvd.broadcast_optimizer_state(optimizer, root_rank=0)
        self._hvd.broadcast_parameters(model.state_dict(), root_rank=0)

    def sum(self, values: Iterable[float]) -> NDArray[np.float64]:
        """Horovod's allreduce of float64 numbers."""
        local: Tensor = torch.tensor(list(values), dtype=torch.float64)
        total: NDArray[np.float64] = self._hvd.allreduce(local, op=self._hvd.Sum, name="sum").numpy()
        return total


def reduce_gradients(optimizer: Any) -> None:
    """Wait until the gradients are summed over all ranks, so that they can be clipped before the step."""
    if hasattr(optimizer, "synchronize"):
        optimizer.synchronize()


def step(optimizer: Any) -> None:
    """Apply gradients that ``reduce_gradients`` has already summed."""
    if hasattr(optimizer, "skip_synchronize"):
        with optimizer.skip_synchronize():
            optimizer.step()
    else:
        optimizer.step()
