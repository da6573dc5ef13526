"""The command line: ``ubp run``, ``generate``, ``validate``, ``vacuum``, ``compact``, and one command per stage."""

import argparse
import contextlib
import logging
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from conf.load import DEFAULT, checked, known_configs, load_config
from conf.pipeline import PipelineConfig
from jobs.runtime.locks import claimed
from jobs.runtime.logs import JsonLines
from jobs.runtime.user_errors import explain
from jobs.storage.locations import mounted_path
from jobs.storage.workspace import Workspace
from schemas.behaviours import PRODUCT_BUY
from schemas.errors import ConfigError, PipelineError
from schemas.tasks import TASKS

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

log = logging.getLogger(__name__)

BAD_INPUT = 2


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; 0 only when its output is complete, 2 for bad arguments, configuration or input."""
    arguments = _parser().parse_args(argv)
    _configure_logging(arguments.verbose, arguments.json_logs)
    try:
        with contextlib.ExitStack() as arguments.held:
            arguments.command(arguments)
    except PipelineError as error:
        log.error("%s: %s", type(error).__name__, error, exc_info=arguments.verbose)
        return BAD_INPUT
    except KeyboardInterrupt:
        log.error("interrupted; `ubp run` with the same flags goes on after the last finished stage")
        return 130
    except Exception as error:
        if known := explain(error):
            log.error("%s: %s", type(known).__name__, known, exc_info=arguments.verbose)
            return BAD_INPUT
        log.error("unexpected %s: %s", type(error).__name__, error, exc_info=arguments.verbose)
        log.error("run again with --verbose for the stack trace")
        return 1
    return 0


def main_stage(name: str) -> int:
    """Entry point of a stage's own file, for spark-submit: the flags of ``ubp <stage>``."""
    return main([name, *sys.argv[1:]])


def main_task() -> None:
    """Entry point of a Databricks wheel task: as ``ubp``, but a task fails by an exception, not by an exit code."""
    try:
        code = main()
    except SystemExit as exit_:  # argparse's
        code = int(exit_.code or 0)
    if code:
        raise RuntimeError(f"ubp {' '.join(sys.argv[1:2])} ended with exit code {code}; its last log line says why")


