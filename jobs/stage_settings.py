"""Which settings each stage's output was made with, so that no later stage takes it for something else."""

import fnmatch
import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from conf.load import flat_settings
from conf.settings import PipelineConfig
from jobs.json_files import read_json
from ml.folders import replace_text
from schemas.errors import ConfigError

KEY = "settings"
"""Of ``progress.json``: stage -> dotted setting -> value."""


@dataclass(frozen=True)
class ProgressFile:
    """The keys of ``progress.json``; a stage that was run alone notes settings only."""

    settings: dict[str, dict[str, Any]] = field(default_factory=dict)
    fingerprint: str = ""
    finished: list[str] = field(default_factory=list)


DECIDED_BY = {
    "ingest": ("behaviours.*.item", "behaviours.*.kind", "ingest.drop_duplicates"),
    "split": ("windows.*",),
    "vocabulary": ("behaviours.*.min_count",),
    "sequences": ("sequences.*", "behaviours.*.max_sequence_length"),
    "train": ("seed", "model.*", "masking.*", "loss.*", "training.*"),
}
"""Stage -> the settings that its output depends on and no earlier stage's does, where a later stage reads that output
as what the settings say; those of ``train`` without what has no say in the weights."""


def settings_of(stage: str, config: PipelineConfig) -> dict[str, Any]:
    """Dotted setting -> value, of those that the stage decides by."""
    telling = replace(config, training=config.training.of_weights())
    flat = dict(flat_settings(asdict(telling)))
    patterns = DECIDED_BY.get(stage, ())
    return {key: value for key, value in flat.items() if any(fnmatch.fnmatchcase(key, each) for each in patterns)}


def note_settings(progress: Path, stage: str, config: PipelineConfig) -> None:
    """Remember what a stage's output was made with, if a later one depends on it."""
    if stage not in DECIDED_BY:
        return
    saved = read_progress(progress)
    settings = saved.get(KEY, {}) | {stage: settings_of(stage, config)}
    replace_text(progress, json.dumps(saved | {KEY: settings}))


def check_settings(progress: Path, earlier: list[str], stage: str, config: PipelineConfig) -> None:
    """Compare the configuration with what the outputs of earlier stages were made with.

    Raises
    ------
    ConfigError
        If a setting differs, before the stage writes anything.
    """
    noted = read_progress(progress).get(KEY, {})
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
