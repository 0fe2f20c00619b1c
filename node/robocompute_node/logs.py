"""Logs on stderr: one line a record, as text or as JSON."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Final

LEVELS: Final = ("debug", "info", "warning", "error")
NOISY: Final = (
    "httpx",
    "httpcore",
    "websockets",
    "libp2p",
    "multiaddr",
    "hpack",
    "trio-websocket",
)
"""Libraries whose INFO is about themselves."""


class TextLines(logging.Formatter):
    """``time level module message``; a traceback follows where there is one."""

    def format(self, record: logging.LogRecord) -> str:
        line = (
            f"{_moment(record)} {record.levelname:<7} {_short(record.name)}: {record.getMessage()}"
        )
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return line


class JsonLines(logging.Formatter):
    """One JSON object a line: time, level, logger, message, and traceback where there is one."""

    def format(self, record: logging.LogRecord) -> str:
        fields = {
            "time": _moment(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            fields["traceback"] = self.formatException(record.exc_info)
        return json.dumps(fields, ensure_ascii=False)


def log_to_stderr(level: str, *, as_json: bool = False) -> None:
    """Send everything from ``level`` on to stderr. Called once, by the command that runs a node."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if as_json else TextLines())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for name in NOISY:
        logging.getLogger(name).setLevel(logging.DEBUG if level == "debug" else logging.WARNING)


def _moment(record: logging.LogRecord) -> str:
    moment = datetime.fromtimestamp(record.created, tz=UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _short(name: str) -> str:
    return name.removeprefix("robocompute_node.")
