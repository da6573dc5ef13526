"""Files of an object store, or of a mount that takes whole files only, by fsspec: nothing is appended to or renamed."""

import errno
import logging
import shutil
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from contextvars import ContextVar, copy_context
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from ml.files.atomic import create_file, replace_file
from schemas.errors import ConfigError, OutputError

log = logging.getLogger(__name__)

T = TypeVar("T")

_TIMEOUTS = {"connect_timeout": 10, "read_timeout": 60}
# listings are not cached: other processes, on other hosts, write to the same store
OPTIONS: dict[str, dict[str, Any]] = {
    # few tries of its own: ours wait until a store answers, for as long as ``patience`` says
    "s3": {"use_listings_cache": False, "config_kwargs": {**_TIMEOUTS, "retries": {"max_attempts": 2}}},
    "gs": {"use_listings_cache": False},
    "abfss": {"use_listings_cache": False},
    # a store has no folders to be made: a mount is to behave as one
    "file": {"auto_mkdir": True},
}
"""Protocol -> what its file system is made with; credentials come from the environment alone."""
_READERS_OPTIONS = {**OPTIONS, "s3": {**OPTIONS["s3"], "config_kwargs": _TIMEOUTS}}
PACKAGES = {"s3": "s3fs", "gs": "gcsfs", "abfss": "adlfs"}
"""Protocol -> the package of its file system, which is an extra of ``setup.py``."""
PATIENCE_SECONDS = 300.0
"""For so long a store that fails is tried again."""
MAX_WAIT_SECONDS = 20.0
TRANSFERS = 8
"""Files on their way at once."""
_FINAL_NUMBERS = {
    errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.EEXIST
}  # fmt: skip
_NO_RENAMES = {errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EPERM}
"""By which a mount says that it does not rename."""

_patience: ContextVar[float | None] = ContextVar("patience", default=None)


@contextmanager
def patience(seconds: float) -> Iterator[None]:
    """Within the block, give up on a store that fails after so many seconds."""
    token = _patience.set(seconds)
    try:
        yield
    finally:
        _patience.reset(token)


@dataclass(frozen=True)
class StoredFile:
    """What a store says of a file.

    Attributes
    ----------
    n_bytes : its size
    tag : another one for other content: the ETag, or what the store has in its place
    written : when, in seconds since 1970 by the store's clock
    """

    n_bytes: int
    tag: str
    written: float


