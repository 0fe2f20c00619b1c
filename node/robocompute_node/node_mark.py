"""The mark beside the node's key: how far the store has come, kept where the store is not.

A store that is lost or replaced by an older copy no longer fits its mark, and the node notices.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from robocompute_node.core.quiet import Mark
from robocompute_protocol.errors import StoreError
from robocompute_protocol.money import Millis

MARK_NAME: Final = "node.mark"
BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")
MAX_MARK_BYTES: Final = 4_096
"""A mark is under 300 bytes."""


class FoundMark(NamedTuple):
    """A mark, and when the file system says that it was last changed."""

    mark: Mark
    changed_ms: Millis


def machine_start() -> str:
    """Return what names this start of the machine; the same for all its processes."""
    try:
        return BOOT_ID.read_text().strip()
    except OSError:
        return ""


def first_mark() -> Mark:
    """Return the mark of a node whose key was just made: it has signed nothing."""
    return Mark(instance="", starts=0, ticks=0, machine=machine_start(), written_ms=_now_ms())


def read_mark(folder: Path) -> FoundMark | None:
    """Return the mark in ``folder``; None where there is none that can be read."""
    try:
        with (folder / MARK_NAME).open("rb") as file:
            raw = file.read(MAX_MARK_BYTES)
            changed = os.fstat(file.fileno()).st_ctime_ns
        return FoundMark(msgspec.json.decode(raw, type=Mark), Millis(changed // 1_000_000))
    except (OSError, msgspec.MsgspecError):
        return None


def write_mark(folder: Path, mark: Mark) -> None:
    """Replace the mark, whole and durably; ``written_ms`` becomes now.

    Raises: StoreError when it cannot be written.
    """
    draft = folder / f".{MARK_NAME}.new"
    try:
        with draft.open("wb") as file:
            mark = msgspec.structs.replace(mark, written_ms=_now_ms())
            file.write(msgspec.json.encode(mark))
            file.flush()
            os.fsync(file.fileno())
        draft.replace(folder / MARK_NAME)
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError as exc:
        raise StoreError(f"{folder / MARK_NAME} cannot be written: {exc}") from exc


def _now_ms() -> Millis:
    """The file system's clock, which is the wall clock: never the node's own."""
    return Millis(time.time_ns() // 1_000_000)
