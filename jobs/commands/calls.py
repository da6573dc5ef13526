"""What a call needs before its command works: settings, folders, locks and the session."""

import argparse
import contextlib
import logging
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from conf.load import DEFAULT, load_config
from conf.pipeline import PipelineConfig
from jobs.pipeline.out_of_date import TRAIN
from jobs.pipeline.registry import STAGE_NAMES
from jobs.runtime.locks import locked
from jobs.runtime.logs import SHOWN
from jobs.runtime.temp_dirs import scratch_folder
from jobs.storage.locations import is_s3, mounted_path, takes_whole_files
from jobs.storage.provenance import CONFIG
from jobs.storage.working_copy import WorkingCopy, copy_folder
from jobs.storage.workspace import Workspace
from ml.files.store import Store, patience
from schemas.behaviours import PRODUCT_BUY
from schemas.errors import ConfigError, OutputError

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

log = logging.getLogger(__name__)

FAILED_SECONDS = 60.0
"""For so long a store that does not answer is waited for by a run that failed."""


def prepare(arguments: argparse.Namespace, reads_data: bool) -> tuple[PipelineConfig, Workspace]:
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
    workspace = open_workspace(arguments, config)
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


def open_workspace(arguments: argparse.Namespace, config: PipelineConfig | None = None) -> Workspace:
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


def require_mounted(arguments: argparse.Namespace) -> None:
    """Raise ConfigError where ``--out`` is in a store, for a command that works in a folder."""
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


def start_session(arguments: argparse.Namespace, config: PipelineConfig, workspace: Workspace) -> "SparkSession":
    """The session of a call, once the catalog has the schema and each executor the folders."""
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


def prepare_upkeep(arguments: argparse.Namespace) -> "tuple[SparkSession, Workspace]":
    """What the upkeep of tables needs: no configuration, all stages locked."""
    from conf.spark import SparkSettings
    from jobs.commands.upkeep import list_tables
    from jobs.runtime.session import build_session

    require_mounted(arguments)
    workspace = Workspace(arguments.out)
    list_tables(workspace)  # before a folder is made and Spark starts
    workspace.prepare()
    _lock(arguments, workspace)
    settings = SparkSettings(shuffle_partitions=8)
    return build_session(settings, None if arguments.verbose else workspace.logs / "spark.log"), workspace
