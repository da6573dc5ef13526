"""The command line: ``ubp run``, one command per stage, and those of ``jobs/commands``."""

import argparse
import contextlib
import logging
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import NoReturn

from conf.load import DEFAULT, checked, load_config
from jobs.commands.calls import open_workspace, prepare, prepare_upkeep, require_mounted, start_session
from jobs.commands.flags import build_parser
from jobs.pipeline.out_of_date import INGEST, require_up_to_date
from jobs.pipeline.registry import STAGE_NAMES, describe_call, find_stage
from jobs.runtime.logs import JsonLines, PlainLines, printable
from jobs.runtime.user_errors import explain
from jobs.storage.provenance import read_records
from schemas.errors import ConfigError, OutputError, PipelineError

log = logging.getLogger(__name__)

BAD_INPUT = 2


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
        # ``prepare`` enters the lock, then the copy; they end in reverse: files are copied back under the lock
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
    config, workspace = prepare(arguments, reads_data=first in (None, INGEST) and arguments.as_of is None)
    plan_run(config, workspace, first, arguments.last)  # for its refusals only: Spark has not started
    run_stages(start_session(arguments, config, workspace), config, workspace, first, arguments.last)


def _run_stage(arguments: argparse.Namespace) -> None:
    config, workspace = prepare(arguments, reads_data=arguments.command == INGEST)
    arguments.stage.check_inputs(config, workspace)
    # flags of `train` alone
    options = {name: getattr(arguments, name) for name in ("only", "prune") if hasattr(arguments, name)}
    arguments.stage.run(start_session(arguments, config, workspace), config, workspace, **options)


def _run_probe(arguments: argparse.Namespace) -> None:
    from jobs.storage.entry_rules import require_files

    entries, stage = [entry.resolve() for entry in arguments.entry], arguments.stage
    for entry in entries:
        require_files(entry, "--entry")
    config, workspace = prepare(arguments, reads_data=False)
    if not entries:  # those from elsewhere need tables alone, and what is missing of these is made below
        stage.check_inputs(config, workspace)
    # only now: these import Spark and torch, which what was refused above does without
    from jobs.commands.probe import beside_run, prepare_tables, purchases_only
    from jobs.evaluation.scores import read_scores
    from jobs.reporting.tables import format_score_table, probe_note

    spark = start_session(arguments, config, workspace)
    if entries:
        prepare_tables(spark, config, workspace)
        config, stage = purchases_only(config), beside_run(stage)
    stage.run(spark, config, workspace, entries=entries)
    _show(format_score_table(read_scores(config, workspace), probe_note(config.probe)))


def _ablate(arguments: argparse.Namespace) -> None:
    config, workspace = prepare(arguments, reads_data=False)
    # it composes profiles of its own: settings may differ from those of the run
    records = read_records(workspace)
    call = replace(describe_call(config, workspace, reads_ingested=False, records=records), settings={})
    require_up_to_date("ablate", find_stage("probe").inputs(config), records, call)
    from jobs.commands import ablate

    found = ablate.run(start_session(arguments, config, workspace), config, workspace)
    _show(ablate.format_ablation(found))


def _recommend(arguments: argparse.Namespace) -> None:
    config, workspace = prepare(arguments, reads_data=False)
    from jobs.commands.recommend import require_recommender, run

    require_recommender(config, arguments.encoder)
    if arguments.top < 1:
        raise ConfigError(f"--top: expected a number of items of 1 or more, found {arguments.top}")
    records = read_records(workspace)
    call = describe_call(config, workspace, reads_ingested=False, records=records)
    require_up_to_date("recommend", find_stage("embed").inputs(config), records, call)
    workspace.pull("models")
    run(start_session(arguments, config, workspace), config, workspace, arguments.encoder, arguments.top)


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
    workspace = open_workspace(arguments)
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
    vacuum(*prepare_upkeep(arguments), retention)


def _compact(arguments: argparse.Namespace) -> None:
    from jobs.commands.upkeep import compact

    compact(*prepare_upkeep(arguments), arguments.tables)


def _generate(arguments: argparse.Namespace) -> None:
    from conf.spark import SparkSettings
    from conf.synthetic import BenchmarkLogSettings, ShopSettings
    from jobs.commands.generate import generate_benchmark_log, generate_shop
    from jobs.runtime.session import build_session

    require_mounted(arguments)
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
