"""What the tracker says on stdout, through the logger named "aspara"."""

from __future__ import annotations

import logging
import sys
from typing import Final


class _Stdout(logging.Handler):
    """Writes to whatever stdout is at that moment; a closed one is no error."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            print(self.format(record), file=sys.stdout, flush=True)  # noqa: T201 - its purpose
        except (OSError, ValueError):
            return


def say(message: str) -> None:
    """One line for the person who started the program."""
    _LOGGER.info(message)


def _logger() -> logging.Logger:
    logger = logging.getLogger("aspara")
    if not any(isinstance(handler, _Stdout) for handler in logger.handlers):
        handler = _Stdout()
        handler.setFormatter(logging.Formatter("aspara: %(message)s"))
        logger.addHandler(handler)
        logger.propagate = False
        logger.setLevel(logging.INFO)
    return logger


_LOGGER: Final = _logger()
