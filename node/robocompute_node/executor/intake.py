"""Takes in the program's output, at no more than its rate. Standard library only."""

from __future__ import annotations

import os
import selectors
import time

from robocompute_node.executor.lines import LineSplitter
from robocompute_node.executor.segments import STDERR

TYPE_CHECKING = False
if TYPE_CHECKING:
    from robocompute_node.executor.segments import SegmentWriter

_READ_BYTES = 65_536
_BURST_S = 1
"""Seconds of output at the full rate that may come at once."""
_PAUSE_S = 0.02
"""How long a program over its rate is held back before it is looked at again."""
_MAX_EARLY = 2_000
"""Bytes of a failed start that are kept as its reason."""


class _Output:
    """One of the program's streams."""

    __slots__ = ("fd", "splitter", "stream")

    def __init__(self, stream: int, fd: int) -> None:
        self.stream = stream
        self.fd = fd
        self.splitter = LineSplitter()
        os.set_blocking(fd, False)


class Intake:
    """Reads the streams of one program into its log.

    Over the rate nothing is read for a while: the program's writes block, as on a slow terminal.
    """

    def __init__(self, log: SegmentWriter, selector: selectors.BaseSelector, *, rate: int) -> None:
        self._log = log
        self._selector = selector
        self._rate = rate
        self._tokens = float(rate * _BURST_S)
        self._tokens_at = time.monotonic()
        self._held_back = False
        self._outputs: list[_Output] = []
        self.early_errors = b""
        """The first of what came on stderr: the sandbox's own words, if it could not start."""

    def open(self, stream: int, fd: int) -> None:
        """Take over the read end of a pipe."""
        output = _Output(stream, fd)
        self._outputs.append(output)
        self._watch(output)

    def _watch(self, output: _Output) -> None:
        self._selector.register(output.fd, selectors.EVENT_READ, lambda: self._on_output(output))

    def ended(self) -> bool:
        """Whether every stream was read to its end."""
        return not self._outputs

    def due_at(self) -> list[float]:
        """Return the moments at which ``tick`` has something to do."""
        due = [moment for each in self._outputs if (moment := each.splitter.due_at()) is not None]
        return [*due, self._tokens_at + _PAUSE_S] if self._held_back else due

    def _on_output(self, output: _Output) -> None:
        try:
            data = os.read(output.fd, _READ_BYTES)
        except BlockingIOError:
            return
        if data:
            if output.stream == STDERR and len(self.early_errors) < _MAX_EARLY:
                self.early_errors = (self.early_errors + data)[:_MAX_EARLY]
            self._tokens -= len(data)
            self._record(output, output.splitter.feed(data, time.monotonic()))
            return
        self._selector.unregister(output.fd)
        os.close(output.fd)
        self._outputs.remove(output)
        self._record(output, output.splitter.finish())

    def _record(self, output: _Output, records: list[tuple[int, bytes]]) -> None:
        for kind, data in records:
            self._log.append(output.stream, kind, data, time.time_ns())

    def tick(self, now: float, *, drain: bool) -> None:
        """Give out what waited long enough, and hold back or go on. ``drain``: as fast as it can."""
        self._tokens += (now - self._tokens_at) * self._rate
        self._tokens = min(float(self._rate * _BURST_S), self._tokens)
        self._tokens_at = now
        if self._held_back and (drain or self._tokens > 0):
            self._held_back = False
            for output in self._outputs:
                self._watch(output)
        elif self._tokens < 0 and not self._held_back and not drain:
            self._held_back = True
            for output in self._outputs:
                self._selector.unregister(output.fd)
        for output in self._outputs:
            self._record(output, output.splitter.expire(now))

    def finish(self) -> None:
        """Give out whatever is left of streams that somebody still holds open."""
        for output in self._outputs:
            self._record(output, output.splitter.finish())