@dataclass(frozen=True)
class Store:
    """The files below a URL such as ``s3://bucket/run``, or below the path of a mount; each is written whole or not.

    Whatever fails for a while is tried again. Names are paths relative to the URL.

    Raises
    ------
    ConfigError
        If the package for such a URL is not installed.
    OutputError
        By every method: if the store refuses, or does not answer for ``PATIENCE_SECONDS``.
    """

    url: str

    def __reduce__(self) -> tuple[type, tuple[str]]:
        return Store, (self.url,)  # each process connects by itself

    @property
    def protocol(self) -> str:
        """``s3``, ``gs``, ``abfss``, or ``file`` for a mount."""
        return self.url.partition("://")[0] if "://" in self.url else "file"

    @cached_property
    def system(self) -> Any:
        """The file system of fsspec; a request is soon given up, for ``_try`` waits."""
        return self._connect(OPTIONS, 1)

    @cached_property
    def readers_system(self) -> Any:
        """The same for libraries that read through it, without our ``_try``: a request is tried for about 100 s."""
        return self._connect(_READERS_OPTIONS, 15)

    def _connect(self, options: Mapping[str, dict[str, Any]], n_tries: int) -> Any:
        import fsspec

        try:
            system = fsspec.core.url_to_fs(self.url, **options.get(self.protocol, {}))[0]
            if hasattr(system, "retries"):  # of s3fs
                system.retries = n_tries
            return system
        except (ImportError, ValueError) as error:
            package = PACKAGES.get(self.protocol)
            fix = f"install it: pip install {package}" if package else "choose s3://, gs:// or abfss://"
            raise ConfigError(
                f"{self.url}: expected a package that reaches such a store, found: {error}; {fix}"
            ) from error

    @property
    def spark_url(self) -> str:
        """What Spark calls it."""
        if self.protocol == "file":
            # mounts that take whole files only are DBFS and Unity Catalog Volumes
            return f"dbfs://{self.url.removeprefix('/dbfs')}"
        return spark_scheme(self.url)

    def full(self, name: str = "") -> str:
        """How the file system calls a file."""
        path = str(self.system._strip_protocol(self.url)).rstrip("/")
        return f"{path}/{name}" if name else path

    def list_all(self, prefix: str = "") -> dict[str, StoredFile]:
        """A file, or all files below a folder, by name."""

        def find() -> dict[str, StoredFile]:
            start = len(self.full()) + 1
            try:
                # a store knows no empty folder: one that is not there has no files
                found = self.system.find(self.full(prefix), detail=True)
            except FileNotFoundError:
                return {}
            # earlier versions of fsspec say nothing of a single file
            described = {name: info or self.system.info(name) for name, info in sorted(found.items())}
            return {name[start:]: _describe(info) for name, info in described.items()}

        return self._try(f"list {prefix}", find)

    def list_single(self) -> dict[str, StoredFile]:
        """The files that are in no folder, by name."""

        def find() -> dict[str, StoredFile]:
            try:
                found = self.system.ls(self.full(), detail=True)
            except FileNotFoundError:
                return {}
            start = len(self.full()) + 1
            return {info["name"][start:]: _describe(info) for info in found if info["type"] == "file"}

        return self._try("list it", find)

    def describe(self, name: str) -> StoredFile | None:
        """One file; None where there is none."""

        def info() -> StoredFile | None:
            try:
                return _describe(self.system.info(self.full(name)))
            except FileNotFoundError:
                return None

        return self._try(f"look at {name}", info)

    def read(self, name: str) -> bytes:
        """The content of a file; FileNotFoundError where there is none."""
        return self._try(f"read {name}", lambda: bytes(self.system.cat_file(self.full(name))))

    def write(self, name: str, content: bytes) -> None:
        """Replace a file."""

        def replace() -> None:
            if self.protocol == "file":
                replace_file(self._made(name), lambda path: path.write_bytes(content), _NO_RENAMES)
            else:
                self.system.pipe_file(self.full(name), content)

        self._try(f"write {name}", replace, is_writing=True)

    def _made(self, name: str) -> Path:
        """The path of a mount's file, in a folder that is there."""
        path = Path(self.full(name))
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def create(self, name: str, content: bytes) -> None:
        """Make a file that is not there; FileExistsError where it is, whoever was first.

        No two of equal content may be made: a try whose answer was lost knows its own work by it.
        """
        tries = 0

        def make() -> None:
            nonlocal tries
            tries += 1
            try:
                if self.protocol == "file":  # fsspec's own of some versions replaces
                    create_file(self._made(name), content)
                else:
                    # the store itself refuses where it is there: a look beforehand would miss what is made meanwhile
                    self.system.pipe_file(self.full(name), content, mode="create")
            except FileExistsError:
                if tries == 1 or self.system.cat_file(self.full(name)) != content:
                    raise

        self._try(f"create {name}", make, is_writing=True)

    def get(self, names: Collection[str], folder: Path) -> None:
        """Copy files into a folder on this machine, under their names."""

        def copy(name: str) -> None:
            path = folder / name
            is_below = ".." not in path.parts and path.is_relative_to(folder)
            if "\0" in name or not is_below:  # some stores take any text for a name
                raise OutputError(f"{self.url}: expected names of files below it, found {name!r}; remove that file")
            draft = path.with_name(f".{path.name}.partial")
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                self._try(f"read {name}", lambda: self.system.get_file(self.full(name), str(draft)))
                draft.replace(path)  # on this machine's own disk
            except OSError as error:  # too long a name, a file in the place of a folder
                raise OutputError(
                    f"{self.url}: expected files that can be copied here, found {name!r} ({error}); rename or remove it"
                ) from error

        _side_by_side(copy, names)

    def put(self, names: Collection[str], folder: Path) -> None:
        """Copy files of a folder on this machine here, under their names."""

        def copy(name: str) -> None:
            if self.protocol == "file":
                replace_file(self._made(name), lambda path: shutil.copyfile(folder / name, path), _NO_RENAMES)
            else:
                self.system.put_file(str(folder / name), self.full(name))

        _side_by_side(lambda name: self._try(f"write {name}", lambda: copy(name), is_writing=True), names)

    def remove(self, names: Collection[str]) -> None:
        """Remove files; those that are not there are none to remove."""

        def remove(name: str) -> None:
            with suppress(FileNotFoundError):
                self.system.rm_file(self.full(name))

        _side_by_side(lambda name: self._try(f"remove {name}", lambda: remove(name)), names)

    def _try(self, what: str, work: Callable[[], T], is_writing: bool = False) -> T:
        limit = _patience.get()
        deadline = time.monotonic() + (PATIENCE_SECONDS if limit is None else limit)
        wait = 0.5
        while True:
            try:
                return work()
            except (FileExistsError, ConfigError):
                raise
            except Exception as error:  # of fsspec's packages, each with errors of its own
                # what is written need not be there: then it is the bucket that is missing, and no further try helps
                is_missing = isinstance(error, FileNotFoundError)
                if is_missing and not is_writing:
                    raise
                reason = " ".join(str(error).split())[:300] or type(error).__name__
                if is_missing or _is_final(error) or time.monotonic() + wait > deadline:
                    raise OutputError(
                        f"{self.url}: expected a store that lets us {what}, found: {reason}; give credentials and the "
                        "address by the environment (AWS_*, AWS_ENDPOINT_URL, GOOGLE_APPLICATION_CREDENTIALS, "
                        "AZURE_STORAGE_*), or run again when it answers: finished stages are kept"
                    ) from error
                log.warning("  %s: cannot %s now, trying again in %.0f s: %s", self.url, what, wait, reason)
                time.sleep(wait)
                wait = min(2 * wait, MAX_WAIT_SECONDS)


