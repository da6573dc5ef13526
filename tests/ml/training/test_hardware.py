"""What the machine has used."""

import weakref

import pytest
import torch

from ml.training.hardware import forget_gpu_peak, free_gpu


def test_only_a_gpus_peak_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    forgotten: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", forgotten.append)
    for name in ("cpu", "cuda:1"):
        forget_gpu_peak(torch.device(name))
    assert forgotten == [torch.device("cuda:1")]


def test_a_finished_model_that_holds_itself_is_freed_before_the_gpus_memory_is_given_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = torch.nn.Linear(1, 1)
    model.itself = [model]
    finished, found = weakref.ref(model), []
    del model
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: found.append(finished()))
    free_gpu()
    assert found == []
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    free_gpu()
    assert found == [None]
