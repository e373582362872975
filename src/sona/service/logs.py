"""Structured logs: one JSON object per line for each decision that matters."""

from __future__ import annotations

import logging
import sys
import time
from typing import Any

import msgspec

__all__ = ["decided", "start_logging"]

_log = logging.getLogger("sona.service")
_ENCODER = msgspec.json.Encoder(enc_hook=str)


def decided(event: str, facts: dict[str, Any] | None = None, level: int = logging.INFO) -> None:
    """Log a decision with its facts; an exception under way goes with an error."""
    if _log.isEnabledFor(level):
        failed = level >= logging.ERROR and sys.exc_info()[0] is not None
        fault = sys.exc_info() if failed else None
        # Made here, because no line says where in the code it came from: to find that out took
        # as long as the rest.
        extra = {"facts": facts or {}}
        _log.handle(_log.makeRecord(_log.name, level, "", 0, event, (), fault, extra=extra))


def start_logging(level: str = "INFO") -> None:
    """Write the logs of sona and of its server as JSON lines on standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonLines())
    for name in ("sona", "uvicorn"):
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.propagate = False
        logger.setLevel(level if name == "sona" else "WARNING")


class _JsonLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        seconds, milliseconds = divmod(time.time_ns() // 1_000_000, 1000)
        at = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
        line: dict[str, Any] = {
            "at": f"{at}.{milliseconds:03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
            **getattr(record, "facts", {}),
        }
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return _ENCODER.encode(line).decode()
