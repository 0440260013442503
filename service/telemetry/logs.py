"""Structured logs: one JSON object per line on standard output, uvicorn's lines included."""

import logging
import sys
from datetime import UTC, datetime
from typing import Any, TextIO

import orjson

# What a record may carry as `extra`. The rest is left out: feature values and keys must never reach a log.
CONTEXT_FIELDS = (
    "request_id",
    "exposure_id",
    "trace_id",
    "span_id",
    "model",
    "version",
    "label",
    "variant",
    "experiment",
    "revision",
    "bucket",
    "rows",
    "queue_ms",
    "compute_ms",
    "duration_ms",
    "runtime",
    "method",
    "route",
    "status",
    "slug",
    "reason",
    "detail",
)


class JsonLines(logging.Formatter):
    """Format a record as one JSON object: ts (RFC 3339 UTC), level, event, logger, then its context.

    A traceback goes under `exception`. Values that JSON does not know are written as their `str`.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return the line without its newline."""
        line: dict[str, Any] = {
            "ts": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            "logger": record.name,
        }
        for field in CONTEXT_FIELDS:
            value = record.__dict__.get(field)
            if value is not None:
                line[field] = value
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return orjson.dumps(line, default=str, option=orjson.OPT_NON_STR_KEYS).decode()


def configure_logging(level: str, stream: TextIO | None = None) -> None:
    """Send every record of `level` and above to `stream` (standard output) as JSON lines.

    Calling it again replaces level and stream. Start uvicorn with `log_config=None`, or it adds handlers of
    its own. Its access lines are off: the service writes one line per request itself.
    """
    handler = logging.StreamHandler(stream or sys.stdout)
    handler.setFormatter(JsonLines())
    root = logging.getLogger()
    for old in [old for old in root.handlers if isinstance(old.formatter, JsonLines)]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level.upper())
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access", "uvicorn.asgi"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = name != "uvicorn.access"
