"""The command line: ``ubp run``, ``ubp generate``, and one command per stage."""

import argparse
import logging
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from conf.load import DEFAULT, known_configs, load_config
from conf.settings import PipelineConfig
from jobs.workspace import Workspace
from schemas.errors import PipelineError

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

log = logging.getLogger(__name__)

BAD_INPUT = 2


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; 0 only when its output is complete, 2 for bad arguments, configuration or input."""
    arguments = _parser().parse_args(argv)
    _configure_logging(arguments.verbose)
    try:
        arguments.command(arguments)
    except PipelineError as error:
        log.error("%s: %s", type(error).__name__, error, exc_info=arguments.verbose)
        return BAD_INPUT
    except KeyboardInterrupt:
        log.error("interrupted; `ubp run` with the same flags goes on after the last finished stage")
        return 130
    except Exception as error:
        log.error("unexpected %s: %s", type(error).__name__, error, exc_info=arguments.verbose)
        log.error("run again with --verbose for the stack trace")
        return 1
    return 0


def main_stage(name: str) -> int:
    """Entry point of a stage's own file, for spark-submit: the flags of ``ubp <stage>``."""
    return main([name, *sys.argv[1:]])


def _parser() -> argparse.ArgumentParser:
    from jobs.pipeline import STAGE_NAMES, STAGES

    parser = argparse.ArgumentParser(
        prog="ubp", description="Event logs -> Universal Behavioral Profiles (RecSys Challenge 2025)."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    run = commands.add_parser("run", help="all stages; a run that died goes on after its last finished stage")
    _add_run_flags(run)
    run.add_argument("--from", dest="first", choices=STAGE_NAMES, metavar="STAGE", help="first stage to run")
    run.add_argument("--to", dest="last", choices=STAGE_NAMES, metavar="STAGE", help="last stage to run")
    run.add_argument("--restart", action="store_true", help="begin with the first stage, whatever is finished")
    run.set_defaults(command=_run_pipeline)

    generate = commands.add_parser("generate", help="a made shop in the challenge's file format")
    generate.add_argument("--out", type=Path, required=True, metavar="DIR", help="where to write it")
    generate.add_argument("--clients", type=int, help="how many clients")
    generate.add_argument("--days", type=int, help="how many days of events")
    generate.add_argument("--seed", type=int, help="the same seed gives the same shop")
    generate.add_argument("--verbose", action="store_true", help="Spark's own log, and stack traces")
    generate.set_defaults(command=_generate)

    for stage in STAGES:
        command = commands.add_parser(stage.name, help=stage.about)
        _add_run_flags(command)
        command.set_defaults(command=_run_stage, stage=stage)
    return parser


def _add_run_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", type=Path, metavar="DIR", help="the challenge directory")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="tables, models, entries, report")
    parser.add_argument(
        "--config", default=DEFAULT, metavar="FILE", help=f"one of {', '.join(known_configs())}, or a YAML file"
    )
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="e.g. training.epochs=3")
    parser.add_argument("--verbose", action="store_true", help="Spark's own log, and stack traces")


def _run_pipeline(arguments: argparse.Namespace) -> None:
    from jobs.pipeline import STAGE_NAMES, run_stages

    config, workspace = _prepare(arguments, reads_data=arguments.first in (None, STAGE_NAMES[0]))
    first = STAGE_NAMES[0] if arguments.restart else arguments.first
    if first and arguments.last and STAGE_NAMES.index(first) > STAGE_NAMES.index(arguments.last):
        raise PipelineError(f"--from {first} comes after --to {arguments.last}; the order is {STAGE_NAMES}")
    run_stages(_session(config, workspace, arguments.verbose), config, workspace, first, arguments.last)


def _run_stage(arguments: argparse.Namespace) -> None:
    config, workspace = _prepare(arguments, reads_data=arguments.stage.name == "ingest")
    arguments.stage.run(_session(config, workspace, arguments.verbose), config, workspace)


def _prepare(arguments: argparse.Namespace, reads_data: bool) -> tuple[PipelineConfig, Workspace]:
    """Check all that can be checked without Spark before the output directory is touched."""
    from jobs.challenge_files import check_challenge

    config = load_config(arguments.config, arguments.set)
    workspace = Workspace(arguments.out, arguments.data)
    if reads_data:
        check_challenge(workspace.data, config)
    workspace.prepare()
    return config, workspace


def _session(config: PipelineConfig, workspace: Workspace, verbose: bool) -> "SparkSession":
    from jobs.session import build_session

    return build_session(config.spark, None if verbose else workspace.logs / "spark.log")


def _generate(arguments: argparse.Namespace) -> None:
    from conf.settings import SparkSettings
    from conf.shop import ShopSettings
    from jobs.generate import generate_shop
    from jobs.session import build_session

    given = {"n_clients": arguments.clients, "n_days": arguments.days, "seed": arguments.seed}
    shop = ShopSettings(**{name: value for name, value in given.items() if value is not None})
    with tempfile.NamedTemporaryFile(suffix=".log") as spark_log:
        spark = build_session(SparkSettings(shuffle_partitions=8), None if arguments.verbose else Path(spark_log.name))
        generate_shop(spark, arguments.out, shop)


def _configure_logging(verbose: bool) -> None:
    """Our own progress on stderr; what libraries say below a warning only with ``--verbose``."""
    level = logging.INFO if verbose else logging.WARNING
    logging.basicConfig(stream=sys.stderr, level=level, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    for name in ("jobs", "ml"):
        logging.getLogger(name).setLevel(logging.INFO)


if __name__ == "__main__":
    sys.exit(main())