def _parser() -> argparse.ArgumentParser:
    from jobs.pipeline.registry import STAGE_NAMES, STAGES

    parser = argparse.ArgumentParser(
        prog="ubp", description="Event logs -> Universal Behavioral Profiles (RecSys Challenge 2025)."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    run = commands.add_parser("run", help="all stages; a run that died goes on after its last finished stage")
    _add_run_flags(run)
    _add_as_of(run)
    _add_block_flag(run)
    run.add_argument("--from", dest="first", choices=STAGE_NAMES, metavar="STAGE", help="first stage to run")
    run.add_argument("--to", dest="last", choices=STAGE_NAMES, metavar="STAGE", help="last stage to run")
    run.add_argument("--restart", action="store_true", help="begin with the first stage, whatever is finished")
    run.set_defaults(command=_run_pipeline)

    generate = commands.add_parser("generate", help="made data in the challenge's file format: a shop or a crowd")
    generate.add_argument("--out", type=_folder, required=True, metavar="DIR", help="where to write it")
    generate.add_argument("--clients", type=int, help="a shop: how many clients")
    generate.add_argument("--days", type=int, help="a shop: how many days of events")
    about = "a crowd instead, with the size and statistics of the challenge's data: how many events, e.g. 170e6"
    generate.add_argument("--events", type=_count, metavar="N", help=about)
    generate.add_argument("--seed", type=int, help="the same seed gives the same data")
    _add_log_flags(generate)
    generate.set_defaults(command=_generate)

    for stage in STAGES:
        command = commands.add_parser(stage.name, help=stage.about)
        _add_run_flags(command)
        if stage.reads_ingested:
            _add_as_of(command)
        command.set_defaults(command=_run_stage, stage=stage)
        if stage.name == "probe":
            _add_probe_flags(command)
        if stage.name == "profile":
            _add_block_flag(command)
    _add_ablate(commands)
    _add_validate(commands)
    _add_upkeep(commands)
    return parser


def _add_probe_flags(probe: argparse.ArgumentParser) -> None:
    about = "score this folder (client_ids.npy, embeddings.npy) instead of OUT/entries/*; may be given several times"
    probe.add_argument("--entry", type=_folder, action="append", default=[], metavar="DIR", help=about)
    _add_task_flags(probe)
    probe.set_defaults(command=_run_probe)


def _add_task_flags(command: argparse.ArgumentParser) -> None:
    command.add_argument("--tasks", nargs="+", action="extend", choices=TASKS, metavar="TASK", help="some tasks only")
    about = "mean and standard deviation over so many seeds and row orders, the organisers' first (probe.repeats)"
    command.add_argument("--repeats", type=int, metavar="R", help=about)


def _add_ablate(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    ablate = commands.add_parser("ablate", help="what each block of the profile is worth: alone, left out, all")
    _add_run_flags(ablate)
    _add_block_flag(ablate)
    _add_task_flags(ablate)
    ablate.set_defaults(command=_ablate)


def _add_block_flag(command: argparse.ArgumentParser) -> None:
    about = "one more block of the profile, an entry in DIR; may be given several times (ensemble.blocks)"
    command.add_argument("--block", action="append", default=[], metavar="NAME=DIR", help=about)


def _add_validate(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    validate = commands.add_parser("validate", help="check an entry against the competition's rules")
    validate.add_argument("--entry", type=_folder, required=True, metavar="DIR", help="client_ids.npy, embeddings.npy")
    validate.add_argument("--data", type=_folder, required=True, metavar="DIR", help="the challenge directory")
    _add_config_flags(validate)
    validate.set_defaults(command=_validate)


def _add_upkeep(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    vacuum = commands.add_parser("vacuum", help="remove the files of old table versions; models keep theirs")
    vacuum.add_argument("--keep-hours", type=int, default=168, metavar="N", help="what was newest since stays (168)")
    vacuum.add_argument("--dry-run", action="store_true", help="only tell what would go")
    vacuum.add_argument("--force", action="store_true", help="remove also the versions that models were trained on")
    vacuum.add_argument("--idle", action="store_true", help="nothing uses --out now: allow --keep-hours below 168")
    vacuum.set_defaults(command=_vacuum)

    compact = commands.add_parser("compact", help="merge small files of tables; sequences are left as they are")
    compact.add_argument("tables", nargs="*", metavar="TABLE", help="some tables only")
    compact.set_defaults(command=_compact)
    for command in (vacuum, compact):
        command.add_argument("--out", type=_folder, required=True, metavar="DIR", help="the output directory of a run")
        _add_log_flags(command)


def _add_as_of(parser: argparse.ArgumentParser) -> None:
    about = "read the events and products of the N-th ingest into --out, counted from 0, not the newest"
    parser.add_argument("--as-of", type=int, metavar="N", help=about)


def _add_run_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", type=_folder, metavar="DIR", help="the challenge directory")
    parser.add_argument("--out", type=_run_folder, required=True, metavar="DIR", help="tables, models, entries, report")
    parser.add_argument("--tables", metavar="URL", help="where Delta tables lie if not in --out, e.g. s3://BUCKET/PATH")
    parser.add_argument("--catalog", metavar="NAME", help="tables are CATALOG.SCHEMA.<table>, as in Unity Catalog")
    parser.add_argument("--schema", metavar="NAME", help="goes with --catalog")
    _add_config_flags(parser)


def _folder(text: str) -> Path:
    try:
        return mounted_path(text)
    except ConfigError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _run_folder(text: str) -> Path:
    folder = _folder(text)
    if {"#", "?"} & set(str(folder)):  # Petastorm takes URLs, and decodes none
        raise argparse.ArgumentTypeError(f"expected a path without # and ?, found {folder}: training could not read it")
    return folder


def _add_config_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config", default=DEFAULT, metavar="FILE", help=f"one of {', '.join(known_configs())}, or a YAML file"
    )
    parser.add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="e.g. training.epochs=3"
    )
    _add_log_flags(parser)


def _add_log_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--verbose", action="store_true", help="Spark's own log, and stack traces")
    parser.add_argument("--json-logs", action="store_true", help="each log line as a JSON object")


def _run_pipeline(arguments: argparse.Namespace) -> None:
    from jobs.pipeline.registry import STAGE_NAMES
    from jobs.pipeline.runner import run_stages

    config, workspace = _prepare(
        arguments, reads_data=arguments.first in (None, STAGE_NAMES[0]) and arguments.as_of is None
    )
    first = STAGE_NAMES[0] if arguments.restart else arguments.first
    if first and arguments.last and STAGE_NAMES.index(first) > STAGE_NAMES.index(arguments.last):
        raise PipelineError(f"--from {first} comes after --to {arguments.last}; the order is {STAGE_NAMES}")
    run_stages(_session(config, workspace, arguments.verbose), config, workspace, first, arguments.last)


def _run_stage(arguments: argparse.Namespace) -> None:
    config, workspace = _prepare(arguments, reads_data=arguments.stage.name == "ingest")
    arguments.stage.run(_session(config, workspace, arguments.verbose), config, workspace)


def _run_probe(arguments: argparse.Namespace) -> None:
    from jobs.commands.probe import beside_run, prepare_tables, purchases_only
    from jobs.evaluation.scores import read_scores
    from jobs.reporting.tables import format_score_table, probe_note

    entries, stage = [entry.resolve() for entry in arguments.entry], arguments.stage
    config, workspace = _prepare(arguments, reads_data=False)
    spark = _session(config, workspace, arguments.verbose)
    if entries:
        prepare_tables(spark, config, workspace)
        config, stage = purchases_only(config), beside_run(stage)
    stage.run(spark, config, workspace, entries=entries, wanted=arguments.tasks or TASKS)
    sys.stdout.write(format_score_table(read_scores(config, workspace), probe_note(config.probe)))


def _ablate(arguments: argparse.Namespace) -> None:
    from jobs.commands import ablate

    config, workspace = _prepare(arguments, reads_data=False)
    found = ablate.run(_session(config, workspace, arguments.verbose), config, workspace, arguments.tasks or TASKS)
    sys.stdout.write(ablate.format_ablation(found))


def _validate(arguments: argparse.Namespace) -> None:
    from jobs.commands.validate import find_relevant_clients
    from jobs.storage.entry_rules import validate_entry

    config = load_config(arguments.config, arguments.set)
    shape = validate_entry(arguments.entry, find_relevant_clients(arguments.data, config, arguments.verbose))
    sys.stdout.write(
        f"{arguments.entry}: {shape.n_clients:,} relevant clients, each once, and as many profiles of {shape.width} "
        "float16 numbers, all finite: the entry keeps the competition's rules\n"
    )


def _prepare(arguments: argparse.Namespace, reads_data: bool) -> tuple[PipelineConfig, Workspace]:
    """Check all that can be checked without Spark before the output directory is touched."""
    from jobs.blocks.imported import require_blocks
    from jobs.inputs.challenge_directory import check_challenge

    n_repeats = getattr(arguments, "repeats", None)
    repeats = [] if n_repeats is None else [f"probe.repeats={n_repeats}"]
    config = load_config(arguments.config, [*arguments.set, *repeats])
    blocks = (*config.ensemble.blocks, *getattr(arguments, "block", []))
    config = replace(config, ensemble=replace(config.ensemble, blocks=blocks))
    require_blocks(config.ensemble)
    tables = [value or None for value in (arguments.tables, arguments.catalog, arguments.schema)]
    workspace = Workspace(arguments.out, arguments.data, getattr(arguments, "as_of", None), *tables)
    if reads_data:
        config.behaviour(PRODUCT_BUY)
        check_challenge(workspace.data, config)
    workspace.prepare()
    _claim(arguments, workspace)
    return config, workspace


def _claim(arguments: argparse.Namespace, workspace: Workspace) -> None:
    for name in _claims(arguments):
        told = f"ubp {' '.join(sys.argv[1:2])}"
        arguments.held.enter_context(claimed(workspace.logs / f"owner-{name}.json", told))


def _claims(arguments: argparse.Namespace) -> list[str]:
    """The stages that nobody else may run meanwhile: a scheduler may run two that do not read each other's output."""
    from jobs.pipeline.registry import STAGE_NAMES

    if getattr(arguments, "dry_run", False):
        return []
    if not hasattr(arguments, "stage"):
        return STAGE_NAMES
    if not getattr(arguments, "entry", []):
        return [arguments.stage.name]
    from jobs.commands.probe import PREPARED_BY

    return [*PREPARED_BY, arguments.stage.name]


def _session(config: PipelineConfig, workspace: Workspace, verbose: bool) -> "SparkSession":
    from jobs.runtime.session import build_session
    from jobs.storage.delta_tables import require_schema

    spark = build_session(config.spark, None if verbose else workspace.logs / "spark.log")
    require_schema(spark, workspace)
    return spark


def _vacuum(arguments: argparse.Namespace) -> None:
    from jobs.commands.upkeep import Retention, vacuum

    retention = Retention(arguments.keep_hours, arguments.idle, arguments.force, arguments.dry_run)
    vacuum(*_upkeep_session(arguments), retention)


def _compact(arguments: argparse.Namespace) -> None:
    from jobs.commands.upkeep import compact

    compact(*_upkeep_session(arguments), arguments.tables)


def _upkeep_session(arguments: argparse.Namespace) -> "tuple[SparkSession, Workspace]":
    from conf.spark import SparkSettings
    from jobs.commands.upkeep import list_tables
    from jobs.runtime.session import build_session

    workspace = Workspace(arguments.out)
    list_tables(workspace)  # before a folder is made and Spark starts
    workspace.prepare()
    _claim(arguments, workspace)
    settings = SparkSettings(shuffle_partitions=8)
    return build_session(settings, None if arguments.verbose else workspace.logs / "spark.log"), workspace


def _count(text: str) -> int:
    """A whole number, also as ``170e6``."""
    try:
        value = float(text)
        if value == int(value):
            return int(value)
    except (ValueError, OverflowError):
        pass
    raise argparse.ArgumentTypeError(f"expected a whole number such as 20000 or 170e6; found {text!r}")


def _generate(arguments: argparse.Namespace) -> None:
    from conf.spark import SparkSettings
    from conf.synthetic import BenchmarkLogSettings, ShopSettings
    from jobs.commands.generate import generate_crowd, generate_shop
    from jobs.runtime.session import build_session

    if arguments.events is None:
        shop = checked(
            ShopSettings, _given(n_clients=arguments.clients, n_days=arguments.days, seed=arguments.seed), "the shop"
        )
        generate, n_partitions = partial(generate_shop, settings=shop), 8
    elif arguments.clients is None and arguments.days is None:
        crowd = checked(
            BenchmarkLogSettings, _given(n_events=arguments.events, seed=arguments.seed), "the benchmark log"
        )
        generate, n_partitions = partial(generate_crowd, settings=crowd), max(8, crowd.n_events // 2_000_000)
    else:
        raise ConfigError("--events makes a crowd, --clients and --days make a shop; give one or the other")
    with tempfile.NamedTemporaryFile(suffix=".log") as spark_log:
        log_file = None if arguments.verbose else Path(spark_log.name)
        generate(build_session(SparkSettings(shuffle_partitions=n_partitions), log_file), arguments.out)


def _given(**values: int | None) -> dict[str, Any]:
    """The values that were given; settings have defaults for the others."""
    return {name: value for name, value in values.items() if value is not None}


def _configure_logging(verbose: bool, is_json: bool) -> None:
    """Our own progress on stderr; what libraries say below a warning only with ``--verbose``."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if is_json else logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    logging.basicConfig(level=logging.INFO if verbose else logging.WARNING, handlers=[handler])
    for name in ("jobs", "ml"):
        logging.getLogger(name).setLevel(logging.INFO)


if __name__ == "__main__":
    sys.exit(main())
