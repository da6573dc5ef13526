"""Starts the ranks of a training on Spark, watches them, and starts them again when they fail."""

import contextlib
import json
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Hashable, Iterator
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any

import torch
from pyspark.sql import SparkSession

import schemas.errors
from conf.training import TrainingSettings
from jobs.runtime.horovod_servers import bound_servers, loopback_interfaces
from jobs.runtime.torch_log_server import bound_log_server
from ml.compat.allocator import keep_freed_memory
from ml.files.notes import Notes, StoreNotes
from ml.files.store import patience
from ml.training.distributed import HorovodRanks, Ranks, TorchRanks, horovod_has_cuda
from ml.training.stall_watch import StallWatch
from schemas.errors import ConfigError, OutputError, PipelineError, TrainingError

log = logging.getLogger(__name__)

RankWork = Callable[..., Any]
"""Called as ``work(ranks, watch, *arguments)`` on every rank; only rank 0's value is used. It travels through Spark's
Python worker, so it holds plain values: the worker would have to import torch to unpickle a class of ``ml``."""

START_SECONDS = 600
"""Longest wait for the first batch: as many task slots as ranks, processes, models."""
GRACE_SECONDS = 30
"""After the time in which a stalled rank ends itself: its end has so long to be noticed before all are given up."""
CHECK_SECONDS = 2
GPUS_PER_TASK = "spark.task.resource.gpu.amount"

SIGN = "alive"
"""Note that rank 0 writes anew while there is progress."""
SIGN_SECONDS = 10.0
"""Least time between two of them, in a store."""
ERROR = "error.json"
"""Note beside it: the error that a rank ended with, if a user can act on it."""


class RanksLostError(Exception):
    """The ranks gave no sign of progress for too long.

    Not a TimeoutError: that is an OSError, which the library code that it interrupts may catch.
    """


def run_ranks(
    spark: SparkSession,
    settings: TrainingSettings,
    work: RankWork,
    arguments: tuple[Any, ...],
    notes: Notes,
    log_file: Path,
    stage: str,
    checkpoints: Path | None = None,
) -> Any:
    """What ``work`` returns on rank 0 of ``count_ranks`` processes, each of them started by a Spark task.

    One rank alone works in this process, without a watch.

    Ranks that die, or give no sign of progress for ``settings.stall_seconds``, are ended and started again, up to
    ``settings.max_restarts`` times; ``work`` goes on from its own checkpoints, or begins anew.

    Parameters
    ----------
    notes : by which driver and ranks know of each other, in a folder that they mount or in a store
    log_file : takes what the ranks print
    stage : the name of the one at work
    checkpoints : folder of those that ``work`` goes on from; None where it keeps none

    Raises
    ------
    PipelineError
        That a rank raised, or the start of them: it would be raised again.
    TrainingError
        If the ranks failed once more than they may.
    """
    n_ranks = count_ranks(spark, settings)
    if n_ranks == 1:
        return _work_here(Ranks(), None, settings, work, arguments)
    launcher = choose_launcher(settings, _gpus_per_task(spark))
    starter = _start_horovod if launcher == "horovod" else _start_torch
    log_file.write_text("")  # emptied once: each start of the ranks adds to it
    for n_failures in range(1, settings.max_restarts + 2):
        _remove_messages(notes)  # of an earlier start
        try:
            call = (work, arguments, notes, settings)
            # what closes servers is not interrupted by the watch
            with ExitStack() as servers, log_file.open("a") as ranks_log, sign_watched(notes, settings.stall_seconds):
                value = starter(spark, n_ranks, settings, stage, call, ranks_log, servers)
            _remove_messages(notes)
            return value
        except PipelineError:  # of the driver itself: it would be raised again
            raise
        except Exception as error:
            _raise_noted(notes)  # the launchers pass on that a rank failed, but not how
            reason = str(error).strip().split("\n")[0][:200] or type(error).__name__
            failure = error  # Python forgets that name when the clause ends
        if n_failures <= settings.max_restarts:
            log.warning(
                "  the ranks failed (%s): starting them again from %s, %d of %d",
                reason,
                *("the last checkpoint" if checkpoints else "the beginning", n_failures, settings.max_restarts),
            )
    kept = f"{stage} keeps no checkpoints: run it again, and it begins anew"
    if checkpoints:
        kept = f"checkpoints are kept in {checkpoints}: run {stage} again to go on from there"
    raise TrainingError(
        f"the ranks failed {n_failures} times (training.max_restarts={settings.max_restarts}), at last: {reason}; "
        f"{log_file} holds what they said; {kept}"
    ) from failure


