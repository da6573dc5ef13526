"""Which device a Spark task may work on: no two tasks of a host share a GPU, unless Spark is configured to share it."""

import errno
import os
import socket
import time

import torch
from pyspark import TaskContext

from schemas.errors import ConfigError

WAIT_SECONDS = 0.5

_locks: dict[str, socket.socket] = {}
"""Device -> lock of the GPU that this process took; at most one."""


def task_device() -> str:
    """``cuda:<number>`` of the task's own GPU, or ``cpu`` where there is none.

    Where Spark assigns GPUs to tasks (``spark.task.resource.gpu.amount``), the one that it assigned. Where it does not,
    as in local mode, the first that no other process of this host has taken so; a task waits until one is free. It is
    this process' until ``release_device``, or until it ends.

    Raises
    ------
    ConfigError
        If Spark assigned a GPU that PyTorch does not see.
    """
    n_gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if not n_gpus:
        return "cpu"
    context = TaskContext.get()
    assigned = context.resources().get("gpu") if context else None
    if assigned:
        address = assigned.addresses[0]
        if not address.isdecimal() or int(address) >= n_gpus:
            raise ConfigError(
                f"expected Spark to assign GPUs by number, 0 to {n_gpus - 1} here, found {address!r} on "
                f"{socket.gethostname()}; check the script of spark.worker.resource.gpu.discoveryScript"
            )
        return f"cuda:{address}"
    # not where an earlier call has taken one: it is this process' until it is released
    while not _locks:
        for number in range(n_gpus):
            if lock := _lock(number):
                _locks[f"cuda:{number}"] = lock
                break
        else:
            time.sleep(WAIT_SECONDS)
    return next(iter(_locks))


def release_device() -> None:
    """Let another process have the GPU that this one took, with its memory; Spark's workers outlive their tasks."""
    torch.cuda.empty_cache()  # nothing where CUDA was never started
    while _locks:
        _locks.popitem()[1].close()


def _lock(number: int) -> socket.socket | None:
    """A lock of one GPU, None where another process has it.

    A name among the kernel's sockets is free again when its process ends, however it does, and is no file that another
    user may own. It is of the GPU itself: processes may see different ones as their first.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    gpu = visible.split(",")[number].strip() if visible else number
    lock = socket.socket(socket.AF_UNIX)
    try:
        lock.bind(f"\0ubp-gpu-{gpu}")  # the leading zero byte: an abstract name, that needs no file
    except OSError as error:
        lock.close()
        if error.errno != errno.EADDRINUSE:
            raise
        return None
    return lock