def spark_scheme(url: str) -> str:
    """The URL as Spark's connectors know it: S3 is ``s3a`` to Hadoop."""
    return f"s3a://{url[5:]}" if url.startswith("s3://") else url


def python_scheme(url: str) -> str:
    """The URL as fsspec's packages know it."""
    scheme, mark, rest = url.partition("://")
    return f"s3://{rest}" if scheme in ("s3a", "s3n") else f"{scheme}{mark}{rest}"


def is_object_store(url: str) -> bool:
    """Whether a file is in a store and not on this machine or under a mount."""
    return "://" in url and not url.startswith("file:")


def arrow_system(url: str) -> tuple[Any, str]:
    """The file system of pyarrow that a file is read by, and its path there: a store's, or this machine's."""
    from pyarrow.fs import FSSpecHandler, LocalFileSystem, PyFileSystem

    if not is_object_store(url):
        return LocalFileSystem(), url.removeprefix("file://")
    store = Store(python_scheme(url))
    return PyFileSystem(FSSpecHandler(store.readers_system)), store.full()


def _describe(info: dict[str, Any]) -> StoredFile:
    # each package of fsspec has names of its own for these
    tags = (info.get(key) for key in ("ETag", "etag", "generation", "mtime"))
    times = (info.get(key) for key in ("LastModified", "last_modified", "updated", "mtime", "created"))
    written = next((time for time in times if time), 0.0)
    if isinstance(written, str):
        written = datetime.fromisoformat(written)
    if isinstance(written, datetime):
        written = (written if written.tzinfo else written.replace(tzinfo=UTC)).timestamp()
    return StoredFile(int(info["size"] or 0), str(next((tag for tag in tags if tag), "")), float(written))


def _is_final(error: Exception) -> bool:
    """Whether a further try cannot help: no credentials, no permission, no bucket, no room."""
    is_credentials = "Credential" in type(error).__name__ or "CredentialsError" in str(error)
    return is_credentials or isinstance(error, PermissionError) or getattr(error, "errno", None) in _FINAL_NUMBERS


def _side_by_side(work: Callable[[str], None], names: Collection[str]) -> None:
    if not names:
        return
    # the pool's threads lack the limit that ``patience`` sets in this one; a context is entered once: each has a copy
    contexts = [copy_context() for _ in names]
    with ThreadPoolExecutor(min(TRANSFERS, len(names))) as pool:
        # taken one by one, so that an error of a thread is raised here
        for _ in pool.map(lambda context, name: context.run(work, name), contexts, names):
            pass
