"""Versions of Delta tables, by their logs."""

from pathlib import Path

from jobs.storage.delta_log import commit_files


def latest_version(folder: str) -> int:
    """Number of the newest commit."""
    return int(commit_files(Path(folder))[-1].stem)
