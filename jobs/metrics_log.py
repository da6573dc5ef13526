"""``metrics.jsonl``: every figure of a run, one JSON object a line, in the order they were measured."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any


def append_metrics(path: Path, values: Mapping[str, Any]) -> None:
    """Add one line, stamped with the time; keys carry their unit (``stage/seconds``)."""
    line = json.dumps({"time": datetime.now(UTC).isoformat(timespec="seconds"), **values})
    with path.open("a") as stream:
        stream.write(line + "\n")


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """All lines, oldest first; empty where nothing was logged yet."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines() if line]
