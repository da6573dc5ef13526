"""``provenance.json``: what each output of ``--out`` was made from.

Outputs are named by the stage that makes them, since a stage writes all of its tables and files together; models,
which are trained one by one, are ``models/<encoder>``. ``jobs.pipeline.out_of_date`` compares the records.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

from jobs.runtime.locks import lost_turn, taking_turns
from jobs.storage.files import checker, read_json, write_json
from jobs.storage.workspace import Workspace
from ml.files.atomic import remove_drafts

PROVENANCE = "provenance.json"
MODELS = "models/"
CONFIG = "config.yaml"
SHARED = (PROVENANCE, CONFIG)
"""Files that stages which run at once change."""

DataFiles = dict[str, dict[str, list[int]]]
"""Source in the challenge directory -> path of each of its files -> size in bytes, time of change in ns since 1970."""


def utc_now() -> str:
    """The time as it is recorded."""
    return datetime.now(UTC).isoformat(timespec="seconds")


@dataclass(frozen=True)
class Record:
    """One making of an output.

    Attributes
    ----------
    stage : that makes it
    id : of this making; the next has another
    made : when it ended well; None until then, and for ever if it did not
    inputs : output that it read -> id of that one's making
    settings : dotted setting -> value, of those that it depends on and its inputs do not
    data : the challenge directory, None where the stage was called without
    files : what the stage reads of that; empty where it reads nothing, and in records of earlier versions
    tables : where the tables are, if not in ``--out`` (``Workspace.named_tables``)
    as_of : the ingest that was asked for, None for the newest
    ingest : the ingest that was read, or written; None where it is not known
    read, written : Delta table -> version
    rows : Delta table -> rows written
    folders : of plain files, such as ``models/NAME`` and ``entries/NAME``; none in records of earlier versions
    """

    stage: str
    id: str = field(default_factory=lambda: uuid4().hex[:12])
    began: str = field(default_factory=utc_now)
    made: str | None = None
    inputs: dict[str, str] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    data: str | None = None
    files: DataFiles = field(default_factory=dict)
    tables: str = ""
    as_of: int | None = None
    ingest: int | None = None
    read: dict[str, int] = field(default_factory=dict)
    written: dict[str, int] = field(default_factory=dict)
    rows: dict[str, int] = field(default_factory=dict)
    folders: list[str] = field(default_factory=list)


Records = dict[str, Record]
"""Output -> its last making."""


def read_records(workspace: Workspace) -> Records:
    """The records of an output directory; none where it has no file of them, TableError where that is damaged."""
    path = workspace.out / PROVENANCE
    if not path.exists():
        return {}
    fix = "remove it; `ubp run` then begins anew, `ubp run --from STAGE` with a stage"
    # read_json checks and gives plain values; here they become records
    records: Records = checker(Records).validate_python(read_json(path, Records, fix))
    return records


@contextlib.contextmanager
def changed_records(workspace: Workspace) -> Iterator[Records]:
    """The records, to be changed; written back when the block ends well.

    Stages that run at once, on one host or several, take turns. What they share is copied from and to a store then.

    Raises
    ------
    OutputError
        If that took so long that another process took the turn over, whose records would be lost.
    """
    with taking_turns(workspace.notes, "provenance.lock") as is_our_turn:
        workspace.pull(*SHARED)
        records = read_records(workspace)
        yield records
        if not is_our_turn():
            raise lost_turn(workspace.notes, "provenance.lock")
        # nobody else writes during our turn, so drafts that lie there are those of killed runs
        remove_drafts(workspace.out / PROVENANCE)
        values = {output: asdict(record) for output, record in records.items()}
        write_json(workspace.out / PROVENANCE, values, indent=1)
        workspace.push(*SHARED)
