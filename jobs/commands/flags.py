"""The commands and their flags; importing them imports neither Spark nor torch."""

import argparse
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

from conf.load import DEFAULT, MAPPINGS, known_configs
from jobs.pipeline.registry import STAGE_NAMES, STAGES
from jobs.storage.locations import mounted_path, mounted_path_or_url
from schemas.errors import ConfigError
from schemas.tasks import TASKS

T = TypeVar("T")

_LOGS = ("verbose", "json-logs")
_CONFIG = ("config", "set", *_LOGS)
_RUN = ("data", "inputs", "out", "tables", "catalog", "schema", *_CONFIG)


def build_parser() -> argparse.ArgumentParser:
    """The parser of ``ubp``; what it reads has the name of its ``command``, and the ``stage`` of one that runs one."""
    parser = argparse.ArgumentParser(
        prog="ubp", description="Event logs -> Universal Behavioral Profiles (RecSys Challenge 2025)."
    )
    parser.add_argument("--version", action="version", version=f"ubp {_version()}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", dest="command")

    def add(name: str, about: str, *flags: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=about)
        for flag in flags:
            command.add_argument(f"--{flag}", **_FLAGS[flag])
        return command

    about = "all stages but those that are up to date; a run that died goes on"
    add("run", about, *_RUN, "as-of", "block", "from", "to", "restart")
    about = "what each output was made from, and whether it is up to date; with --config or --set, settings too"
    # None, not the default configuration: settings are compared only where they are given
    add("status", about, "out", "inputs", *_CONFIG).set_defaults(config=None)
    add("generate", "data in the challenge's file format", "out", "clients", "days", "events", "seed", *_LOGS)
    own = {"train": ["only", "prune"], "profile": ["block"], "probe": ["entry", "tasks", "repeats"]}
    for stage in STAGES:
        as_of = ["as-of"] if stage.reads_ingested else []
        add(stage.name, stage.about, *_RUN, *as_of, *own.get(stage.name, [])).set_defaults(stage=stage)
    # None, not the default configuration: without --config, these two have the settings of the run in --out
    about = "what each block of the profile is worth: alone, left out, all"
    add("ablate", about, *_RUN, "block", "tasks", "repeats").set_defaults(config=None)
    about = "the items that an encoder expects next of each client, by your own ids: tables/recommendations"
    add("recommend", about, *_RUN, "encoder", "top").set_defaults(config=None)
    validate = add("validate", "check an entry against the competition's rules", *_CONFIG)
    for flag in ("entry", "data"):  # needed here, and once each, unlike in other commands
        validate.add_argument(f"--{flag}", type=_folder, required=True, metavar="DIR", help=_FLAGS[flag]["help"])
    about = "remove the files of old table versions; models keep theirs"
    add("vacuum", about, "out", "keep-hours", "dry-run", "force", "idle", *_LOGS)
    compact = add("compact", "merge small files of tables; sequences are left as they are", "out", *_LOGS)
    compact.add_argument("tables", nargs="*", metavar="TABLE", help="some tables only")
    return parser


def _version() -> str:
    try:
        return metadata.version("ubp")
    except metadata.PackageNotFoundError:  # a checkout on PYTHONPATH
        return "of a checkout that is not installed"


def _folder(text: str) -> Path:
    return _refused_by_argparse(mounted_path, text)


def _named_folder(text: str) -> str:
    if not all(text.partition("=")):
        raise argparse.ArgumentTypeError(f"expected NAME=DIR, a name and the folder of an entry; found {text!r}")
    return text


def _folder_or_url(text: str) -> Path | str:
    return _refused_by_argparse(mounted_path_or_url, text)


def _refused_by_argparse(read: Callable[[str], T], text: str) -> T:
    try:
        return read(text)
    except ConfigError as error:  # argparse shows the message of its own error alone
        raise argparse.ArgumentTypeError(str(error)) from error


def _count(text: str) -> int:
    """A whole number, also as ``170e6``."""
    try:
        value = float(text)
        if value == int(value):
            return int(value)
    except (ValueError, OverflowError):
        pass
    raise argparse.ArgumentTypeError(f"expected a whole number such as 20000 or 170e6; found {text!r}")


