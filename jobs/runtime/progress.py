"""Progress of long work: a bar on a terminal, plain log lines elsewhere."""

import contextlib
import itertools
import json
import logging
import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

if TYPE_CHECKING:
    from pyspark import SparkContext

log = logging.getLogger(__name__)

LONG_EPOCH_SECONDS = 30.0


def is_terminal() -> bool:
    """Whether somebody may be watching."""
    return sys.stderr.isatty()


@contextlib.contextmanager
def spark_progress(context: "SparkContext", title: str) -> Iterator[None]:
    """Show finished and known tasks of the running Spark stages until the block ends.

    The job description is set to ``title`` too, so that the Spark UI tells stages apart.
    """
    context.setJobDescription(title)
    if not is_terminal():
        yield
        return
    tracker = context.statusTracker()
    with logging_redirect_tqdm(), tqdm(desc=title, unit=" tasks", leave=False, dynamic_ncols=True) as bar:

        def draw() -> None:
            infos = [tracker.getStageInfo(stage) for stage in tracker.getActiveStageIds()]
            bar.total = sum(info.numTasks for info in infos if info)
            bar.n = sum(info.numCompletedTasks for info in infos if info)
            bar.refresh()

        with _repeated(draw):
            yield


@contextlib.contextmanager
def training_progress(metrics: Path) -> Iterator[None]:
    """Follow the figures that rank 0 appends to ``metrics.jsonl``: a bar of steps, and a line per epoch."""
    # followed before rank 0 has written to it
    metrics.touch()
    bars: dict[str, tqdm] = {}
    terminal = sys.stderr if is_terminal() else None  # the launcher of the ranks may send stderr elsewhere meanwhile

    def show(values: dict[str, Any]) -> None:
        encoder = str(values.get("behaviour"))
        if "train/loss" in values and terminal:
            if encoder not in bars:
                bars[encoder] = tqdm(desc=encoder, total=values["steps"], leave=False, unit=" steps", file=terminal)
            bars[encoder].n = values["step"]
            bars[encoder].set_postfix(loss=f"{values['train/loss']:.3f}")
        if "validation/ndcg@10" in values:
            log.info(
                "  %s: epoch %d, validation NDCG@10 %.4f, HR@10 %.4f",
                *(encoder, values["epoch"], values["validation/ndcg@10"], values["validation/hr@10"]),
            )

    with _followed(metrics, show):
        yield
    for bar in bars.values():
        bar.close()


@contextlib.contextmanager
def probe_progress(epochs: Path, n_epochs: int) -> Iterator[None]:
    """Follow the epochs that the probe's units append to a file: a bar, and a line for each that took long.

    Parameters
    ----------
    epochs : a JSON object a line: ``unit``, ``epoch``, ``epochs``, ``score``, ``seconds``; emptied first
    n_epochs : of all units
    """
    epochs.write_text("")
    # disable=None: no bar where nobody watches
    with tqdm(desc="probe", total=n_epochs, unit=" epochs", leave=False, disable=None) as bar:

        def show(values: dict[str, Any]) -> None:
            bar.update()
            if values["seconds"] >= LONG_EPOCH_SECONDS:
                log.info("  %(unit)s: epoch %(epoch)d of %(epochs)d, %(score).4f (%(seconds).0f s)", values)

        with _followed(epochs, show):
            yield


def parse_line(line: str | bytes) -> dict[str, Any] | None:
    """The figures of a line; None where a killed run, or a full disk, left a part of one."""
    try:
        values = json.loads(line)
    except ValueError:
        return None
    return values if isinstance(values, dict) else None


@contextlib.contextmanager
def _followed(path: Path, show: Callable[[dict[str, Any]], None]) -> Iterator[None]:
    """Call ``show`` with each line of figures that others append to a file until the block ends.

    A working copy puts another file in its place, with lines of other machines before its own newest ones. Of that
    file, the lines are shown that the former one did not have.
    """
    stream = path.open()
    stream.seek(0, os.SEEK_END)  # only what comes from now on

    def follow() -> None:
        nonlocal stream
        newest = None
        with contextlib.suppress(FileNotFoundError):  # of a file that is gone, the rest is shown
            newest = path.open()
        show_all(stream)
        if newest and os.path.samestat(os.fstat(newest.fileno()), os.fstat(stream.fileno())):
            newest.close()
        elif newest:
            with stream as former:
                stream = newest
                former.seek(0)
                show_all(_lines_beyond(former, stream))

    def show_all(lines: Iterable[str]) -> None:
        for line in lines:
            if values := parse_line(line):
                show(values)

    try:
        with _repeated(follow):
            yield
        follow()  # what came after the last look
    finally:
        stream.close()


def _lines_beyond(former: Iterator[str], lines: Iterator[str]) -> Iterator[str]:
    """Those of ``lines`` that ``former`` does not have; both begin alike, so that few are kept in memory."""
    for before, line in zip(former, lines, strict=False):
        if before != line:
            known = {before, *former}
            yield from (each for each in itertools.chain([line], lines) if each not in known)
            return
    yield from lines


@contextlib.contextmanager
def _repeated(action: Callable[[], None]) -> Iterator[None]:
    """Call ``action`` every half second in a thread of its own until the block ends."""
    done = threading.Event()

    def loop() -> None:
        while not done.wait(0.5):
            action()

    thread = threading.Thread(target=loop, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
