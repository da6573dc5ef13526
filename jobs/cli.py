"""The command line: ``ubp run``, one command per stage, and those of ``jobs/commands``."""

import argparse
import contextlib
import logging
import os
import signal
import sys
import tempfile
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

from conf.load import DEFAULT, checked, load_config
from conf.pipeline import PipelineConfig
from jobs.commands.flags import build_parser
from jobs.pipeline.out_of_date import INGEST, TRAIN, require_up_to_date
from jobs.pipeline.registry import STAGE_NAMES, describe_call, find_stage
from jobs.runtime.locks import locked
from jobs.runtime.logs import SHOWN, JsonLines, PlainLines, printable
from jobs.runtime.temp_dirs import scratch_folder
from jobs.runtime.user_errors import explain
from jobs.storage.locations import is_s3, mounted_path, takes_whole_files
from jobs.storage.provenance import CONFIG, read_records
from jobs.storage.working_copy import WorkingCopy, copy_folder
from jobs.storage.workspace import Workspace
from ml.files.store import Store, patience
from schemas.behaviours import PRODUCT_BUY
from schemas.errors import ConfigError, OutputError, PipelineError

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

log = logging.getLogger(__name__)

BAD_INPUT = 2
FAILED_SECONDS = 60.0
"""For so long a store that does not answer is waited for by a run that failed."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; 0 only when its output is complete, 2 for bad configuration or input.

    Flags that argparse refuses end it by SystemExit(2), ``--help`` and ``--version`` by SystemExit(0).

    Ctrl-C (130) and SIGTERM (143) end it as a failure does: what is there is copied back, its lock is released.
    """
    arguments = build_parser().parse_args(argv)
    _configure_logging(arguments.verbose, arguments.json_logs)
    with _terminable() as is_terminated:
        return _run(arguments, is_terminated)


def _run(arguments: argparse.Namespace, is_terminated: threading.Event) -> int:
    try:
        # ``_prepare`` enters the lock, then the copy; they end in reverse: files are copied back under the lock
        with contextlib.ExitStack() as arguments.locks:
            _COMMANDS.get(arguments.command, _run_stage)(arguments)
    except KeyboardInterrupt:
        return _interrupted(is_terminated)
    except Exception as error:
        if _follows_interrupt(error):
            return _interrupted(is_terminated)
        if known := error if isinstance(error, PipelineError) else explain(error):
            log.error("%s: %s", type(known).__name__, known, exc_info=arguments.verbose)
            return BAD_INPUT
        log.error("unexpected %s: %s", type(error).__name__, error, exc_info=arguments.verbose)
        log.error("run again with --verbose for the stack trace")
        return 1
    return 0


@contextlib.contextmanager
def _terminable() -> Iterator[threading.Event]:
    """Have SIGTERM, by which schedulers end a job, do what Ctrl-C does; the event is set when it came."""
    is_terminated = threading.Event()
    if threading.current_thread() is not threading.main_thread():  # Python lets no other one handle signals
        yield is_terminated
        return

    def terminate(number: int, frame: FrameType | None) -> None:
        is_terminated.set()
        # that of the session cancels Spark's jobs; in a shell's background SIGINT is ignored, and none is there
        if callable(handler := signal.getsignal(signal.SIGINT)):
            handler(number, frame)
        raise KeyboardInterrupt

    former = signal.signal(signal.SIGTERM, terminate)
    try:
        yield is_terminated
    finally:
        # None: what handled it before was not set from Python
        signal.signal(signal.SIGTERM, former or signal.SIG_DFL)


def _interrupted(is_terminated: threading.Event) -> int:
    cause = "terminated (SIGTERM)" if is_terminated.is_set() else "interrupted"
    log.error("%s; `ubp run` with the same flags goes on after the last finished stage", cause)
    return 143 if is_terminated.is_set() else 130


def _follows_interrupt(error: BaseException | None) -> bool:
    """Whether the error came while Ctrl-C was handled: what is released then may find Spark's jobs cancelled."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error is not None


def main_stage(name: str) -> NoReturn:
    """Entry point of a stage's own file, for spark-submit: the flags of ``ubp <stage>``."""
    sys.exit(main([name, *sys.argv[1:]]))


