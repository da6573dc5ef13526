"""What ranks exchange: torch.distributed in two processes, and the packing of rows."""

import multiprocessing
import os
import socket
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from ml.training.distributed import (
    Ranks,
    TorchRanks,
    buckets,
    pack_rows,
    unpack_rows,
)
from schemas.errors import TrainingError


def sparse(rows: list[int], values: list[list[float]], shape: tuple[int, int]) -> torch.Tensor:
    return torch.sparse_coo_tensor(
        torch.tensor([rows]), torch.tensor(values, dtype=torch.float32).reshape(len(rows), shape[1]), shape
    )


def test_rows_of_all_ranks_come_out_of_the_packed_tensors_as_they_went_in() -> None:
    shapes = [(5, 2), (5, 1)]
    first = [sparse([3, 0, 3], [[1, 2], [3, 4], [10, 20]], shapes[0]), sparse([4], [[7]], shapes[1])]
    second = [sparse([], [], shapes[0]), sparse([1, 4], [[1], [2]], shapes[1])]
    together = torch.cat([pack_rows(first), pack_rows(second)])
    sums = unpack_rows(together, [torch.Size(shape) for shape in shapes], 2)
    for total, one, other in zip(sums, first, second, strict=True):
        assert torch.equal(total.to_dense(), one.to_dense() + other.to_dense())


def test_buckets_keep_the_order_and_a_large_gradient_is_alone() -> None:
    gradients = [torch.zeros(n) for n in (1, 2, 50, 1, 1, 2)]
    assert [[len(g) for g in bucket] for bucket in buckets(gradients, limit=16)] == [[1, 2], [50], [1, 1, 2]]


def exchange(rank: int, port: int) -> dict[str, Any]:
    """What one of two ranks holds after each kind of exchange."""
    torch.set_num_threads(1)
    environment = {"RANK": rank, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in environment.items()})
    ranks = TorchRanks(timeout_seconds=60)
    model = nn.ModuleDict({"table": nn.Embedding(6, 2, sparse=True), "layer": nn.Linear(2, 3)})
    for parameter in model.parameters():
        nn.init.constant_(parameter, rank + 1.0)
    model.register_buffer("codes", torch.full((3,), rank + 1, dtype=torch.int16))
    ranks.broadcast(model)
    table, layer = model["table"], model["layer"]
    ids = torch.tensor([[1, 1], [1, 2, 5]][rank])
    (layer(table(ids)).sum() * (rank + 1)).backward()
    own = {name: parameter.grad.to_dense().clone() for name, parameter in model.named_parameters()}
    finish_sum = ranks.begin_sum([rank, 0.5])
    ranks.sum_gradients(model.parameters())
    summed = {name: parameter.grad.to_dense() for name, parameter in model.named_parameters()}
    total = finish_sum()
    weights = [tensor.numpy() for tensor in model.state_dict().values()]
    ranks.close()
    return {
        "own": {name: gradient.numpy() for name, gradient in own.items()},
        "summed": {name: gradient.numpy() for name, gradient in summed.items()},
        "total": total,
        "weights": weights,
    }


def test_two_torch_ranks_sum_gradients_and_numbers_and_begin_with_rank_0s_weights() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
        both = list(pool.map(exchange, range(2), [port] * 2))
    for rank in both:
        assert all((weights == 1.0).all() for weights in rank["weights"])
        np.testing.assert_array_equal(rank["total"], [1.0, 1.0])
        for name, gradient in rank["summed"].items():
            np.testing.assert_array_equal(gradient, both[0]["own"][name] + both[1]["own"][name], err_msg=name)
    assert not np.array_equal(both[0]["own"]["table.weight"], both[0]["summed"]["table.weight"])


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_named_in_the_message() -> None:
    assert Ranks().device("auto") == Ranks().device("cpu") == torch.device("cpu")
    with pytest.raises(TrainingError, match="found none that this process may use"):
        Ranks().device("cuda")


@pytest.mark.parametrize(
    ("wanted", "can_exchange", "device"), [("auto", True, "cuda:1"), ("auto", False, "cpu"), ("cuda", False, "cuda:1")]
)
def test_ranks_of_one_host_share_its_gpus(
    monkeypatch: pytest.MonkeyPatch, wanted: str, can_exchange: bool, device: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    current = [torch.device("cpu")]
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    ranks = Ranks()
    ranks.local_rank, ranks.exchanges_on_gpus = 3, can_exchange
    assert ranks.device(wanted) == torch.device(device) == current[-1]
