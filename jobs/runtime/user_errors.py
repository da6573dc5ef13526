"""Failures of files as Java, Spark's workers and Python report them, in words that a user can act on."""

import re

from schemas.errors import ConfigError, InputError, OutputError, PipelineError, TableError

_UNWRITABLE = {
    r"No space left on device|ENOSPC": "a full disk: make room",
    r"Disk quota exceeded": "a used-up disk quota: make room",
    r"Read-only file system": "a read-only file system: mount it for writing",
    r"Permission denied|AccessDeniedException": "a file or folder that may not be read or written: fix its permissions",
    r"File too large": "a limit on the size of files (`ulimit -f`): raise it",
}
_TOO_LONG = r"File name too long"
_NO_CONNECTOR = r'No FileSystem for scheme "?\w+|Class org\.apache\.hadoop\.fs\.[\w.]+ not found'
# as Java reads gzip, bzip2 and deflate
_CUT = (
    r"Unexpected end of input stream|not a gzip file|gzip stream CRC failure|incorrect (?:data|header|length) check"
    r"|invalid (?:block type|stored block lengths|code lengths set|distance)|bad block header"
)
# as Spark, Parquet's Java library and pyarrow report it
_UNREADABLE = (
    r"is not a Parquet file|CANNOT_READ_FILE_FOOTER|FAILED_READ_FILE|Could not read footer|SparkFileNotFoundException"
    r"|org.apache.hadoop.fs.ChecksumException"
    r"|Parquet magic bytes not found|Encountered error while reading file|can not read class org.apache.parquet"
    r"|could not read page|Couldn't deserialize thrift"
)
# begins where no such character stands before it: a search from each of them would take quadratic time
_DATA_FILE = re.compile(r"(?<![\w:/.%=+@~-])[\w:/.%=+@~-]*\.parquet")


def explain(error: BaseException) -> PipelineError | None:
    """The error as one that the user can act on; None where it is not known to be one."""
    messages: list[str] = []
    cause: BaseException | None = error
    while cause is not None:  # Java's errors hold the messages of their causes already
        messages.append(str(cause))
        cause = cause.__cause__ or cause.__context__
    text = "\n".join(messages)
    if connector := re.search(_NO_CONNECTOR, text):
        return OutputError(
            f"expected Spark's connector of the store among its jars, found none ({connector.group(0)}); run `make "
            "setup-s3`, or start with --packages org.apache.hadoop:hadoop-aws:3.3.4 or that of your store"
        )
    for pattern, found in _UNWRITABLE.items():
        if re.search(pattern, text):
            return OutputError(
                "expected room and permission to write in --out and in the folder for temporary files, and to read "
                f"--data; found {found}, then run again: tables are as they were, and a run goes on after its last "
                "finished stage "
                f"({_first_line(text, pattern)})"
            )
    if re.search(_TOO_LONG, text):
        return ConfigError(
            "expected names of files and folders of at most 255 bytes each, found a longer one; correct it "
            f"({_first_line(text, _TOO_LONG)})"
        )
    if re.search(_CUT, text):
        return InputError(
            "expected whole compressed files in the inputs, found one that ends early or is damaged "
            f"({_first_line(text, _CUT)}); find it by `gzip -t FILE...` or `bzip2 -t FILE...`, copy it again, then run "
            "again"
        )
    if re.search(_UNREADABLE, text):
        named = _DATA_FILE.search(text)
        file = named.group(0) if named else "one of a table that the stage reads"
        return TableError(
            f"expected a whole Parquet file, found {file} damaged or gone; run the stage that writes it again, or "
            f"restore it if it is an input of yours ({_first_line(text, _UNREADABLE)})"
        )
    return None


def _first_line(text: str, pattern: str) -> str:
    line = next(line for line in text.splitlines() if re.search(pattern, line))
    return line.strip()[:300]
