"""Torch frees a CPU tensor's memory by glibc's ``free``, which hands large blocks back to the kernel at once.

Upstream: https://github.com/pytorch/pytorch/pull/55675 would have given torch an allocator of its own; it was closed.
Ends with: no version of torch yet.
"""

import ctypes
import sys

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3
"""Names of glibc's ``mallopt`` (malloc.h)."""
KEPT_BYTES = 2**30


def keep_freed_memory() -> bool:
    """Have glibc keep up to 1 GiB of freed memory for the next tensors; whether it could be asked to.

    By default each step of training has the same pages faulted in and zeroed anew. Call it before the first large
    tensor is made. Other C libraries are left as they are.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    # blocks above the first are mapped and unmapped each time, whatever the heap keeps; the last lets the heap grow
    # in large pieces, so that the kernel is asked seldom
    options = (M_MMAP_THRESHOLD, KEPT_BYTES), (M_TRIM_THRESHOLD, KEPT_BYTES), (M_TOP_PAD, KEPT_BYTES // 16)
    # a list, not a generator: each is set, also where the one before it was refused
    return all([mallopt(option, value) == 1 for option, value in options])