def choose_launcher(settings: TrainingSettings, gpus_per_task: str) -> str:
    """What starts the ranks: ``horovod`` or ``torch``; warns where they leave this machine's GPU idle.

    ``auto`` is Horovod, unless it is not installed, or was built without CUDA where Spark gives its tasks GPUs.

    Parameters
    ----------
    gpus_per_task : what Spark is configured with, such as ``0.5``

    Raises
    ------
    ConfigError
        If Horovod is asked for and not installed.
    """
    has_horovod, lends_whole = find_spec("horovod") is not None, float(gpus_per_task) >= 1
    if settings.launcher == "horovod" and not has_horovod:
        raise ConfigError(
            "training.launcher=horovod: expected Horovod to be installed, found none; install it, or set "
            "training.launcher=auto"
        )
    launcher = "horovod" if has_horovod and settings.launcher != "torch" else "torch"
    if settings.device != "auto" or not (lends_whole or torch.cuda.is_available()):
        return launcher
    if launcher == "horovod" and horovod_has_cuda():
        return launcher
    if lends_whole and settings.launcher != "horovod":
        return "torch"
    log.warning(
        "  there is a GPU, and the ranks train on CPUs: set training.n_ranks=1, or give each Spark task a GPU of its "
        "own (docs/running.md)"
    )
    return launcher


def count_ranks(spark: SparkSession, settings: TrainingSettings) -> int:
    """How many processes train: ``settings.n_ranks``, or what its ``auto`` is here.

    Raises
    ------
    ConfigError
        If local mode has fewer cores than that: a launcher would wait for them in vain.
    """
    n_ranks = settings.n_ranks
    if n_ranks == 1:  # asks nothing of Spark
        return 1
    context = spark.sparkContext
    is_local, n_slots = str(context.master).startswith("local"), context.defaultParallelism
    if n_ranks == "auto":
        lends_gpus = float(_gpus_per_task(spark)) > 0
        has_own_gpu = settings.device != "cpu" and torch.cuda.is_available() and not lends_gpus
        has_one_core = is_local and n_slots == 1
        return 1 if has_own_gpu or has_one_core else 2
    if is_local and n_ranks > n_slots:
        raise ConfigError(
            f"training.n_ranks={n_ranks} needs as many cores at once, found {n_slots} in {context.master}; "
            f"give --set training.n_ranks={n_slots} or a spark.master with more"
        )
    return n_ranks


def _gpus_per_task(spark: SparkSession) -> str:
    """What Spark is configured to give each task, such as ``0.5``."""
    return spark.sparkContext.getConf().get(GPUS_PER_TASK, "0")


