"""The numbered output records of one job, as they lie on disk. Standard library only.

``log/<number of its first record>.seg``: records one after the other, each a 24-byte header
(length, stream, kind, 0, sequence, nanoseconds since the epoch) and its bytes. A record may be cut
at the very end of the newest file, by a reader that is faster than the writer or by a power cut.
"""

from __future__ import annotations

import os
from hashlib import sha256
from struct import Struct

HEADER = Struct("<IBBHQQ")
"""Length, stream, kind, zero, sequence, unix nanoseconds."""
STREAMS = ("stdout", "stderr", "supervisor")
"""Index is what the header holds."""
KINDS = ("line", "cr", "part", "note")
"""Ended by a newline; ended by a lone carriage return; not ended (yet); said by the supervisor."""
STDOUT, STDERR, SUPERVISOR = range(3)
LINE, CR, PART, NOTE = range(4)
MAX_RECORD = 16_384
"""Bytes of one record: a longer line is cut into parts, so a reader never waits for more."""
SEGMENT_BYTES = 4_194_304
"""A segment is closed once it is larger: the unit in which old output can be dropped."""
EMPTY_CHAIN = bytes(32)
"""What the chain starts from."""

MAX_PAYLOAD = 65_536
"""A header that claims more than this is not one of ours."""


def chain(previous: bytes, stream: str, kind: str, sequence: int, data: bytes) -> bytes:
    """Return the digest over all records up to this one.

    The same value as ``robocompute_protocol.receipts.chain``, which this side cannot import.
    """
    state = sha256(previous)
    state.update(stream.encode() + kind.encode() + sequence.to_bytes(8, "little"))
    state.update(data)
    return state.digest()


def segment_name(first: int) -> str:
    """Return the file name of the segment that begins with record ``first``."""
    return f"{first:016d}.seg"


def segment_numbers(folder: str) -> list[int]:
    """Return the first numbers of the segments in ``folder``, in order; none if it is not there."""
    try:
        names = os.listdir(folder)
    except FileNotFoundError:
        return []
    return sorted(int(name[:-4]) for name in names if name.endswith(".seg"))


def parse(data: bytes) -> tuple[list[tuple[int, int, int, int, bytes]], int]:
    """Split whole records off ``data``: (stream, kind, sequence, ns, bytes) each, and bytes used.

    Raises:
        ValueError: what follows is no record.
    """
    records: list[tuple[int, int, int, int, bytes]] = []
    at = 0
    while at + HEADER.size <= len(data):
        length, stream, kind, _, sequence, ns = HEADER.unpack_from(data, at)
        if length > MAX_PAYLOAD or stream >= len(STREAMS) or kind >= len(KINDS):
            raise ValueError("not an output record")
        end = at + HEADER.size + length
        if end > len(data):
            break
        records.append((stream, kind, sequence, ns, data[at + HEADER.size : end]))
        at = end
    return records, at


class SegmentWriter:
    """Appends records and keeps their chain.

    Records are on their way to readers once ``flush`` returns. Over ``max_bytes`` the oldest
    segments but the first are dropped: the chain still covers them.
    """

    __slots__ = ("_buffer", "_fd", "_folder", "_max", "_sizes", "_starts", "digest", "sequence")

    def __init__(self, folder: str, max_bytes: int) -> None:
        os.makedirs(folder, exist_ok=True)
        self._folder = folder
        self._max = max_bytes
        self._starts: list[int] = []
        self._sizes: list[int] = []
        self._buffer = bytearray()
        self._fd = -1
        self.sequence = 0
        self.digest = EMPTY_CHAIN
        self._roll()

    def _roll(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
        path = os.path.join(self._folder, segment_name(self.sequence))
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._starts.append(self.sequence)
        self._sizes.append(0)
        while len(self._starts) > 2 and sum(self._sizes) > self._max:
            os.unlink(os.path.join(self._folder, segment_name(self._starts.pop(1))))
            self._sizes.pop(1)

    def append(self, stream: int, kind: int, data: bytes, ns: int) -> None:
        """Number one record. Readers see it after ``flush``."""
        self._buffer += HEADER.pack(len(data), stream, kind, 0, self.sequence, ns)
        self._buffer += data
        self.digest = chain(self.digest, STREAMS[stream], KINDS[kind], self.sequence, data)
        self.sequence += 1

    def flush(self) -> None:
        """Hand everything appended to readers."""
        if not self._buffer:
            return
        left = memoryview(bytes(self._buffer))
        self._buffer.clear()
        self._sizes[-1] += len(left)
        while left:
            left = left[os.write(self._fd, left) :]
        if self._sizes[-1] > SEGMENT_BYTES:
            self._roll()

    def close(self) -> None:
        """Flush, and force everything to disk."""
        self.flush()
        os.fsync(self._fd)
        os.close(self._fd)
        self._fd = -1
