"""Log lines as JSON, for whatever collects a cluster's logs."""

import json
import logging
from datetime import UTC, datetime
from typing import Any

_USUAL = vars(logging.makeLogRecord({})).keys() | {"message", "asctime"}


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
        return json.dumps(values, default=str)
