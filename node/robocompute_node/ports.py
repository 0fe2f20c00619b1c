"""Who holds a TCP port of this machine, as far as the kernel tells."""

from __future__ import annotations

from pathlib import Path
from typing import Final

LISTENING: Final = "0A"
"""The state of a listening socket in /proc/net/tcp."""


def holder_of(port: int) -> str:
    """Return " by NAME (pid N)" for the process that listens on ``port``; "" when it is not told."""
    inodes = _listening_inodes(port)
    if not inodes:
        return ""
    wanted = {f"socket:[{inode}]" for inode in inodes}
    for process in Path("/proc").iterdir():
        if not process.name.isdecimal():
            continue
        try:
            held = any(str(link.readlink()) in wanted for link in (process / "fd").iterdir())
            if held:
                name = (process / "comm").read_text().strip()
                return f" by {name} (pid {process.name})"
        except OSError:
            continue
    return ""


def _listening_inodes(port: int) -> set[str]:
    found: set[str] = set()
    for table in ("tcp", "tcp6"):
        try:
            lines = (Path("/proc/net") / table).read_text().splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            columns = line.split()
            if int(columns[1].rpartition(":")[2], 16) == port and columns[3] == LISTENING:
                found.add(columns[9])
    return found
