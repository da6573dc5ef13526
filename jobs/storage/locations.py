"""Converts between mounted paths, which Python opens, Spark's URLs, and names of tables in a catalog."""

import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

from conf.mappings import has_password, without_secrets
from ml.files.store import python_scheme, spark_scheme
from schemas.errors import ConfigError, OutputError

_DBFS_MOUNT = "/dbfs"
_OWN_MOUNTS = ("/Volumes/", "/Workspace/")
"""Of Databricks: Spark and Python name them alike."""
_STORES = ("s3", "s3a", "gs", "abfss")
"""Schemes of the object stores that Python reaches too, by fsspec."""


def mounted_path(text: str) -> Path:
    """The path under which driver and workers open what the user named, from the root: workers work elsewhere.

    ``dbfs:/x`` is ``/dbfs/x``, ``dbfs:/Volumes/x`` and ``file:/Volumes/x`` are ``/Volumes/x``; a path is itself.

    Raises
    ------
    ConfigError
        For an object store, or an empty text.
    """
    if not text.strip():
        raise ConfigError("expected a path, found an empty text; is a variable of the command not set?")
    scheme, _, rest = text.partition(":")
    # a colon makes no URL: names of folders may have one
    if not rest.startswith("/"):
        try:
            # bash leaves --out=~/x as it is
            return (Path(text).expanduser() if text.startswith("~/") else Path(text)).absolute()
        except FileNotFoundError as error:
            raise ConfigError("expected a working directory, found that it was removed; cd to another one") from error
        except RuntimeError as error:
            raise ConfigError(f"expected a path, found {text} and no home of this user; write the home out") from error
    if scheme not in ("file", "dbfs"):
        raise ConfigError(
            "expected a path that driver and workers mount, dbfs:/... or /Volumes/..., found "
            f"{without_secrets(text)}; mount it"
        )
    return Path(plain_path(text))


def mounted_path_or_url(text: str) -> Path | str:
    """As ``mounted_path``, or the URL of a folder of an object store, without a slash at its end."""
    if not text.startswith(tuple(f"{scheme}://" for scheme in _STORES)):
        return mounted_path(text)
    # by way of Spark's name, which checks the text: s3a and s3n become s3
    return python_scheme(table_url(text))


def takes_whole_files(location: Path | str) -> bool:
    """Whether a file there can only be written as a whole: in an object store, on a Volume or DBFS."""
    return isinstance(location, str) or str(location).startswith((*_OWN_MOUNTS[:1], f"{_DBFS_MOUNT}/"))


def is_s3(url: str) -> bool:
    """Whether Hadoop's connector of S3 reads it."""
    return url.startswith(("s3://", "s3a://"))


def spark_url(path: Path) -> str:
    """What Spark calls a mounted path: its own default file system may be another, such as HDFS."""
    path = path.absolute()
    if str(path).startswith(_OWN_MOUNTS):
        return str(path)
    if path.is_relative_to(_DBFS_MOUNT):
        return f"dbfs:/{path.relative_to(_DBFS_MOUNT)}"
    return f"file:{path}"


def is_mounted(url: str) -> bool:
    """Whether a file that Spark names by this URL can be opened as a plain file."""
    return urlsplit(url).scheme in ("", "file", "dbfs")


def readable_path(url: str) -> str:
    """As ``plain_path``, of an encoded URL, as ``input_file_name`` and Parquet's ``inputFiles`` give.

    Of a file in an object store, its URL as Python knows it.
    """
    return plain_location(unquote(url))


def plain_path(name: str) -> str:
    """Path of a file by the name that Delta's ``inputFiles`` and ``VACUUM`` give: with a scheme, but not encoded.

    Raises
    ------
    OutputError
        If no mount reaches the file.

    Examples
    --------
    >>> plain_path("file:/mnt/exp#1/50%25/part-0.parquet")
    '/mnt/exp#1/50%25/part-0.parquet'
    """
    if not is_mounted(name):
        raise OutputError(
            f"expected a file under a mount of driver and workers, found {name}; entries and scores are read as plain "
            "files"
        )
    scheme = urlsplit(name).scheme
    # not urlsplit's path: it would end at a # or ? of a folder's name
    path = "/" + (name[len(scheme) + 1 :] if scheme else name).lstrip("/")
    return _DBFS_MOUNT + path if scheme == "dbfs" and not path.startswith(_OWN_MOUNTS) else path


def plain_location(url: str) -> str:
    """As ``readable_path``, of a URL that is not encoded."""
    return python_scheme(url) if urlsplit(url).scheme in _STORES else plain_path(url)


def file_url(url: str) -> str:
    """The same file as Petastorm and pyarrow name it: they know no ``dbfs`` and ``s3a``, and ``file:`` with ``//``."""
    return Path(readable_path(url)).as_uri() if is_mounted(url) else python_scheme(url)


def table_url(text: str) -> str:
    """The URL of a folder as Spark knows it, without a slash at its end; ConfigError if it is none."""
    if has_password(text):
        raise ConfigError(
            "expected a URL without a password in it: logs would show it; give it by the environment, or to Spark"
        )
    if not re.fullmatch(r"[a-z][a-z0-9+.-]*://[^\s?#]+", text):
        raise ConfigError(f"expected a URL such as s3://BUCKET/PATH or abfss://..., found {without_secrets(text)}")
    return spark_scheme(text.rstrip("/"))


def delta_name(url: str) -> str:
    """What SQL text calls the Delta table under a URL of Spark's."""
    return f"delta.`{url.replace('`', '``')}`"


def is_name(table: str) -> bool:
    """Whether a table is named in a catalog, by ``quoted_name``; else it is a path or a URL."""
    return table.startswith("`")


def is_url(table: str) -> bool:
    """Whether a table is named by ``table_url``."""
    return "://" in table


def is_folder(table: str) -> bool:
    """Whether a table is a path under a mount."""
    return not is_name(table) and not is_url(table)


def quoted_name(*parts: str) -> str:
    """``catalog.schema.table`` for SQL text; ConfigError where a part is more than letters, digits, ``_`` and ``-``."""
    for part in parts:
        # ASCII, without a quote or a dot: nothing that SQL text could take for its own
        if not re.fullmatch(r"\w[\w-]*", part, re.ASCII):
            raise ConfigError(
                f"expected a catalog, schema or table name of letters, digits, _ and -, found {part!r}; rename it"
            )
    return ".".join(f"`{part}`" for part in parts)
