"""Where a job's output and chisel's own words go: bytes exact, and one record at a time."""

from __future__ import annotations

import base64
import os
import sys
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

STDOUT: Final = 1
STDERR: Final = 2

_LINE_END: Final = {"line": b"\n", "cr": b"\r"}


def output_bytes(record: Mapping[str, Any]) -> bytes:
    """The bytes of one output record as the job wrote them, its line's end included."""
    if "base64" in record:
        data = base64.b64decode(record["base64"])
    else:
        data = str(record.get("text", record.get("message", ""))).encode()
    return data + _LINE_END.get(str(record.get("kind")), b"")


class Terminal:
    """The two streams of this process. Nothing is buffered, so nothing can be lost or doubled.

    ``say`` is for chisel's own words: they never go to stdout, and never into the middle of a line.
    """

    def __init__(self, *, chatty: bool) -> None:
        self.chatty = chatty
        self._mid_line = False

    def output(self, record: Mapping[str, Any]) -> None:
        """Write one record of the job's output. Raises: BrokenPipeError, OSError."""
        stream = record.get("stream")
        if stream == "supervisor" or record.get("kind") == "note":
            self.say(output_bytes(record).decode("utf-8", "replace").rstrip())
            return
        data = output_bytes(record)
        descriptor = STDOUT if stream == "stdout" else STDERR
        if not data:
            return
        write_all(descriptor, data)
        self._mid_line = not data.endswith(b"\n") and os.isatty(descriptor)

    def stage(self, stage: str, detail: str) -> None:
        """Tell where the task is, if somebody watches."""
        if self.chatty:
            self.say(f"{stage} …" + (f" {detail}" if detail else ""))

    def say(self, line: str) -> None:
        """One line of chisel's own on stderr. A closed stderr is no error."""
        start = "\n" if self._mid_line else ""
        self._mid_line = False
        try:
            write_all(STDERR, f"{start}chisel: {line}\n".encode(errors="replace"))
        except OSError:
            return


def is_watched() -> bool:
    """Whether stderr is a terminal: then a person sees the stages."""
    return sys.stderr is not None and sys.stderr.isatty()


def write_all(descriptor: int, data: bytes) -> None:
    """Write all of ``data`` now. Raises: OSError."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
