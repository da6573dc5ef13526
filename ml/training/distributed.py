"""The one place that talks to Horovod or torch.distributed; the training loop sees ``Ranks``, also in one process."""

import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ml.compat.horovod_environment import fix_horovod_environment
from schemas.errors import TrainingError

BUCKET_BYTES = 64 * 2**20
"""Dense gradients are copied into one tensor up to this size; a larger one is summed where it is."""


class Ranks:
    """The processes that train one model together, seen from one of them; ``Ranks()`` is a process alone.

    Attributes
    ----------
    rank : this process, 0 <= rank < world_size; rank 0 writes
    world_size : how many there are
    local_rank : this process among those of its host
    exchanges_on_gpus : whether gradients on a GPU can be summed over the ranks
    """

    rank = 0
    world_size = 1
    local_rank = 0
    exchanges_on_gpus = True

    def device(self, wanted: Literal["auto", "cpu", "cuda"]) -> torch.device:
        """Where this rank computes; ``auto`` is a GPU where there is one that the ranks can exchange from.

        A GPU becomes CUDA's current one: with several ranks on a host, what names none would take the first.

        Raises
        ------
        TrainingError
            If a GPU is wanted and there is none.
        """
        n_gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if wanted == "cuda" and not n_gpus:
            raise TrainingError(
                "training.device=cuda: expected a GPU, found none that this process may use; give the tasks of the "
                "training stage one (docs/running.md), or set training.device=auto"
            )
        if wanted == "cpu" or not n_gpus or (wanted == "auto" and not self.exchanges_on_gpus):
            return torch.device("cpu")
        # a process that sees its own GPU alone knows it as number 0, whatever its local rank is
        device = torch.device("cuda", self.local_rank % n_gpus)
        torch.cuda.set_device(device)
        return device

    def broadcast(self, model: nn.Module) -> None:
        """Give every rank the parameters of rank 0."""

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace each parameter's gradient by its sum over the ranks.

        All ranks call it with gradients of the same parameters. Of a sparse gradient only its rows are exchanged.
        """

    def begin_sum(self, values: Iterable[float]) -> Callable[[], NDArray[np.float64]]:
        """Begin an element-wise sum over the ranks; what is given back waits for it, float64 [n].

        All ranks must call it with as many values, and wait for one sum before they begin the next.
        """
        return partial(np.array, list(values), np.float64)

    def sum(self, values: Iterable[float]) -> NDArray[np.float64]:
        """``begin_sum``, waited for."""
        return self.begin_sum(values)()


class ExchangingRanks(Ranks, ABC):
    """What several ranks do with a few operations of a library: the same sums in the same order with each library."""

    @abstractmethod
    def _allreduce(self, tensor: Tensor, name: str) -> Callable[[], object]:
        """Begin to sum a contiguous tensor over the ranks, in its place; what is given back waits for the end."""

    @abstractmethod
    def _allgather(self, tensor: Tensor, name: str) -> Callable[[], Tensor]:
        """Begin to put the one-dimensional tensors of all ranks, which may differ in length, one after the other.

        What is given back waits for them.
        """

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """One allreduce of the dense gradients and one allgather of the sparse ones' rows, at once, after backward."""
        used = [(parameter, parameter.grad) for parameter in parameters if parameter.grad is not None]
        # all ranks begin the same exchanges in the same order: torch.distributed pairs them by their order alone
        dense = enumerate(buckets(gradient for _, gradient in used if not gradient.is_sparse))
        finish_dense = [self._begin_bucket(bucket, f"dense.{number}") for number, bucket in dense]
        sparse = [(parameter, gradient) for parameter, gradient in used if gradient.is_sparse]
        if sparse:
            # the rows are unpacked while the dense sums are still on their way
            wait_for_rows = self._allgather(pack_rows(gradient for _, gradient in sparse), "rows")
            sums = unpack_rows(wait_for_rows(), [parameter.shape for parameter, _ in sparse], self.world_size)
            for (parameter, _), total in zip(sparse, sums, strict=True):
                parameter.grad = total
        for finish in finish_dense:
            finish()

    def begin_sum(self, values: Iterable[float]) -> Callable[[], NDArray[np.float64]]:
        """An allreduce of float64 numbers."""
        total = torch.tensor(list(values), dtype=torch.float64)
        wait = self._allreduce(total, "sum")

        def finish() -> NDArray[np.float64]:
            wait()
            return np.asarray(total.numpy())

        return finish

    def _begin_bucket(self, gradients: list[Tensor], name: str) -> Callable[[], object]:
        if len(gradients) == 1 and gradients[0].is_contiguous():
            return self._allreduce(gradients[0], name)
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        wait = self._allreduce(flat, name)

        def finish() -> None:
            wait()
            totals = flat.split([gradient.numel() for gradient in gradients])
            for gradient, total in zip(gradients, totals, strict=True):
                gradient.copy_(total.view_as(gradient))

        return finish


def horovod_has_cuda() -> bool:
    """Whether the Horovod that is installed exchanges from GPUs."""
    import horovod.torch as hvd

    return bool(hvd.cuda_built())