def main_task() -> None:
    """Entry point of a Databricks wheel task: as ``ubp``, but a task fails by an exception, not by an exit code."""
    try:
        code = main()
    except SystemExit as exit_:  # argparse's: 2 for a refused flag, 0 after --help
        code = int(exit_.code or 0)
    if code:
        raise RuntimeError(f"ubp {' '.join(sys.argv[1:2])} ended with exit code {code}; its last log line says why")


def _run_pipeline(arguments: argparse.Namespace) -> None:
    # here, as in the other commands: `ubp --help` and a refused flag load neither Spark nor numpy
    from jobs.pipeline.runner import plan_run, run_stages

    if arguments.restart and arguments.first:
        raise ConfigError("--restart and --from: expected one of them, found both; leave out --restart, or --from")
    first = INGEST if arguments.restart else arguments.first
    if first and arguments.last and STAGE_NAMES.index(first) > STAGE_NAMES.index(arguments.last):
        raise PipelineError(f"--from {first} comes after --to {arguments.last}; the order is {STAGE_NAMES}")
    # --as-of leaves ingest out: what that reads need not be there
    config, workspace = _prepare(arguments, reads_data=first in (None, INGEST) and arguments.as_of is None)
    plan_run(config, workspace, first, arguments.last)  # for its refusals only: Spark has not started
    run_stages(_session(arguments, config, workspace), config, workspace, first, arguments.last)


def _run_stage(arguments: argparse.Namespace) -> None:
    config, workspace = _prepare(arguments, reads_data=arguments.command == INGEST)
    arguments.stage.check_inputs(config, workspace)
    # flags of `train` alone
    options = {name: getattr(arguments, name) for name in ("only", "prune") if hasattr(arguments, name)}
    arguments.stage.run(_session(arguments, config, workspace), config, workspace, **options)


def _run_probe(arguments: argparse.Namespace) -> None:
    from jobs.storage.entry_rules import require_files

    entries, stage = [entry.resolve() for entry in arguments.entry], arguments.stage
    for entry in entries:
        require_files(entry, "--entry")
    config, workspace = _prepare(arguments, reads_data=False)
    if not entries:  # those from elsewhere need tables alone, and what is missing of these is made below
        stage.check_inputs(config, workspace)
    # only now: these import Spark and torch, which what was refused above does without
    from jobs.commands.probe import beside_run, prepare_tables, purchases_only
    from jobs.evaluation.scores import read_scores
    from jobs.reporting.tables import format_score_table, probe_note

    spark = _session(arguments, config, workspace)
    if entries:
        prepare_tables(spark, config, workspace)
        config, stage = purchases_only(config), beside_run(stage)
    stage.run(spark, config, workspace, entries=entries)
    _show(format_score_table(read_scores(config, workspace), probe_note(config.probe)))


def _ablate(arguments: argparse.Namespace) -> None:
    config, workspace = _prepare(arguments, reads_data=False)
    # it composes profiles of its own: settings may differ from those of the run
    records = read_records(workspace)
    call = replace(describe_call(config, workspace, reads_ingested=False, records=records), settings={})
    require_up_to_date("ablate", find_stage("probe").inputs(config), records, call)
    from jobs.commands import ablate

    found = ablate.run(_session(arguments, config, workspace), config, workspace)
    _show(ablate.format_ablation(found))


def _recommend(arguments: argparse.Namespace) -> None:
    config, workspace = _prepare(arguments, reads_data=False)
    from jobs.commands.recommend import require_recommender, run

    require_recommender(config, arguments.encoder)
    if arguments.top < 1:
        raise ConfigError(f"--top: expected a number of items of 1 or more, found {arguments.top}")
    records = read_records(workspace)
    call = describe_call(config, workspace, reads_ingested=False, records=records)
    require_up_to_date("recommend", find_stage("embed").inputs(config), records, call)
    workspace.pull("models")
    run(_session(arguments, config, workspace), config, workspace, arguments.encoder, arguments.top)


def _show(text: str) -> None:
    """Write a command's answer to stdout; who reads it may leave before its end, as `head` does."""
    try:
        sys.stdout.write(printable(text))
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes it once more at its end
    except OSError as error:
        raise OutputError(f"expected room for the answer on stdout, found {error}; all else is done") from error


def _status(arguments: argparse.Namespace) -> None:
    from jobs.commands.status import describe_outputs

    compares_settings = arguments.config or arguments.set or arguments.inputs
    config = load_config(arguments.config or DEFAULT, arguments.set, arguments.inputs) if compares_settings else None
    # no lock: it only reads
    workspace = _open_workspace(arguments)
    if workspace.working_copy:
        workspace.working_copy.start()
    _show(describe_outputs(workspace, config))