@contextlib.contextmanager
def sign_watched(notes: Notes, stall_seconds: float) -> Iterator[None]:
    """Raise RanksLostError inside the block when the note ``SIGN`` is not written for too long.

    A timer's signal interrupts whatever the main thread waits for. In another thread nothing is watched here: there
    the ranks' own watches must do.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    latest: Hashable | None = None
    deadline = time.monotonic() + START_SECONDS

    def check(*_: object) -> None:
        nonlocal latest, deadline
        # not there yet, or on a mount or store that does not answer for a while
        with contextlib.suppress(OSError, OutputError), patience(0):
            written = notes.identity(SIGN)
            if written not in (None, latest):  # not later: the clocks of hosts differ
                latest, deadline = written, time.monotonic() + stall_seconds + GRACE_SECONDS
        if time.monotonic() > deadline:
            raise RanksLostError(f"no sign of progress for {stall_seconds + GRACE_SECONDS:g} s")

    former = signal.signal(signal.SIGALRM, check)
    signal.setitimer(signal.ITIMER_REAL, CHECK_SECONDS, CHECK_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, former)


def exchange_interfaces(named: tuple[str, ...], master: str) -> tuple[str, ...]:
    """Over which the ranks exchange: those that are named, else in local mode the one that no other host reaches."""
    return named or (loopback_interfaces() if master.startswith("local") else ())


def _start_horovod(
    spark: SparkSession, n_ranks: int, settings: TrainingSettings, stage: str, call: tuple[Any, ...],
    ranks_log: IO[str], servers: ExitStack,
) -> Any:  # fmt: skip
    import horovod.runner.gloo_run
    import horovod.spark

    # Horovod takes SIGINT and SIGTERM for itself and never gives them back: Ctrl-C would look like a failed rank
    horovod.runner.gloo_run.register_shutdown_event = threading.Event
    interfaces = exchange_interfaces(settings.network_interfaces, str(spark.sparkContext.master))
    servers.enter_context(bound_servers(interfaces))
    # the thread in which Horovod waits for the Spark job prints its errors: they belong into the log of the ranks
    with _thread_errors_to(ranks_log), _jobs_described(spark, stage):
        values = horovod.spark.run(
            _on_horovod_rank,
            args=call,
            num_proc=n_ranks,
            use_gloo=True,  # ours is built without MPI
            nics=set(interfaces) or None,
            verbose=0,
            stdout=ranks_log,
            stderr=ranks_log,
        )
    return values[0]


@contextlib.contextmanager
def _jobs_described(spark: SparkSession, description: str) -> Iterator[None]:
    """Have Spark's UI show our description of a job group, not Horovod's ("Horovod Spark Run")."""
    context, set_group = spark.sparkContext, spark.sparkContext.setJobGroup

    def set_described(groupId: str, _: str, interruptOnCancel: bool = False) -> None:  # noqa: N803
        set_group(groupId, description, interruptOnCancel)

    context.setJobGroup = set_described  # type: ignore[method-assign,assignment]
    try:
        yield
    finally:
        context.setJobGroup = set_group  # type: ignore[method-assign]


@contextlib.contextmanager
def _thread_errors_to(stream: IO[str]) -> Iterator[None]:
    former = threading.excepthook
    threading.excepthook = lambda failed: print(f"thread {failed.thread}: {failed.exc_value}", file=stream)
    try:
        yield
    finally:
        threading.excepthook = former


def _start_torch(
    spark: SparkSession, n_ranks: int, settings: TrainingSettings, stage: str, call: tuple[Any, ...],
    ranks_log: IO[str], servers: ExitStack,
) -> Any:  # fmt: skip
    from pyspark.ml.torch.distributor import TorchDistributor

    context = spark.sparkContext
    use_gpu = takes_gpus(settings.device, _gpus_per_task(spark))
    group = f"ubp {stage}"
    context.setJobGroup(group, stage, interruptOnCancel=True)
    servers.enter_context(bound_log_server())
    # PySpark's server prints there what the ranks send
    with contextlib.redirect_stderr(ranks_log):
        try:
            distributor = TorchDistributor(num_processes=n_ranks, local_mode=False, use_gpu=use_gpu)
            interfaces = exchange_interfaces(settings.network_interfaces, str(context.master))
            return distributor.run(_on_torch_rank, interfaces, *call)
        except BaseException:  # RanksLostError and Ctrl-C too: the distributor leaves its tasks running
            context.cancelJobGroup(group)
            raise
        finally:
            # else the later jobs of this thread would be of the group too
            context.setLocalProperty("spark.jobGroup.id", None)  # type: ignore[arg-type]


def takes_gpus(device: str, gpus_per_task: str) -> bool:
    """Whether TorchDistributor is to give each rank a GPU: a whole one, where Spark may lend a task a part of one.

    Parameters
    ----------
    device : of ``TrainingSettings``
    gpus_per_task : what Spark is configured with, such as ``0.5``

    Raises
    ------
    ConfigError
        If GPUs are asked for that it would not give.
    """
    lends_whole = float(gpus_per_task) >= 1
    if device == "cuda" and not lends_whole:
        raise ConfigError(
            f"training.device=cuda with training.launcher=torch needs {GPUS_PER_TASK} of 1 or more, found "
            f"{gpus_per_task}: TorchDistributor gives a rank whole GPUs; set it, or take training.launcher=horovod"
        )
    if device == "auto" and not lends_whole and float(gpus_per_task) > 0:
        log.warning("  %s is %s, and TorchDistributor takes whole GPUs: training on CPUs", GPUS_PER_TASK, gpus_per_task)
    return device != "cpu" and lends_whole


def _on_horovod_rank(work: RankWork, arguments: tuple[Any, ...], notes: Notes, settings: TrainingSettings) -> Any:
    return _watched_work(HorovodRanks(), work, arguments, notes, settings)


def _on_torch_rank(
    interfaces: tuple[str, ...],
    work: RankWork,
    arguments: tuple[Any, ...],
    notes: Notes,
    settings: TrainingSettings,
) -> Any:
    if interfaces:
        os.environ.update(dict.fromkeys(("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"), ",".join(interfaces)))
    ranks = TorchRanks(settings.stall_seconds)
    value = _watched_work(ranks, work, arguments, notes, settings)
    ranks.close()
    return value


def _watched_work(
    ranks: Ranks, work: RankWork, arguments: tuple[Any, ...], notes: Notes, settings: TrainingSettings
) -> Any:
    _raise_noted(notes)  # in a task that Spark itself starts again

    def sign() -> None:
        # another text each time: a store tells writings apart by their content, for its times may be whole seconds
        notes.write(SIGN, str(time.time()))

    seconds = SIGN_SECONDS if isinstance(notes, StoreNotes) else 0.0
    try:
        with StallWatch(settings.stall_seconds, sign if ranks.rank == 0 else None, seconds) as watch:
            return _work_here(ranks, watch, settings, work, arguments)
    except PipelineError as error:
        noted = {"type": type(error).__name__, "message": str(error)}
        notes.write(ERROR, json.dumps(noted))
        raise


def _work_here(
    ranks: Ranks, watch: StallWatch | None, settings: TrainingSettings, work: RankWork, arguments: tuple[Any, ...]
) -> Any:
    """What ``work`` returns, with the CPU threads that a rank may take."""
    keep_freed_memory()
    before = torch.get_num_threads()
    torch.set_num_threads(settings.threads_per_rank)
    try:
        return work(ranks, watch, *arguments)
    finally:  # this process may be the driver, where it trains alone
        torch.set_num_threads(before)


def _remove_messages(notes: Notes) -> None:
    for name in (SIGN, ERROR):
        with contextlib.suppress(FileNotFoundError):
            notes.remove(name)


def _raise_noted(notes: Notes) -> None:
    """Raise the error that a rank noted, as itself."""
    if notes.identity(ERROR):
        noted = json.loads(notes.read(ERROR))
        raise getattr(schemas.errors, noted["type"])(noted["message"])
