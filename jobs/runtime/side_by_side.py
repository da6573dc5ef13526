"""Work that Spark does at once: small jobs mostly wait for the driver, and several wait side by side."""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import TypeVar

from pyspark import inheritable_thread_target

S = TypeVar("S")
T = TypeVar("T")


def map_side_by_side(function: Callable[[S], T], values: Iterable[S]) -> list[T]:
    """The function of each value, in order; each call may start Spark jobs and has a thread of its own.

    Threads see the job description and the running stage of the caller. Where one fails, the others end first.
    """
    values = list(values)
    with ThreadPoolExecutor(max(1, len(values))) as pool:
        # a context can be entered once: each thread gets a copy
        futures = [pool.submit(copy_context().run, inheritable_thread_target(function), value) for value in values]
    return [future.result() for future in futures]
