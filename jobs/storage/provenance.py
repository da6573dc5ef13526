"""What each stage's output was made with and from, so that no later stage takes it for something else."""

import contextlib
import fcntl
import fnmatch
import json
import os
from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from conf.load import flat_settings
from conf.pipeline import PipelineConfig
from jobs.storage.files import read_json
from jobs.storage.workspace import Workspace
from ml.files.atomic import replace_text
from schemas.errors import ConfigError

PROGRESS = "progress.json"
SETTINGS, MADE, FINISHED = "settings", "made", "finished"
"""Keys of ``progress.json``, see ``ProgressFile``."""


@dataclass(frozen=True)
class Origin:
    """What a stage's output was made from.

    Attributes
    ----------
    data : the challenge directory, None where the stage was called without
    tables : where the tables are, if not in ``--out`` (``Workspace.named_tables``)
    """

    data: str | None
    tables: str


@dataclass(frozen=True)
class ProgressFile:
    """The keys of ``progress.json``.

    Attributes
    ----------
    settings : stage -> dotted setting -> value, of its last run that ended well
    made : stage -> what its output was made from; of stages, run alone or not, whose last run ended well and whose
        input was not made anew since
    fingerprint, finished : which run it is, and its stages that are finished, see ``jobs.pipeline.runner.RunProgress``
    """

    settings: dict[str, dict[str, Any]] = field(default_factory=dict)
    made: dict[str, Origin] = field(default_factory=dict)
    fingerprint: str = ""
    finished: list[str] = field(default_factory=list)


DECIDED_BY = {
    "ingest": ("behaviours.*.item", "behaviours.*.kind", "ingest.drop_duplicates"),
    "split": ("windows.*",),
    "vocabulary": ("behaviours.*.min_count",),
    "sequences": ("seed", "sequences.*", "encoders.*.max_length", "behaviours.*.keep_rare_as_unk"),
    "train": ("model.*", "masking.*", "loss.*", "training.*"),
}
"""Stage -> the settings that its output depends on and no earlier stage's does, where a later stage reads that output
as what the settings say; those of ``train`` without what has no say in the weights."""


def settings_of(stage: str, config: PipelineConfig) -> dict[str, Any]:
    """Dotted setting -> value, of those that the stage decides by."""
    telling = replace(config, training=config.training.of_weights())
    flat = dict(flat_settings(asdict(telling)))
    patterns = DECIDED_BY.get(stage, ())
    return {key: value for key, value in flat.items() if any(fnmatch.fnmatchcase(key, each) for each in patterns)}


def note_end(workspace: Workspace, stage: str, config: PipelineConfig) -> None:
    """Remember that a stage ended well, what its output was made from, and with, if a later one depends on that."""
    with changed_progress(workspace.out / PROGRESS) as saved:
        saved.setdefault(MADE, {})[stage] = asdict(Origin(workspace.resolved_data, workspace.named_tables))
        if stage in DECIDED_BY:
            saved.setdefault(SETTINGS, {})[stage] = settings_of(stage, config)


def forget_stages(saved: dict[str, Any], stages: Collection[str]) -> None:
    """Take stages out of those that are made, and out of those that a run finished."""
    if MADE in saved:
        saved[MADE] = {name: origin for name, origin in saved[MADE].items() if name not in stages}
    if FINISHED in saved:
        saved[FINISHED] = [name for name in saved[FINISHED] if name not in stages]


def made_stages(workspace: Workspace) -> dict[str, str | None]:
    """Stage -> the challenge directory that its output was made from, of those that are made where the tables are."""
    made = read_progress(workspace.out / PROGRESS).get(MADE, {})
    return {name: of["data"] for name, of in made.items() if of["tables"] == workspace.named_tables}


def check_settings(progress: Path, earlier: Collection[str], stage: str, config: PipelineConfig) -> None:
    """Compare the configuration with what the outputs of earlier stages were made with.

    Parameters
    ----------
    earlier : the stages that ``stage`` needs, by others too

    Raises
    ------
    ConfigError
        If a setting differs, before the stage writes anything.
    """
    noted = read_progress(progress).get(SETTINGS, {})
    for other in earlier:
        if other not in noted:
            continue
        now = json.loads(json.dumps(settings_of(other, config)))
        # a behaviour that is left out now is no contradiction
        differing = [key for key, value in now.items() if noted[other].get(key) != value]
        if differing:
            told = ", ".join(f"{key}={noted[other].get(key, 'none')} (now {now[key]})" for key in differing[:5])
            raise ConfigError(
                f"{stage}: expected the settings that {other} ran with, found others: {other} had {told}; give the "
                f"same, or run again from {other} (`ubp run --from {other}`)"
            )


def read_progress(path: Path) -> dict[str, Any]:
    """What ``progress.json`` holds; nothing where there is none, TableError where it is damaged."""
    mend = "remove it; `ubp run` then begins anew, `ubp run --from STAGE` with a stage"
    saved: dict[str, Any] = read_json(path, ProgressFile, mend) if path.exists() else {}
    return saved


@contextlib.contextmanager
def changed_progress(path: Path) -> Iterator[dict[str, Any]]:
    """What ``progress.json`` holds, to be changed; written back, if it was, when the block ends well.

    Stages that run at once take turns, where the file system has locks.
    """
    with _locked(path.parent):
        saved = read_progress(path)
        before = json.dumps(saved)
        yield saved
        if (after := json.dumps(saved)) != before:
            replace_text(path, after)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)  # gives the lock back
