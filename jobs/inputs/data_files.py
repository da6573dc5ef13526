"""Which files each stage reads that no stage wrote, and whether they are still the same ones."""

import logging
from collections.abc import Collection, Iterable
from pathlib import Path

from conf.pipeline import PipelineConfig
from jobs.inputs.challenge_directory import ACTIVE_CLIENTS, RELEVANT_CLIENTS, TARGET, check_challenge, source_path
from jobs.inputs.input_files import check_mapping, describe_path, input_path
from jobs.inputs.listing import list_source
from jobs.storage.entry_rules import CLIENT_IDS, COLUMN_EXPONENTS, EMBEDDINGS
from jobs.storage.locations import mounted_path
from jobs.storage.provenance import DataFiles
from jobs.storage.workspace import Workspace
from schemas.blocks import FACTORISED, ORACLE
from schemas.tables import PRODUCT_PROPERTIES
from schemas.tasks import PROPENSITY

log = logging.getLogger(__name__)

SMALL_BYTES = 32 * 2**20
"""Of source files: about two million events."""
SMALL_TO_FACTORISE = SMALL_BYTES // 8
"""Where a block is found by MLlib: without the optimising compiler its arithmetic takes twice the CPU time."""
MAX_NAMES = 20
"""Names of files in one line of the log."""


def list_sources(stage: str, config: PipelineConfig) -> list[str]:
    """What a stage reads, there or not: files and folders, by their paths in the challenge directory.

    With a mapping, the paths of its inputs as it has them; what lies in a catalog or a store is not among them.
    """
    if config.mapping.inputs:
        paths = [settings.path for settings in config.mapping.inputs.values() if settings.path and not settings.is_url]
        return list(dict.fromkeys(paths)) if stage == "ingest" else []
    if stage == "ingest":
        return [source_path(Path(), name).name for name in (PRODUCT_PROPERTIES.name, *config.behaviours)]
    if stage == "split":
        return [RELEVANT_CLIENTS, ACTIVE_CLIENTS]
    if stage == "targets":
        return [f"{TARGET}/{kind}{task}.npy" for task in PROPENSITY for kind in ("", "popularity_")]
    return []


def list_entry_files(stage: str, config: PipelineConfig) -> list[str]:
    """What a stage reads of entries from elsewhere, there or not: their files, by absolute paths."""
    blocks = [folder for folder in config.ensemble.named_blocks.values() if folder]
    folders = {"profile": blocks, "probe": config.probe.entries}.get(stage, ())
    files = (CLIENT_IDS, EMBEDDINGS, COLUMN_EXPONENTS)
    return [str(mounted_path(folder).resolve() / file) for folder in folders for file in files]


def describe_files(data: Path | None, sources: Iterable[str]) -> DataFiles:
    """The files of each source as they are now, none of one that is not there, by their names in ``data``.

    Files of an absolute path have absolute names. Such a source that is not there is left out, for it may lie on
    another machine; so is one in a directory that is not given.

    By size and time of change, not by content: terabytes would be read to see that nothing is to be done. A Delta table
    is described by its newest commit.
    """
    found: DataFiles = {}
    for source in sources:
        path = input_path(source, data)
        described = describe_path(path) if path else {}
        # the path of a mapping's input may also be a URL such as file:/x, which leads elsewhere
        if data and not source.startswith("/") and path == data / source:
            found[source] = {str(file.relative_to(data)): numbers for file, numbers in described.items()}
        elif described:
            found[source] = {str(file): numbers for file, numbers in described.items()}
    return found


def is_small(workspace: Workspace, config: PipelineConfig) -> bool:
    """Whether the source files, or the tables where no sources are named, are few bytes; False where none are seen."""
    if workspace.challenge is None:
        sizes = (path.stat().st_size for path in (workspace.out / "tables").rglob("*.parquet"))
    else:
        sources = describe_files(workspace.challenge, list_sources("ingest", config))
        described = [numbers for files in sources.values() for numbers in files.values()]
        seen = [settings.path in sources for settings in config.mapping.inputs.values()]
        if not all(seen) or any(len(numbers) != 2 for numbers in described):  # a catalog's, a store's, a Delta table's
            return False
        sizes = (size for size, _ in described)
    # what is small decides whether the JVM has its optimising compiler (build_session in jobs/runtime/session.py)
    limit = SMALL_TO_FACTORISE if config.ensemble.named_blocks.keys() & {*FACTORISED} else SMALL_BYTES
    n_bytes = 0
    for size in sizes:
        n_bytes += size
        if n_bytes > limit:  # the others need not be looked at
            return False
    return n_bytes > 0


def check_data(config: PipelineConfig, workspace: Workspace) -> None:
    """Raise InputError for the first thing that no ingest could get over, as far as it is seen without Spark."""
    if config.mapping.inputs:
        check_mapping(config.mapping, workspace.challenge)
    else:
        check_challenge(workspace.data, config)


def log_left_out(whole: PipelineConfig, config: PipelineConfig) -> None:
    """Log a line for each behaviour and encoder of the whole configuration that its mapping has no input for."""
    for kind, names in (
        ("behaviour", whole.behaviours.keys() - config.behaviours),
        ("encoder", whole.encoders.keys() - config.encoders),
    ):
        for name in sorted(names):
            log.info("%s %s: left out: the mapping %s has no input for it", kind, name, config.mapping.name)
    for name, encoder in config.encoders.items():
        if encoder.behaviours != whole.encoders[name].behaviours:
            log.info("encoder %s: reads %s, of which the mapping has input", name, ", ".join(encoder.behaviours))


def lists_folder(config: PipelineConfig, workspace: Workspace) -> Path | None:
    """Where the lists of clients and labels lie; None with a mapping, whose clients and labels come from its events."""
    return None if config.mapping.inputs else workspace.data


def name_source(config: PipelineConfig, workspace: Workspace, name: str) -> str:
    """How messages name the source of a behaviour."""
    if config.mapping.inputs:
        return f"inputs.{name} ({config.mapping.inputs[name].location})"
    return str(source_path(workspace.data, name))


def log_unread_files(data: Path, config: PipelineConfig) -> None:
    """Warn of what lies in a challenge directory and is not read, but for names that start with a dot or underscore.

    A simulated shop's ``oracle`` is an entry, for ``probe.entries``.
    """
    read = {data / source for stage in ("ingest", "split", "targets") for source in list_sources(stage, config)}
    for source in sorted(path for path in read if path.is_dir()):
        by_reason: dict[str, list[Path]] = {}
        for path, reason in list_source(source).skipped.items():
            by_reason.setdefault(reason, []).append(path.relative_to(source))
        for reason, paths in by_reason.items():
            log.warning("  %s: skipped, %s: %s", source.name, reason, _join(paths))
    folders = {data, *(source.parent for source in read if source.parent.is_dir())}
    known = read | folders | {data / ORACLE}
    unread = [path.relative_to(data) for folder in folders for path in folder.iterdir() if path not in known]
    if unread := sorted(path for path in unread if not path.name.startswith((".", "_"))):
        sources = ", ".join(list_sources("ingest", config))
        log.warning("  not read: %s; the sources are %s, and files of input/ and target/", _join(unread), sources)


def _join(paths: Collection[Path]) -> str:
    names = [repr(str(path))[1:-1] for path in paths]  # no control characters in the log
    return ", ".join(names[:MAX_NAMES]) + (f" and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else "")
