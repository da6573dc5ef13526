from typing import Any

import pytest
import torch

from ml.models.precision import uses_bfloat16


@pytest.mark.parametrize(
    ("precision", "device", "capability", "expected"),
    [
        ("auto", "cpu", None, False),
        ("auto", "cuda", (7, 5), False),  # a T4 would compute the products in float32
        ("auto", "cuda", (8, 0), True),
        ("float32", "cuda", (9, 0), False),
        ("bfloat16", "cpu", None, True),
    ],
)
def test_products_are_rounded_where_a_gpu_gains_by_it(
    monkeypatch: pytest.MonkeyPatch, precision: Any, device: str, capability: tuple[int, int] | None, expected: bool
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    assert uses_bfloat16(precision, torch.device(device)) is expected
