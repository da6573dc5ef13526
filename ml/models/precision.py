"""The precision that matrix products are computed in."""

from typing import Literal

import torch


def uses_bfloat16(precision: Literal["auto", "float32", "bfloat16"], device: torch.device) -> bool:
    """Whether products on a device are to be rounded to bfloat16; ``auto``: on a GPU that has such products itself."""
    if precision == "auto":
        return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)
    return precision == "bfloat16"
