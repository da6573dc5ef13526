"""Where a run reads and writes: the challenge directory, the output directory, and its tables."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from jobs.storage.locations import quoted_name, spark_url, table_url
from jobs.storage.working_copy import COMPLETE, METRICS, WorkingCopy
from ml.files.notes import FolderNotes, Notes, StoreNotes
from schemas.errors import ConfigError, InputError, OutputError

NEEDED_FILES = {"models": ("weights.safetensors", "config.json"), "entries": ("client_ids.npy", "embeddings.npy")}
"""What each folder in a folder of ``out`` has, if it is whole. Those who write them import numpy or torch."""


@dataclass(frozen=True)
class Workspace:
    """The folders of one run.

    Attributes
    ----------
    out : holds ``tables``, ``models``, ``entries`` and the reports
    challenge : the source directory, None where the stage at hand was called without ``--data``
    as_of : number of the ingest whose tables are read, None for the newest of each
    tables_url : where the Delta tables lie if not in ``out``: a URL that Spark reads and no mount need reach
    catalog, schema : of Unity Catalog, or another one of the session's; both, if the tables are named and not paths
    working_copy : where ``--out`` takes whole files only: ``out`` is a copy of its plain files then
    data_url : where ``challenge`` was copied from, None where it is read where it lies

    Raises
    ------
    ConfigError
        If the tables have more than one location, or a name or URL is none.
    """

    out: Path
    challenge: Path | None = None
    as_of: int | None = None
    tables_url: str | None = None
    catalog: str | None = None
    schema: str | None = None
    working_copy: WorkingCopy | None = None
    data_url: str | None = None

    def __post_init__(self) -> None:
        if bool(self.catalog) != bool(self.schema) or (self.catalog and self.tables_url):
            raise ConfigError(
                "expected --catalog and --schema together, or --tables, or none of them, found "
                f"--catalog {self.catalog}, --schema {self.schema}{', --tables' if self.tables_url else ''}"
            )
        self.table("name")  # refuses a URL that is none, and a name that is more than one

    @property
    def data(self) -> Path:
        """The challenge directory; InputError where the command line did not name it."""
        if self.challenge is None:
            raise InputError("this stage reads the challenge directory: name it with --data DIR")
        return self.challenge

    @property
    def resolved_data(self) -> str | None:
        """The challenge directory by its absolute path or URL, None without one."""
        if self.data_url:
            return self.data_url
        return str(self.challenge.resolve()) if self.challenge else None

    def table(self, name: str) -> str:
        """A Delta table: its path, its URL, or its quoted name in the catalog."""
        if self.catalog and self.schema:
            return quoted_name(self.catalog, self.schema, name)
        if self.tables_url:
            return f"{table_url(self.tables_url)}/{name}"
        if self.working_copy:
            return f"{self.working_copy.store.spark_url}/tables/{name}"
        return str(self.out / "tables" / name)

    @property
    def named_tables(self) -> str:
        """Where the tables are, if not in ``out``."""
        return f"{self.tables_url or self.table('name')}\n" if self.tables_url or self.catalog else ""

    def copy(self, name: str) -> Path:
        """Folder for plain files of a table whose own no mount reaches."""
        return self.out / "copies" / name

    @contextmanager
    def spark_folder(self, name: str) -> Iterator[str]:
        """A URL below which Spark and the ranks may write until the block ends; what they wrote is removed then."""
        self.remove(self.out / name)  # of a killed run: its files would be read with the new ones
        if (self.out / name).exists():
            raise OutputError(
                f"expected to remove {self.out / name}, which an earlier run left, found that it cannot be; remove it "
                "as the user who owns it"
            )
        try:
            yield f"{self.working_copy.store.spark_url}/{name}" if self.working_copy else spark_url(self.out / name)
        finally:
            self.remove(self.out / name)

    @property
    def notes(self) -> Notes:
        """By which runs on the same ``--out`` know of each other."""
        return StoreNotes(self.working_copy.store, "logs") if self.working_copy else FolderNotes(self.logs)

    def notes_of_ranks(self, folder: Path) -> Notes:
        """By which driver and ranks know of each other: in a folder of ``out``, which is made, or in the store."""
        if self.working_copy:
            return self.notes
        folder.mkdir(parents=True, exist_ok=True)
        return FolderNotes(folder.resolve())

    @property
    def shown(self) -> str:
        """``--out`` as the user knows it."""
        return self.working_copy.store.url if self.working_copy else str(self.out)

    def pull(self, *names: str) -> None:
        """Fetch files and folders from a store, where ``out`` is a copy of one."""
        if self.working_copy:
            self.working_copy.pull(*names)

    def push(self, *names: str) -> None:
        """Copy what has changed, of all or below some folders, into a store, where ``out`` is a copy of one."""
        if self.working_copy:
            self.working_copy.push(*names)

    def has_output(self, name: str) -> bool:
        """Whether ``out`` has a file, or a folder whose files belong together, here or, whole, in the store."""
        files = [f"{name}/{file}" for file in NEEDED_FILES.get(name.partition("/")[0], ())]
        if all((self.out / each).exists() for each in files or [name]):
            return True
        if self.working_copy is None:
            return False
        # a folder is whole in the store when its mark is there, too
        needed = [*files, f"{name}/{COMPLETE}"] if files else [name]
        return all(self.working_copy.store.describe(each) for each in needed)

    def remove(self, folder: Path) -> bool:
        """Remove a folder of ``out``, which need not have been fetched; whether it was there."""
        was_there = folder.is_dir()
        shutil.rmtree(folder, ignore_errors=True)
        if self.working_copy:
            was_there |= self.working_copy.remove(self.working_copy.name_of(folder))
        return was_there

    def model(self, behaviour: str) -> Path:
        """Folder of one behaviour's trained model."""
        return self.out / "models" / behaviour

    def checkpoints(self, behaviour: str) -> Path:
        """Folder that a behaviour's training goes on from when it was killed; gone once all models are trained."""
        return self.out / "checkpoints" / behaviour

    def entry(self, name: str) -> Path:
        """Folder of an entry: ``client_ids.npy`` and ``embeddings.npy``."""
        return self.out / "entries" / name

    @property
    def metrics(self) -> Path:
        """Log of figures, one JSON object a line."""
        return self.out / METRICS

    @property
    def logs(self) -> Path:
        """What Spark, Ivy and the ranks say, where ``--verbose`` does not send it to the terminal."""
        return self.out / "logs"

    def prepare(self) -> None:
        """Make the output directory, for its user alone; OutputError if it cannot be written.

        One that is there keeps its permissions: where executors work as another user, it is made first.
        """
        try:
            self.out.parent.mkdir(parents=True, exist_ok=True)
            self.out.mkdir(mode=0o700, exist_ok=True)
            self.logs.mkdir(exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=self.out, prefix=".writable-"):  # its own: stages may start at once
                pass
        except OSError as error:
            raise OutputError(
                f"--out {self.out}: expected a folder that can be made and written, found: {error.strerror}; "
                "choose another folder or fix its permissions"
            ) from error
