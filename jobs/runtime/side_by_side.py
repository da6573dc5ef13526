"""Work that Spark does at once: small jobs mostly wait for the driver, and several wait side by side."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import TypeVar

from pyspark import inheritable_thread_target

T = TypeVar("T")


def run_side_by_side(works: Sequence[Callable[[], T]]) -> list[T]:
    """The results of functions that start Spark jobs, in the functions' order; each runs in a thread of its own.

    Threads see the job description and the running stage of the caller. Where one fails, the others end first.
    """
    with ThreadPoolExecutor(max(1, len(works))) as pool:
        # a context can be entered once: each thread gets a copy
        futures = [pool.submit(copy_context().run, inheritable_thread_target(work)) for work in works]
    return [future.result() for future in futures]
