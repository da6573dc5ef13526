"""Tensors that are written one by one are what the library reads back."""

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from ml.files.tensor_file import write_tensors


def test_the_library_reads_back_every_tensor_and_the_metadata(tmp_path: Path) -> None:
    tensors = {
        "table": torch.randn(5, 3),
        "turned": torch.randn(4, 3).T,
        "codes": torch.arange(7, dtype=torch.uint8),
        "count": torch.tensor(3),
        "category": torch.arange(4, dtype=torch.int32),
        "price": torch.arange(3, dtype=torch.int16),
        "empty": torch.empty(0, 2),
        "exact": torch.randn(2, dtype=torch.float64),
    }
    path = tmp_path / "x.safetensors"
    write_tensors(path, tensors, {"step": "12"})
    read = load_file(path)
    assert read.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert read[name].dtype == tensor.dtype
        assert torch.equal(read[name], tensor), name
    with safe_open(path, framework="pt") as stream:
        assert stream.metadata() == {"step": "12"}


def test_a_type_that_no_model_has_is_refused(tmp_path: Path) -> None:
    with pytest.raises(KeyError):
        write_tensors(tmp_path / "x", {"half": torch.zeros(2, dtype=torch.float16)})
