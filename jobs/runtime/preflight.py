"""Before anything starts on a cluster: whether its executors see the folders of a run as the driver does."""

import shutil
import socket
import time
import uuid
from collections.abc import Callable
from pathlib import Path

from pyspark import SparkContext

from ml.files.notes import FolderNotes, Notes, StoreNotes
from ml.files.store import Store
from schemas.errors import InputError, OutputError, PipelineError

TASKS_PER_SLOT = 3
"""So that, as tasks go to whichever slot is free, each executor gets one."""

NO_DATA = "no --data"

Answer = tuple[str, str, str]
"""Of a task: its host; the token that it wrote, or nothing; what is wrong there, or nothing."""


def require_mounts(context: SparkContext, out: Path | Store, data: Path | None) -> None:
    """Check that executors read what the driver writes in ``out``, that it sees what they write, and ``data``.

    ``out`` is a folder that all mount, or a store that all must reach.

    In local mode there is nothing to check. Of executors that come later nothing is known.

    Raises
    ------
    OutputError, InputError
        Which hosts do not see which folder.
    """
    # not local-cluster: its executors are processes of their own
    if str(context.master).split("[")[0] == "local":
        return
    name = f".mount-{uuid.uuid4().hex[:12]}"
    # by what the run itself will use: files of a folder, or objects of a store
    notes: Notes
    if isinstance(out, Store):
        notes = StoreNotes(out, name)
    else:
        notes = FolderNotes(out.resolve() / name)
        notes.folder.mkdir()
    try:
        notes.write("driver", name)
        n_tasks = TASKS_PER_SLOT * max(1, context.defaultParallelism)
        look = look_from_executor(notes, name, str(data.resolve()) if data else "")
        answers: list[Answer] = context.parallelize(range(n_tasks), n_tasks).map(look).collect()
        blind = {host: problem for host, _, problem in answers if problem}
        tokens = set(notes.names("executor"))
        unseen = {host for host, token, problem in answers if not problem and token not in tokens}
    finally:
        if isinstance(out, Store):
            out.remove(out.list_all(name))
        else:
            shutil.rmtree(out.resolve() / name, ignore_errors=True)
    blind |= dict.fromkeys(unseen, "what it writes there, the driver does not find")
    if no_data := sorted(host for host, problem in blind.items() if problem == NO_DATA):
        raise InputError(
            f"--data {data}: expected a folder that every executor mounts, found none on {', '.join(no_data)}; "
            "mount it there at the same path"
        )
    if blind:
        found = "; ".join(f"{host}: {problem}" for host, problem in sorted(blind.items()))
        if isinstance(out, Store):
            raise OutputError(
                f"--out {out.url}: expected a store that every executor may read and write, found: {found}; give their "
                "environment what the store asks for (docs/running.md)"
            )
        raise OutputError(
            f"--out {out}: expected one folder that driver and executors mount at the same path and may write, found: "
            f"{found}; mount it there, or let their user write"
        )


def look_from_executor(notes: Notes, name: str, data: str) -> Callable[[int], Answer]:
    """What a task does."""

    def look(number: int) -> Answer:
        time.sleep(0.2)  # else the first executor to come would do all tasks
        host, token = socket.gethostname(), f"executor-{number}-{uuid.uuid4().hex[:8]}"
        try:
            if notes.read("driver") != name:
                return host, "", "another file than the driver wrote"
            notes.write(token, token)
        except (OSError, PipelineError) as error:
            return host, "", getattr(error, "strerror", None) or str(error)
        return host, token, NO_DATA if data and not Path(data).is_dir() else ""

    return look
