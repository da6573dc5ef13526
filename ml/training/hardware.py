"""What the machine holds and can do."""

import gc
import resource
import sys
import time
from collections.abc import Callable

import torch

GIB = 2**30
PRODUCT_SIZE = {"cpu": 2048, "cuda": 8192}


def peak_memory(device: torch.device) -> dict[str, float]:
    """The most memory, GiB: this process' so far, and what torch reserved on its GPU since ``forget_gpu_peak``."""
    unit = 1 if sys.platform == "darwin" else 1024  # bytes in which getrusage counts memory
    figures = {"memory/peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / GIB}
    if device.type == "cuda":
        # allocated memory would leave out what recorded graphs hold
        figures["memory/gpu_peak_gib"] = torch.cuda.max_memory_reserved(device) / GIB
    return figures


def forget_gpu_peak(device: torch.device) -> None:
    """Count ``memory/gpu_peak_gib`` anew; the peak of the whole process cannot be forgotten."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def free_gpu() -> None:
    """Give back what finished models hold on the GPU: recorded graphs, and cycles until Python collects them."""
    if torch.cuda.is_initialized():
        torch._dynamo.reset()
        gc.collect()
        torch.cuda.empty_cache()


def timed(device: torch.device, work: Callable[[], object]) -> float:
    """Seconds that the work takes, the GPU's part included."""
    _wait_for(device)
    started = time.perf_counter()
    work()
    _wait_for(device)
    return time.perf_counter() - started


def product_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Floating point operations per second of a large square matrix product."""
    size, n_times = PRODUCT_SIZE[device.type], 10
    left, right = torch.randn(2, size, size, device=device, dtype=dtype)
    left @ right  # not timed: the first product also loads the library
    seconds = timed(device, lambda: [left @ right for _ in range(n_times)])
    return n_times * 2 * size**3 / seconds


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
