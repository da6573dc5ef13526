"""Writes safetensors files tensor by tensor; the library's own writer holds a second copy of all of them at once."""

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

DTYPES = {
    torch.float32: "F32",
    torch.float64: "F64",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.uint8: "U8",
}


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write a file that ``safetensors`` reads: the header's length, the header as JSON, the tensors' bytes.

    The format: https://github.com/huggingface/safetensors#format. Memory is needed for one tensor, and only where it is
    on a GPU or not contiguous.

    Raises
    ------
    KeyError
        If a tensor is of a type that no model or optimiser of ours has.
    """
    header: dict[str, object] = {"__metadata__": dict(metadata or {})}
    end = 0
    for name, tensor in tensors.items():
        start, end = end, end + tensor.numel() * tensor.element_size()
        header[name] = {"dtype": DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # aligned, so that tensors can be mapped from the file
    with path.open("wb") as stream:
        stream.write(len(text).to_bytes(8, "little"))
        stream.write(text)
        for tensor in tensors.values():
            # the tensor's own memory: bytes of it would be a copy
            stream.write(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
