"""What the machine has used."""

import pytest
import torch

from ml.training.hardware import forget_gpu_peak


def test_only_a_gpus_peak_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    forgotten: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", forgotten.append)
    for name in ("cpu", "cuda:1"):
        forget_gpu_peak(torch.device(name))
    assert forgotten == [torch.device("cuda:1")]
