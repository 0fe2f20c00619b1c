"""What this machine has to offer: processor, memory, disk and GPUs, as the machine itself says."""

from __future__ import annotations

import os
import platform
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from robocompute_node.cards import Card, Cards

_MIB: Final = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Inventory:
    """One machine. ``gpus`` are in the driver's order."""

    cpu_model: str
    cpu_cores: int
    """Those this process may use."""
    memory_mib: int
    """Of the machine, or of the cgroup the node runs in where that is less."""
    disk_mib: int
    """Free where the node keeps its data."""
    gpus: tuple[Card, ...]


def take_inventory(data: Path, cards: Cards) -> Inventory:
    """Look at this machine. ``data`` is an existing folder on the disk that jobs would use."""
    return Inventory(
        cpu_model=_cpu_model(),
        cpu_cores=len(os.sched_getaffinity(0)),
        memory_mib=_memory_bytes() // _MIB,
        disk_mib=shutil.disk_usage(data).free // _MIB,
        gpus=cards.cards(),
    )


def _cpu_model() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return platform.machine()
    match = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return match[1].strip() if match else platform.machine()


def _memory_bytes() -> int:
    bounds = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    for line in Path("/proc/self/cgroup").read_text(encoding="ascii").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            place = Path(f"/sys/fs/cgroup{path}/memory.max")
        elif "memory" in controllers.split(","):
            place = Path(f"/sys/fs/cgroup/memory{path}/memory.limit_in_bytes")
        else:
            continue
        try:
            bounds.append(int(place.read_text(encoding="ascii")))
        except (OSError, ValueError):
            continue
    return min(bounds)
