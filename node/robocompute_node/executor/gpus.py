"""What a sandbox must show for a job to use NVIDIA cards. Standard library only.

Cards are found by UUID in the driver's own /proc files, so no NVML is needed here. Libraries below
/usr are there already; others are bound one by one.
"""

from __future__ import annotations

import glob
import os
import re
import subprocess

_SHARED_NODES = ("/dev/nvidiactl", "/dev/nvidia-uvm", "/dev/nvidia-uvm-tools")
_TOPOLOGY = (
    "/sys/devices/system/node",
    "/sys/devices/system/cpu",
    "/sys/bus/pci",
    "/sys/class/pci_bus",
    "/sys/module/nvidia",
)
"""What NCCL and NUMA look-ups read."""


class GpuNotFound(Exception):
    """A card that the job should have is not in this machine (any more)."""


def minors() -> dict[str, int]:
    """Return the device minor of each card, by UUID."""
    found: dict[str, int] = {}
    for path in glob.glob("/proc/driver/nvidia/gpus/*/information"):
        with open(path, encoding="utf-8", errors="replace") as file:
            text = file.read()
        uuid = re.search(r"GPU UUID:\s*(\S+)", text)
        minor = re.search(r"Device Minor:\s*(\d+)", text)
        if uuid and minor:
            found[uuid[1]] = int(minor[1])
    return found


def arguments(uuids: list[str]) -> list[str]:
    """Return bubblewrap's arguments for these cards and no others.

    Raises:
        GpuNotFound: a card is missing.
    """
    if not uuids:
        return []
    known = minors()
    missing = [uuid for uuid in uuids if uuid not in known]
    if missing:
        raise GpuNotFound(f"no such GPU in this machine: {', '.join(missing)}")
    result: list[str] = []
    for node in (*_SHARED_NODES, *(f"/dev/nvidia{known[uuid]}" for uuid in uuids)):
        result += ["--dev-bind-try", node, node]
    for library in _driver_libraries():
        if not library.startswith("/usr/"):
            result += ["--ro-bind", library, library]
    for path in _TOPOLOGY:
        result += ["--ro-bind-try", path, path]
    return result


def _driver_libraries() -> list[str]:
    ldconfig = next((p for p in ("/sbin/ldconfig", "/usr/sbin/ldconfig") if os.path.exists(p)), "")
    if not ldconfig:
        return []
    listing = subprocess.run(  # noqa: S603 (a fixed program without arguments of anybody's)
        [ldconfig, "-p"], capture_output=True, text=True, check=False, env={"LC_ALL": "C"}
    ).stdout
    found: set[str] = set()
    for line in listing.splitlines():
        match = re.match(r"\s*lib(?:cuda|nvidia-|nvcuvid|nvoptix)\S*\.so\S* .*=> (\S+)", line)
        if match:
            found |= {match[1], os.path.realpath(match[1])}
    return sorted(found)
