"""The flags of every command; importing them imports neither Spark nor torch."""

import argparse
from pathlib import Path

from conf.load import DEFAULT, known_configs
from jobs.pipeline.registry import STAGE_NAMES, STAGES
from jobs.storage.locations import mounted_path
from schemas.errors import ConfigError
from schemas.tasks import TASKS


def build_parser() -> argparse.ArgumentParser:
    """The parser of ``ubp``; what it reads names its ``command``."""
    parser = argparse.ArgumentParser(
        prog="ubp", description="Event logs -> Universal Behavioral Profiles (RecSys Challenge 2025)."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND", dest="command")
    logs, out, as_of, block, tasks = _log_flags(), _out_flags(), _as_of_flag(), _block_flag(), _task_flags()
    config = [_config_flags(DEFAULT), logs]
    of_run = [_run_flags(), *config]

    run = commands.add_parser(
        "run", parents=[*of_run, as_of, block], help="all stages; a run that died goes on after its last finished stage"
    )
    run.add_argument("--from", dest="first", choices=STAGE_NAMES, metavar="STAGE", help="first stage to run")
    run.add_argument("--to", dest="last", choices=STAGE_NAMES, metavar="STAGE", help="last stage to run")
    run.add_argument("--restart", action="store_true", help="begin with the first stage, whatever is up to date")

    about = "what each output was made from, and whether it is up to date; with --config or --set, settings too"
    commands.add_parser("status", parents=[out, _config_flags(None), logs], help=about)

    _add_generate(commands.add_parser("generate", parents=[logs], help="data in the challenge's file format"))

    more = {"probe": [tasks], "embed": [block]}
    for stage in STAGES:
        parents = [*of_run, *([as_of] if stage.reads_ingested else []), *more.get(stage.name, [])]
        command = commands.add_parser(stage.name, parents=parents, help=stage.about)
        command.set_defaults(stage=stage)
        if stage.name == "probe":
            about = "score this folder (client_ids.npy, embeddings.npy) instead of OUT/entries/*; several times: each"
            command.add_argument("--entry", type=_folder, action="append", default=[], metavar="DIR", help=about)
        if stage.name == "train":
            about = "train these encoders and leave the other models alone"
            command.add_argument("--only", nargs="+", action="extend", default=[], metavar="NAME", help=about)
            about = "remove the models of earlier runs that the configuration does not name"
            command.add_argument("--prune", action="store_true", help=about)

    about = "what each block of the profile is worth: alone, left out, all"
    commands.add_parser("ablate", parents=[*of_run, block, tasks], help=about)

    validate = commands.add_parser("validate", parents=config, help="check an entry against the competition's rules")
    validate.add_argument("--entry", type=_folder, required=True, metavar="DIR", help="client_ids.npy, embeddings.npy")
    validate.add_argument("--data", type=_folder, required=True, metavar="DIR", help="the challenge directory")

    about = "remove the files of old table versions; models keep theirs"
    vacuum = commands.add_parser("vacuum", parents=[out, logs], help=about)
    vacuum.add_argument("--keep-hours", type=int, default=168, metavar="N", help="what was newest since stays (168)")
    vacuum.add_argument("--dry-run", action="store_true", help="only list what would go")
    vacuum.add_argument("--force", action="store_true", help="remove also the versions that models were trained on")
    vacuum.add_argument("--idle", action="store_true", help="nothing uses --out now: allow --keep-hours below 168")

    about = "merge small files of tables; sequences are left as they are"
    compact = commands.add_parser("compact", parents=[out, logs], help=about)
    compact.add_argument("tables", nargs="*", metavar="TABLE", help="some tables only")
    return parser


def _add_generate(generate: argparse.ArgumentParser) -> None:
    generate.add_argument("--out", type=_folder, required=True, metavar="DIR", help="where to write it")
    generate.add_argument("--clients", type=int, help="a simulated shop: how many clients")
    generate.add_argument("--days", type=int, help="a simulated shop: how many days of events")
    about = "a benchmark log, of the size and statistics of the challenge's data: how many events, e.g. 170e6"
    generate.add_argument("--events", type=_count, metavar="N", help=about)
    generate.add_argument("--seed", type=int, help="the same seed gives the same data")


def _log_flags() -> argparse.ArgumentParser:
    flags = _shared()
    flags.add_argument("--verbose", action="store_true", help="Spark's own log, and stack traces")
    flags.add_argument("--json-logs", action="store_true", help="each log line as a JSON object")
    return flags


def _out_flags() -> argparse.ArgumentParser:
    flags = _shared()
    flags.add_argument("--out", type=_folder, required=True, metavar="DIR", help="the output directory of a run")
    return flags


def _run_flags() -> argparse.ArgumentParser:
    flags = _shared()
    flags.add_argument("--data", type=_folder, metavar="DIR", help="the challenge directory")
    flags.add_argument("--out", type=_run_folder, required=True, metavar="DIR", help="tables, models, entries, report")
    flags.add_argument("--tables", metavar="URL", help="where Delta tables lie if not in --out, e.g. s3://BUCKET/PATH")
    flags.add_argument("--catalog", metavar="NAME", help="tables are CATALOG.SCHEMA.<table>, as in Unity Catalog")
    flags.add_argument("--schema", metavar="NAME", help="goes with --catalog")
    return flags


def _config_flags(default: str | None) -> argparse.ArgumentParser:
    flags, about = _shared(), f"one of {', '.join(known_configs())}, or a YAML file"
    flags.add_argument("--config", default=default, metavar="FILE", help=about)
    about = "e.g. training.epochs=3"
    flags.add_argument("--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help=about)
    return flags


def _as_of_flag() -> argparse.ArgumentParser:
    flags, about = (
        _shared(),
        "read the events and products of the N-th ingest into --out, counted from 0, not the newest",
    )
    flags.add_argument("--as-of", type=int, metavar="N", help=about)
    return flags


def _block_flag() -> argparse.ArgumentParser:
    flags, about = (
        _shared(),
        "one more block of the profile, an entry in DIR; may be given several times (ensemble.blocks)",
    )
    flags.add_argument("--block", action="append", default=[], metavar="NAME=DIR", help=about)
    return flags


def _task_flags() -> argparse.ArgumentParser:
    flags = _shared()
    flags.add_argument("--tasks", nargs="+", action="extend", choices=TASKS, metavar="TASK", help="some tasks only")
    about = "mean and standard deviation over so many seeds and row orders, the organisers' first (probe.repeats)"
    flags.add_argument("--repeats", type=int, metavar="R", help=about)
    return flags


def _shared() -> argparse.ArgumentParser:
    """Flags that commands take as ``parents`` of theirs."""
    return argparse.ArgumentParser(add_help=False)


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


def _count(text: str) -> int:
    """A whole number, also as ``170e6``."""
    try:
        value = float(text)
        if value == int(value):
            return int(value)
    except (ValueError, OverflowError):
        pass
    raise argparse.ArgumentTypeError(f"expected a whole number such as 20000 or 170e6; found {text!r}")
