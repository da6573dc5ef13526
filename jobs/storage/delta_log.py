"""The files of a Delta table's log, for whoever reads them without Spark."""

from pathlib import Path

DELTA_LOG = "_delta_log"


def commit_files(table: Path) -> list[Path]:
    """The commits that the log still holds as files of their own, oldest first; none where there is no table."""
    # a version has 20 digits; checkpoints and compacted commits may be .json too, with more in their names
    return sorted((table / DELTA_LOG).glob(f"{'[0-9]' * 20}.json"))
