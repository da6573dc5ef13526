"""The one place that talks to Horovod; the training loop sees ``Ranks`` and also runs in one process without it."""

import os
from collections.abc import Iterable
from typing import Any, Literal, Protocol

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

    def device(self, wanted: Literal["auto", "cpu", "cuda"]) -> torch.device:
        """Where this rank computes; ``auto`` is a GPU where there is one that the ranks can exchange from."""

    def distribute(self, optimizer: Optimizer, parameters: NamedParameters, batches_per_step: int) -> Any:
        """An optimiser whose ``reduce_gradients`` sums the gradients of so many batches over the ranks."""

    def broadcast(self, model: nn.Module) -> None:
        """Give every rank the parameters of rank 0."""

    def sum(self, values: Iterable[float]) -> NDArray[np.float64]:
        """The element-wise sum over the ranks, float64 [n]; all ranks must call it with as many values."""


class OneProcess:
    """No other rank: what Horovod would do is already true."""

    rank = 0
    world_size = 1

    def device(self, wanted: Literal["auto", "cpu", "cuda"]) -> torch.device:
        """The wanted one."""
        is_there = torch.cuda.is_available()
        return torch.device(wanted if wanted != "auto" else "cuda" if is_there else "cpu")

    def distribute(self, optimizer: Optimizer, parameters: NamedParameters, batches_per_step: int) -> Any:
        """The optimiser itself."""
        return optimizer

    def broadcast(self, model: nn.Module) -> None:
        """Nothing to do."""

    def sum(self, values: Iterable[float]) -> NDArray[np.float64]:
        """The values themselves."""
        return np.array(list(values), np.float64)


class HorovodRanks:
    """Ranks started by ``horovod.spark.run``; making one joins the group."""

    def __init__(self) -> None:
        import horovod.torch as hvd

        _drop_unreadable_settings()
        hvd.init()
        self._hvd = hvd
        self.rank: int = hvd.rank()
        self.world_size: int = hvd.size()

    def device(self, wanted: Literal["auto", "cpu", "cuda"]) -> torch.device:
        """The host's GPU of this rank's local number; ``auto`` asks for one only if Horovod was built for GPUs."""
        use_gpu = wanted == "cuda" or (wanted == "auto" and torch.cuda.is_available() and self._hvd.cuda_built())
        return (
            torch.device("cuda", self._hvd.local_rank() % torch.cuda.device_count()) if use_gpu else torch.device("cpu")
        )

    def distribute(self, optimizer: Optimizer, parameters: NamedParameters, batches_per_step: int) -> Any:
        """Horovod's optimiser: gradients are summed as they appear, sparse ones by exchanging only their rows."""
        return self._hvd.DistributedOptimizer(
            optimizer,
            named_parameters=list(parameters),
            op=self._hvd.Sum,
            backward_passes_per_step=batches_per_step,
        )

    def broadcast(self, model: nn.Module) -> None:
        """Parameters only.

        To broadcast the state of a fresh optimiser Horovod first takes a step on zero gradients: that decays the
        weights and counts in Adam's bias correction, so the ranks would not train as one process does.
        """
        self._hvd.broadcast_parameters(model.state_dict(), root_rank=0)

    def sum(self, values: Iterable[float]) -> NDArray[np.float64]:
        """Horovod's allreduce of float64 numbers."""
        local: Tensor = torch.tensor(list(values), dtype=torch.float64)
        total: NDArray[np.float64] = self._hvd.allreduce(local, op=self._hvd.Sum, name="sum").numpy()
        return total


def _drop_unreadable_settings() -> None:
    """Undo a slip of ``horovod.run`` 0.28.1: what it was not told it passes on as the text "(None,)".

    Horovod reads that as 0: its thread would look for work without a pause, a whole core's worth, and cache nothing.
    """
    for name in ("HOROVOD_CYCLE_TIME", "HOROVOD_CACHE_CAPACITY"):
        if not os.environ.get(name, "0").replace(".", "", 1).isdigit():
            del os.environ[name]


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
