"""Which files of the challenge directory each stage reads, and whether they are still the same ones."""

import logging
from collections.abc import Collection, Iterable
from pathlib import Path

from conf.pipeline import PipelineConfig
from jobs.inputs.challenge_directory import ACTIVE_CLIENTS, RELEVANT_CLIENTS, TARGET, source_path
from jobs.inputs.listing import list_source, parquet_files
from jobs.storage.provenance import DataFiles
from jobs.storage.workspace import Workspace
from schemas.blocks import ORACLE
from schemas.tables import PRODUCT_PROPERTIES
from schemas.tasks import PROPENSITY

log = logging.getLogger(__name__)

SMALL_BYTES = 32 * 2**20
"""Of source files: about two million events."""
MAX_NAMES = 20
"""Names of files in one line of the log."""


def list_sources(stage: str, config: PipelineConfig) -> list[str]:
    """What a stage reads of the challenge directory, there or not: files and folders, by their paths in it."""
    if stage == "ingest":
        return [source_path(Path(), name).name for name in (PRODUCT_PROPERTIES.name, *config.behaviours)]
    if stage == "split":
        return [RELEVANT_CLIENTS, ACTIVE_CLIENTS]
    if stage == "targets":
        return [f"{TARGET}/{kind}{task}.npy" for task in PROPENSITY for kind in ("", "popularity_")]
    return []


def describe_files(data: Path | None, sources: Iterable[str]) -> DataFiles:
    """The files of each source as they are now, none of one that is not there; empty without a challenge directory.

    By size and time of change, not by content: terabytes would be read to see that nothing is to be done.
    """
    if data is None:
        return {}
    found: DataFiles = {}
    for source in sources:
        files = parquet_files(data / source) if (data / source).exists() else []
        stats = {str(file.relative_to(data)): file.stat() for file in files}
        found[source] = {name: [stat.st_size, stat.st_mtime_ns] for name, stat in stats.items()}
    return found


def is_small(workspace: Workspace, config: PipelineConfig) -> bool:
    """Whether the source files, or the tables where no sources are named, are few bytes; False where none are seen."""
    if workspace.challenge is None:
        sizes = (path.stat().st_size for path in (workspace.out / "tables").rglob("*.parquet"))
    else:
        sources = describe_files(workspace.challenge, list_sources("ingest", config))
        sizes = (size for files in sources.values() for size, _ in files.values())
    n_bytes = 0
    for size in sizes:
        n_bytes += size
        if n_bytes > SMALL_BYTES:  # the others need not be looked at
            return False
    return n_bytes > 0


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
