"""Log lines: plain for a terminal, control characters written out; as JSON for whatever collects a cluster's logs."""

import json
import logging
from datetime import UTC, datetime
from typing import Any

_USUAL = vars(logging.makeLogRecord({})).keys() | {"message", "asctime"}
"""What every record has: the rest came as ``extra``."""
_ESCAPES = {code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) not in "\n\t"}
"""Of control characters: a terminal takes some for commands."""

SHOWN: dict[str, str] = {}
"""Folder on this machine -> the URL that it is a copy of: what the user named."""


def printable(text: str) -> str:
    """The text with control characters written out, but for tabs and ends of lines, which our own messages have.

    Folders that are copies are called what they are copies of.
    """
    return _named(text).translate(_ESCAPES)


def _named(text: str) -> str:
    for folder, url in SHOWN.items():
        text = text.replace(folder, url)
    return text


class PlainLines(logging.Formatter):
    """The usual line; what a name or an error adds after an end of line is indented, so that it is no line of ours."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as text that a terminal only shows."""
        return printable(super().format(record)).replace("\n", "\n  ")


class JsonLines(logging.Formatter):
    """One JSON object a line: time (UTC), level, logger, message, what the call gave as ``extra``, and the trace."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as JSON."""
        values: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage().strip(),
        }
        values |= {key: value for key, value in vars(record).items() if key not in _USUAL}
        if record.exc_info:
            values["trace"] = self.formatException(record.exc_info)
        return _named(json.dumps(values, default=str))