class HorovodRanks(ExchangingRanks):
    """Ranks started by ``horovod.spark.run``; making one joins the group."""

    def __init__(self) -> None:
        import horovod.torch as hvd

        # before init, which reads the environment
        fix_horovod_environment()
        hvd.init()
        self._hvd = hvd
        self.rank, self.world_size, self.local_rank = hvd.rank(), hvd.size(), hvd.local_rank()
        self.exchanges_on_gpus = horovod_has_cuda()

    def broadcast(self, model: nn.Module) -> None:
        """Parameters and buffers."""
        self._hvd.broadcast_parameters(model.state_dict(), root_rank=0)

    def _allreduce(self, tensor: Tensor, name: str) -> Callable[[], object]:
        return partial(self._wait, self._hvd.allreduce_async_(tensor, op=self._hvd.Sum, name=name))

    def _allgather(self, tensor: Tensor, name: str) -> Callable[[], Tensor]:
        return partial(self._wait, self._hvd.allgather_async(tensor, name=name))

    def _wait(self, handle: int) -> Any:
        # synchronize asks without a pause, on a core that the exchange itself needs
        while not self._hvd.poll(handle):
            time.sleep(0.0005)
        return self._hvd.synchronize(handle)


class TorchRanks(ExchangingRanks):
    """Ranks started by Spark's TorchDistributor (or torchrun); making one joins the group.

    Parameters
    ----------
    timeout_seconds : after which an exchange that a rank does not take part in is an error in the others
    """

    def __init__(self, timeout_seconds: float) -> None:
        import torch.distributed as dist

        # both on a GPU: begin_sum exchanges numbers that are on the CPU
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        dist.init_process_group(backend, timeout=timedelta(seconds=timeout_seconds))
        self._dist = dist
        self.rank, self.world_size = dist.get_rank(), dist.get_world_size()
        self.local_rank = int(os.environ.get("LOCAL_RANK", "0"))

    def broadcast(self, model: nn.Module) -> None:
        """Parameters and buffers."""
        for tensor in model.state_dict().values():
            self._dist.broadcast(tensor.view(-1).view(torch.uint8), src=0)  # as bytes: gloo has no 16-bit integers

    def close(self) -> None:
        """Leave the group."""
        self._dist.destroy_process_group()

    def _allreduce(self, tensor: Tensor, name: str) -> Callable[[], object]:
        return self._dist.all_reduce(tensor, async_op=True).wait

    def _allgather(self, tensor: Tensor, name: str) -> Callable[[], Tensor]:
        """By way of tensors of the greatest length: gloo and nccl gather equal ones only."""
        lengths = torch.zeros(self.world_size, dtype=torch.int64, device=tensor.device)
        # each rank fills in its own length, and zeros elsewhere: the sum is all lengths
        lengths[self.rank] = len(tensor)
        self._dist.all_reduce(lengths)
        sizes = lengths.tolist()
        longest = max(sizes)
        gathered = [tensor.new_empty(longest) for _ in sizes]
        work = self._dist.all_gather(gathered, nn.functional.pad(tensor, (0, longest - len(tensor))), async_op=True)

        def wait() -> Tensor:
            work.wait()
            return torch.cat([part[:size] for part, size in zip(gathered, sizes, strict=True)])

        return wait


def buckets(gradients: Iterable[Tensor], limit: int = BUCKET_BYTES) -> Iterator[list[Tensor]]:
    """The gradients in their order, in groups of at most ``limit`` bytes; a larger one is alone."""
    group: list[Tensor] = []
    n_bytes = 0
    for gradient in gradients:
        if group and n_bytes + gradient.nbytes > limit:
            yield group
            group, n_bytes = [], 0
        group.append(gradient)
        n_bytes += gradient.nbytes
    if group:
        yield group


def pack_rows(gradients: Iterable[Tensor]) -> Tensor:
    """Sparse gradients (float32 [V, D] each) as one int32 tensor: their numbers of rows, then indices and values."""
    parts = [gradient.coalesce() for gradient in gradients]
    counts = torch.tensor([part._nnz() for part in parts], device=parts[0].device)
    rows = [tensor for part in parts for tensor in (part.indices()[0], part.values().flatten())]
    # the bits of int64 and float32, not their values: one allgather takes tensors of one type
    return torch.cat([tensor.contiguous().view(torch.int32) for tensor in (counts, *rows)])


def unpack_rows(packed: Tensor, shapes: list[torch.Size], n_ranks: int) -> list[Tensor]:
    """One sparse gradient of each shape, with the rows of all ranks' ``pack_rows``; a row may come several times."""
    indices: list[list[Tensor]] = [[] for _ in shapes]
    values: list[list[Tensor]] = [[] for _ in shapes]
    start = 0

    def take(n: int) -> Tensor:
        nonlocal start
        start += n
        return packed[start - n : start]

    def take_longs(n: int) -> Tensor:
        return take(2 * n).clone().view(torch.int64)  # a view may begin at an address that int64 may not

    for _ in range(n_ranks):
        counts = take_longs(len(shapes)).tolist()
        for number, (count, shape) in enumerate(zip(counts, shapes, strict=True)):
            indices[number].append(take_longs(count))
            values[number].append(take(count * shape[1]).view(torch.float32).view(count, shape[1]))
    return [
        torch.sparse_coo_tensor(torch.cat(rows).unsqueeze(0), torch.cat(vectors), shape)
        for rows, vectors, shape in zip(indices, values, shapes, strict=True)
    ]