def _validate(arguments: argparse.Namespace) -> None:
    from jobs.commands.validate import find_relevant_clients
    from jobs.storage.entry_rules import require_files, validate_entry

    require_files(arguments.entry, "--entry")  # first: the clients may take Spark to derive
    config = load_config(arguments.config, arguments.set)
    n_clients, width = validate_entry(arguments.entry, find_relevant_clients(arguments.data, config, arguments.verbose))
    message = (
        f"{arguments.entry}: {n_clients:,} relevant clients, each once, and as many profiles of {width} "
        "float16 numbers, all finite: the entry keeps the competition's rules\n"
    )
    _show(message)


def _vacuum(arguments: argparse.Namespace) -> None:
    from jobs.commands.upkeep import Retention, vacuum

    # first: it refuses flags before Spark starts
    retention = Retention(arguments.keep_hours, arguments.idle, arguments.force, arguments.dry_run)
    vacuum(*_prepare_upkeep(arguments), retention)


def _compact(arguments: argparse.Namespace) -> None:
    from jobs.commands.upkeep import compact

    compact(*_prepare_upkeep(arguments), arguments.tables)


def _generate(arguments: argparse.Namespace) -> None:
    from conf.spark import SparkSettings
    from conf.synthetic import BenchmarkLogSettings, ShopSettings
    from jobs.commands.generate import generate_benchmark_log, generate_shop
    from jobs.runtime.session import build_session

    _require_mounted(arguments)
    is_shop = arguments.events is None
    if not is_shop and (arguments.clients, arguments.days) != (None, None):
        raise ConfigError(
            "expected --events, which makes a benchmark log, or --clients and --days, which make a simulated shop; "
            "found both; leave one out"
        )
    values = {"n_clients": arguments.clients, "n_days": arguments.days, "n_events": arguments.events}
    values["seed"] = arguments.seed
    given = {name: value for name, value in values.items() if value is not None}
    with tempfile.NamedTemporaryFile(suffix=".log") as spark_log:  # --out must be empty until the data is complete
        log_file = None if arguments.verbose else Path(spark_log.name)
        if is_shop:
            shop = checked(ShopSettings, given, "the simulated shop")
            is_usual = shop.n_clients <= ShopSettings().n_clients
            spark = build_session(SparkSettings(shuffle_partitions=8), log_file, is_small=is_usual)
            generate_shop(spark, arguments.out, shop)
        else:
            events = checked(BenchmarkLogSettings, given, "the benchmark log")
            spark_settings = SparkSettings(shuffle_partitions=max(8, events.n_events // 2_000_000))
            generate_benchmark_log(build_session(spark_settings, log_file), arguments.out, events)


_COMMANDS: dict[str, Callable[[argparse.Namespace], None]] = {
    "run": _run_pipeline,
    "probe": _run_probe,
    "ablate": _ablate,
    "recommend": _recommend,
    "status": _status,
    "validate": _validate,
    "vacuum": _vacuum,
    "compact": _compact,
    "generate": _generate,
}
"""Every command but those that do nothing but run one stage."""


def _prepare(arguments: argparse.Namespace, reads_data: bool) -> tuple[PipelineConfig, Workspace]:
    """Check all that can be checked without Spark before the output directory is touched."""
    from jobs.inputs.data_files import check_data, log_left_out
    from jobs.inputs.input_files import require_out_elsewhere

    if {"#", "?"} & set(str(arguments.out)):  # Petastorm takes URLs, and decodes none
        raise ConfigError(f"--out: expected a path without # and ?, found {arguments.out}: training could not read it")
    flags = {name: getattr(arguments, name, None) for name in ("repeats", "tasks")}  # short for settings of the probe
    probe = [f"probe.{name}={value}" for name, value in flags.items() if value not in (None, [])]
    if arguments.config is None:
        arguments.config = _find_settings(arguments.out)
    config = load_config(arguments.config, [*arguments.set, *probe], arguments.inputs)
    if arguments.inputs:  # the configuration once more, without the mapping: what it has beyond this one is left out
        log_left_out(load_config(arguments.config, arguments.set), config)
    blocks = (*config.ensemble.blocks, *getattr(arguments, "block", []))
    config = replace(config, ensemble=replace(config.ensemble, blocks=blocks))
    if _reaches_training(arguments):
        from ml.objectives.registry import require_encoder  # torch takes seconds to import

        for name, encoder in config.encoders.items():
            require_encoder(name, encoder)
    if unknown := [name for name in getattr(arguments, "only", []) if name not in config.encoders]:
        known = ", ".join(config.encoders)
        raise ConfigError(f"--only: expected names of encoders, {known}; found {', '.join(unknown)}; correct them")
    _require_entries(config)
    workspace = _open_workspace(arguments, config)
    if reads_data:
        config.behaviour(PRODUCT_BUY)  # a ConfigError without purchases: they date the windows
        require_out_elsewhere(config.mapping, workspace.challenge, workspace.out)
        check_data(config, workspace)
    workspace.prepare()
    is_ours = _lock(arguments, workspace)
    if workspace.working_copy:
        # under the lock: what another run copied into the store before is there
        workspace.working_copy.start()
        arguments.locks.enter_context(_copied_back(workspace, is_ours))
    return config, workspace


def _require_entries(config: PipelineConfig) -> None:
    """Look for the entries that settings name, before hours are spent on other work."""
    from jobs.storage.entry_rules import require_files

    for name, folder in config.ensemble.named_blocks.items():
        if folder:
            require_files(mounted_path(folder), f"block {name!r}")
    for folder in config.probe.entries:
        require_files(mounted_path(folder), "probe.entries")


def _find_settings(out: Path | str) -> str:
    """The file of the settings that the run in ``--out`` was made with; the default ones where there is no run."""
    if not takes_whole_files(out):
        file = Path(out) / CONFIG
        return str(file) if file.exists() else DEFAULT
    store, copy = Store(str(out)), scratch_folder() / f"settings-{uuid.uuid4().hex[:8]}"
    if store.describe(CONFIG) is None:
        return DEFAULT
    store.get([CONFIG], copy)
    SHOWN[str(copy)] = store.url
    return str(copy / CONFIG)


def _open_workspace(arguments: argparse.Namespace, config: PipelineConfig | None = None) -> Workspace:
    """The folders of a call; of an ``--out`` that takes whole files only, and of data in a store, copies here.

    Parameters
    ----------
    config : of a command that takes ``--data``; data that none of its stages reads is not copied
    """
    out, data = arguments.out, getattr(arguments, "data", None)
    working_copy, data_url = None, None
    if takes_whole_files(out):
        working_copy = WorkingCopy(Store(str(out)), scratch_folder() / f"out-{uuid.uuid4().hex[:8]}")
        out = working_copy.folder
        # messages have the URL that the user gave, not the copy's folder
        SHOWN[str(out)] = working_copy.store.url
    if isinstance(data, str):
        data_url, data = data, None
        if config and _reads_data(arguments, config):
            data = scratch_folder() / f"data-{uuid.uuid4().hex[:8]}"
            SHOWN[str(data)] = data_url
            copy_folder(Store(data_url), data)
    # a Databricks job passes a parameter that nobody set as an empty text
    tables, catalog, schema = (getattr(arguments, name, None) or None for name in ("tables", "catalog", "schema"))
    as_of = getattr(arguments, "as_of", None)
    return Workspace(out, data, as_of, tables, catalog, schema, working_copy, data_url)


def _reads_data(arguments: argparse.Namespace, config: PipelineConfig) -> bool:
    """Whether a stage of a call reads ``--data``, which lies in a store; ConfigError where no executor could."""
    from jobs.inputs.data_files import list_sources
    from jobs.runtime.session import find_master

    if not any(list_sources(stage, config) for stage in locked_stages(arguments)):
        return False
    if not (master := find_master(config.spark)).startswith("local"):
        raise ConfigError(
            f"--data {arguments.data}: expected local mode, for it is copied to this machine, found spark.master="
            f"{master}; name the inputs by their URLs in a mapping (--inputs), or mount the data"
        )
    return True


@contextlib.contextmanager
def _copied_back(workspace: Workspace, is_ours: Callable[[], bool]) -> Iterator[None]:
    """Copy what has changed into the store when the block ends, however it does, unless the lock was lost meanwhile."""

    def push() -> None:
        if not is_ours():
            raise OutputError(
                f"{workspace.shown}: expected this run's lock there, found that it was removed, or that another run "
                "has taken over, whose files would be replaced; nothing more is copied"
            )
        workspace.push()

    try:
        yield
    except BaseException:  # Ctrl-C too
        try:
            with patience(FAILED_SECONDS):
                push()
        except Exception as error:
            log.warning("what the failed stage left, logs too, is not copied to %s: %s", workspace.shown, error)
        raise
    push()


def _require_mounted(arguments: argparse.Namespace) -> None:
    is_generate = arguments.command == "generate"  # whose files Spark writes whole
    if isinstance(arguments.out, str) or (takes_whole_files(arguments.out) and not is_generate):
        raise ConfigError(
            f"--out: expected a path that driver and workers mount for `ubp {arguments.command}`, found "
            f"{arguments.out}; mount it, or leave it to the store's own upkeep"
        )


def _reaches_training(arguments: argparse.Namespace) -> bool:
    """Whether the last stage of a call is ``train`` or a later one."""
    last = getattr(arguments, "last", None) if arguments.command == "run" else arguments.command
    # no stage: a run without --to, or a command such as `recommend`, for which encoders matter too
    return last not in STAGE_NAMES or STAGE_NAMES.index(last) >= STAGE_NAMES.index(TRAIN)


def _lock(arguments: argparse.Namespace, workspace: Workspace) -> Callable[[], bool]:
    """Lock the stages of a call until it ends; what says whether the lock is still its own."""
    lock = locked(workspace.notes, locked_stages(arguments), f"ubp {arguments.command}", workspace.shown)
    is_ours: Callable[[], bool] = arguments.locks.enter_context(lock)
    return is_ours


def locked_stages(arguments: argparse.Namespace) -> list[str]:
    """The stages that nobody else may run meanwhile: a scheduler may run two that do not read each other's output."""
    if getattr(arguments, "dry_run", False):
        return []
    if not hasattr(arguments, "stage"):  # what is no stage may read or write what any of them makes
        return STAGE_NAMES
    if not getattr(arguments, "entry", []):
        return [arguments.command]
    from jobs.commands.probe import PREPARED_BY

    return [*PREPARED_BY, arguments.command]


def _session(arguments: argparse.Namespace, config: PipelineConfig, workspace: Workspace) -> "SparkSession":
    from jobs.inputs.data_files import is_small
    from jobs.runtime.preflight import require_mounts
    from jobs.runtime.session import build_session
    from jobs.storage.delta_tables import require_schema

    log_file = None if arguments.verbose else workspace.logs / "spark.log"
    # any name of a table tells where all of them lie
    urls = [workspace.table("x"), workspace.shown, *(str(each.path) for each in config.mapping.inputs.values())]
    spark = build_session(config.spark, log_file, is_small=is_small(workspace, config), has_s3=any(map(is_s3, urls)))
    require_schema(spark, workspace)
    store = workspace.working_copy.store if workspace.working_copy else None
    require_mounts(spark.sparkContext, store or workspace.out, workspace.challenge)
    return spark


def _prepare_upkeep(arguments: argparse.Namespace) -> "tuple[SparkSession, Workspace]":
    from conf.spark import SparkSettings
    from jobs.commands.upkeep import list_tables
    from jobs.runtime.session import build_session

    _require_mounted(arguments)
    workspace = Workspace(arguments.out)
    list_tables(workspace)  # before a folder is made and Spark starts
    workspace.prepare()
    _lock(arguments, workspace)
    settings = SparkSettings(shuffle_partitions=8)
    return build_session(settings, None if arguments.verbose else workspace.logs / "spark.log"), workspace


def _configure_logging(verbose: bool, is_json: bool) -> None:
    """Our own progress on stderr; what libraries say below a warning only with ``--verbose``."""
    logging.basicConfig(level=logging.INFO if verbose else logging.WARNING, stream=sys.stderr)
    for handler in logging.getLogger().handlers:
        # a notebook's too, beside which ``basicConfig`` makes none; no subclasses, such as of log files
        if type(handler) is logging.StreamHandler:
            handler.setFormatter(JsonLines() if is_json else PlainLines("%(asctime)s %(message)s", "%H:%M:%S"))
    for name in ("jobs", "ml"):
        logging.getLogger(name).setLevel(logging.INFO)
    if not verbose:  # it shows a stack trace where a signal interrupts a call of the JVM
        logging.getLogger("py4j").setLevel(logging.CRITICAL)


if __name__ == "__main__":
    sys.exit(main())
