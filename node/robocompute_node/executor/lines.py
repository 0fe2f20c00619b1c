"""Cuts a byte stream into lines, redraws and parts, exactly as a terminal would show it.

Pure and standard library only. Printed one after the other (a line with its newline, a redraw with
its carriage return, a part with nothing), the records give the stream back, byte for byte. A line
that ends in CRLF is one line, whose last byte is the carriage return.
"""

from __future__ import annotations

from robocompute_node.executor.segments import CR, LINE, MAX_RECORD, PART

PATIENCE_S = 0.1
"""A piece without a line end is shown after this long: prompts have none, but print() arrives in
pieces where the output is unbuffered."""


class LineSplitter:
    """One stream of one job."""

    __slots__ = ("_rest", "_since")

    def __init__(self) -> None:
        self._rest = b""
        self._since = 0.0

    def feed(self, data: bytes, now: float) -> list[tuple[int, bytes]]:
        """Return what ``data`` completes: (kind, bytes) in order."""
        waiting = bool(self._rest)
        text = self._rest + data
        records: list[tuple[int, bytes]] = []
        at = 0
        newline, carriage = text.find(b"\n"), text.find(b"\r")
        while newline >= 0 or carriage >= 0:
            if carriage < 0 or 0 <= newline < carriage:
                end, after, kind = newline, newline + 1, LINE
            elif carriage + 1 == len(text):
                break
            elif text[carriage + 1] == 0x0A:
                end, after, kind = carriage + 1, carriage + 2, LINE
            else:
                end, after, kind = carriage, carriage + 1, CR
            at = self._cut(records, text, at, end)
            records.append((kind, text[at:end]))
            at = after
            if 0 <= newline < at:
                newline = text.find(b"\n", at)
            if 0 <= carriage < at:
                carriage = text.find(b"\r", at)
        at = self._cut(records, text, at, len(text))
        self._rest = text[at:]
        if self._rest and (records or not waiting):
            self._since = now
        return records

    def _cut(self, records: list[tuple[int, bytes]], text: bytes, at: int, end: int) -> int:
        while end - at > MAX_RECORD:
            records.append((PART, text[at : at + MAX_RECORD]))
            at += MAX_RECORD
        return at

    def due_at(self) -> float | None:
        """Return when ``expire`` has something to say, if nothing arrives until then."""
        return self._since + PATIENCE_S if self._rest else None

    def expire(self, now: float) -> list[tuple[int, bytes]]:
        """Give out a piece that waited long enough for its line end."""
        if not self._rest or now < self._since + PATIENCE_S:
            return []
        return self.finish()

    def finish(self) -> list[tuple[int, bytes]]:
        """Give out whatever is left: the stream has ended."""
        rest, self._rest = self._rest, b""
        if not rest:
            return []
        if rest.endswith(b"\r"):
            return [(CR, rest[:-1])]
        return [(PART, rest)]