class _Once(argparse.Action):
    """Takes a value; of a flag that is given twice argparse itself would keep the second, without a line."""

    def __call__(
        self, _: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, flag: str | None = None
    ) -> None:
        """Refuse a second value."""
        given = namespace.__dict__.setdefault("given", set())
        if self.dest in given:
            raise argparse.ArgumentError(self, "expected it once, found it twice")
        given.add(self.dest)
        setattr(namespace, self.dest, values)


def _flag(about: str, metavar: str | None = None, **more: Any) -> dict[str, Any]:
    # without a key for None: "store_true" takes no metavar at all
    return {"help": about, "action": _Once, **({"metavar": metavar} if metavar else {}), **more}


# --set a=1 --set b=2 adds up; argparse extends a copy, so a default of [] stays empty
_SEVERAL = {"nargs": "+", "action": "extend"}
_FLAGS: dict[str, dict[str, Any]] = {
    "data": _flag("the challenge directory; with --inputs, the folder that its relative paths are under", "DIR",
                  type=_folder_or_url),
    "inputs": _flag(f"tables of your own instead of a challenge directory: {', '.join(known_configs(MAPPINGS))}, or a "
                    "YAML file (docs/your-data.md)", "FILE"),
    "out": _flag("the output directory, or a URL such as s3://BUCKET/PATH: tables, models, entries, report", "DIR",
                 type=_folder_or_url, required=True),
    "tables": _flag("where Delta tables lie if not in --out, e.g. s3://BUCKET/PATH", "URL"),
    "catalog": _flag("tables are CATALOG.SCHEMA.<table>, as in Unity Catalog", "NAME"),
    "schema": _flag("goes with --catalog", "NAME"),
    "config": _flag(f"one of {', '.join(known_configs())}, or a YAML file; ablate and recommend: by default, that of "
                    "the run", "FILE", default=DEFAULT),
    "set": _flag("e.g. training.epochs=3", "KEY=VALUE", default=[], **_SEVERAL),
    "verbose": _flag("Spark's own log, and stack traces", action="store_true"),
    "json-logs": _flag("each log line as a JSON object", action="store_true"),
    "as-of": _flag("read the tables of the N-th ingest into --out, counted from 0, not the newest", "N", type=int),
    "block": _flag("one more block of the profile, an entry in DIR; may be given several times (ensemble.blocks)",
                   "NAME=DIR", type=_named_folder, action="append", default=[]),
    "from": _flag("first stage to run", "STAGE", choices=STAGE_NAMES, dest="first"),
    "to": _flag("last stage to run", "STAGE", choices=STAGE_NAMES, dest="last"),
    "restart": _flag("begin with the first stage, whatever is up to date", action="store_true"),
    "only": _flag("train these encoders and leave the other models alone", "NAME", default=[], **_SEVERAL),
    "prune": _flag("remove the models of earlier runs that the configuration does not name", action="store_true"),
    "entry": _flag("an entry (client_ids.npy, embeddings.npy) instead of OUT/entries/*; may be given several times",
                   "DIR", type=_folder, action="append", default=[]),
    "encoder": _flag("whose items: one of a single behaviour", "NAME", required=True),
    "top": _flag("so many items of each client (20)", "N", type=int, default=20),
    "tasks": _flag("some tasks only", "TASK", choices=TASKS, **_SEVERAL),
    "repeats": _flag("mean and standard deviation over so many seeds and row orders, the organisers' first "
                     "(probe.repeats)", "R", type=int),
    "clients": _flag("a simulated shop: how many clients", type=int),
    "days": _flag("a simulated shop: how many days of events", type=int),
    "events": _flag("a benchmark log, of the size and statistics of the challenge's data: how many events, e.g. 170e6",
                    "N", type=_count),
    "seed": _flag("the same seed gives the same data", type=int),
    "keep-hours": _flag("what was newest since stays (168)", "N", type=int, default=168),
    "dry-run": _flag("only list what would go", action="store_true"),
    "force": _flag("remove also the versions that models were trained on", action="store_true"),
    "idle": _flag("nothing uses --out now: allow --keep-hours below 168", action="store_true"),
}  # fmt: skip
"""Flag -> its arguments of argparse; a flag that several commands take stands here once."""
