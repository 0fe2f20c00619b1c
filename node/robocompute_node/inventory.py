"""What this machine has to offer: processor, memory, disk and GPUs, as the machine itself says.

Enumeration can lie (a shim in front of NVML); a proof of work over the cards is another part's.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

_MIB: Final = 1 << 20
_CLASSES: Final = (
    (r"\bA100\b", "a100"), (r"\bH100\b", "h100"), (r"\bH200\b", "h200"), (r"\bB200\b", "b200"),
    (r"\bL40S\b", "l40s"), (r"\bL4\b", "l4"), (r"\bA10\b", "a10"), (r"\bT4\b", "t4"),
    (r"\bV100\b", "v100"), (r"\b3090\b", "rtx3090"), (r"\b4090\b", "rtx4090"),
    (r"\b5090\b", "rtx5090"),
)  # fmt: skip
"""The driver's product names, by resource class of the protocol."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """One card."""

    uuid: str
    model: str
    """As the driver calls it: "NVIDIA A100-SXM4-80GB"."""
    resource_class: str
    memory_mib: int


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
    gpus: tuple[Gpu, ...]


def gpu_class(model: str) -> str:
    """Return the resource class of a card by its product name; "gpu-other" when it is none."""
    for pattern, name in _CLASSES:
        if re.search(pattern, model.replace("-", " "), re.IGNORECASE):
            return name
    return "gpu-other"


def take_inventory(data: Path) -> Inventory:
    """Look at this machine. ``data`` is an existing folder on the disk that jobs would use."""
    return Inventory(
        cpu_model=_cpu_model(),
        cpu_cores=len(os.sched_getaffinity(0)),
        memory_mib=_memory_bytes() // _MIB,
        disk_mib=shutil.disk_usage(data).free // _MIB,
        gpus=_gpus(),
    )


def gpu_utilisation(uuids: tuple[str, ...]) -> tuple[int, ...]:
    """Return how busy these cards are, in percent; none where the driver does not say."""
    nvml = _nvml()
    if nvml is None or not uuids:
        return ()
    try:
        handles = [nvml.nvmlDeviceGetHandleByUUID(uuid) for uuid in uuids]
        rates = [nvml.nvmlDeviceGetUtilizationRates(handle).gpu for handle in handles]
    except nvml.NVMLError:
        return ()
    finally:
        nvml.nvmlShutdown()
    return tuple(min(100, max(0, int(rate))) for rate in rates)


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


def _nvml() -> Any | None:
    """Return NVML, initialised; None on a machine without NVIDIA's driver."""
    import pynvml  # deferred: it looks for the driver's library

    nvml: Any = pynvml
    try:
        nvml.nvmlInit()
    except nvml.NVMLError:
        return None
    return nvml


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


def _gpus() -> tuple[Gpu, ...]:
    nvml = _nvml()
    if nvml is None:
        return ()
    found: list[Gpu] = []
    try:
        for index in range(nvml.nvmlDeviceGetCount()):
            handle = nvml.nvmlDeviceGetHandleByIndex(index)
            model = _text(nvml.nvmlDeviceGetName(handle))
            found.append(
                Gpu(
                    uuid=_text(nvml.nvmlDeviceGetUUID(handle)),
                    model=model,
                    resource_class=gpu_class(model),
                    memory_mib=nvml.nvmlDeviceGetMemoryInfo(handle).total // _MIB,
                )
            )
    except nvml.NVMLError:
        return tuple(found)
    finally:
        nvml.nvmlShutdown()
    return tuple(found)
