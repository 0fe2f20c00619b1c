"""NVIDIA's cards through NVML: ``cards.Cards`` by the driver's own library.

What it says can be a lie (a library in front of the real one): a proof of work over the cards is
another part's.
"""

from __future__ import annotations

import logging
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from robocompute_node.cards import Card, CardGone, Reading, Tenant

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

log = logging.getLogger(__name__)

_MIB: Final = 1 << 20
_MIG_ON: Final = 1
MAX_TEMPERATURE_C: Final = 92
"""From here on cards slow themselves down, some to a tenth; they throttle at 83 to 90."""


class NvmlCards:
    """All cards that the driver of this machine tells of; none on a machine without one.

    The library is opened for each call: a driver that was reloaded is then simply the new one. Any
    thread may call.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()

    def cards(self) -> tuple[Card, ...]:
        found: list[Card] = []
        with self._driver() as nvml:
            if nvml is None:
                return ()
            for index in range(nvml.nvmlDeviceGetCount()):
                try:
                    found += _one(nvml, nvml.nvmlDeviceGetHandleByIndex(index))
                except nvml.NVMLError as exc:
                    log.warning("card %d of this machine does not answer: %s", index, exc)
        return tuple(found)

    def reading(self, uuid: str) -> Reading:
        with self._card(uuid) as (nvml, handle):
            return Reading(
                busy_percent=_told(nvml, lambda: nvml.nvmlDeviceGetUtilizationRates(handle).gpu),
                memory_used_mib=nvml.nvmlDeviceGetMemoryInfo(handle).used // _MIB,
                power_mw=_told(nvml, lambda: nvml.nvmlDeviceGetPowerUsage(handle)),
                temperature_c=_told(nvml, lambda: _temperature(nvml, handle)),
            )

    def faults(self, uuid: str) -> tuple[str, ...]:
        with self._card(uuid) as (nvml, handle):
            handle = _whole(nvml, handle)
            uncorrected = _told(
                nvml,
                lambda: nvml.nvmlDeviceGetTotalEccErrors(
                    handle, nvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, nvml.NVML_VOLATILE_ECC
                ),
            )
            pending = _told(nvml, lambda: nvml.nvmlDeviceGetRetiredPagesPendingStatus(handle))
            _, _, remap_pending, remap_failed = _told(
                nvml, lambda: nvml.nvmlDeviceGetRemappedRows(handle)
            ) or (0, 0, 0, 0)
            hot = _told(nvml, lambda: _temperature(nvml, handle)) or 0
        said = (
            (uncorrected, f"{uncorrected} uncorrected memory errors since the driver was loaded"),
            (pending or remap_pending, "bad memory to be taken out of use at the next reset"),
            (remap_failed, "bad memory that cannot be taken out of use"),
            (hot >= MAX_TEMPERATURE_C, f"it is {hot} °C hot"),
        )
        return tuple(text for fault, text in said if fault)

    def tenants(self, uuid: str) -> tuple[Tenant, ...]:
        found: dict[int, int] = {}
        with self._card(uuid) as (nvml, handle):
            for ask in (
                nvml.nvmlDeviceGetComputeRunningProcesses,
                nvml.nvmlDeviceGetGraphicsRunningProcesses,
            ):
                for each in _told(nvml, lambda ask=ask: ask(handle)) or ():
                    used = (each.usedGpuMemory or 0) // _MIB
                    found[each.pid] = max(used, found.get(each.pid, 0))
        return tuple(Tenant(pid, used) for pid, used in sorted(found.items()))

    @contextmanager
    def _driver(self) -> Generator[Any | None]:
        """NVML, initialised; None where there is no driver."""
        import pynvml  # deferred: it looks for the driver's library

        nvml: Any = pynvml
        with self._lock:
            try:
                nvml.nvmlInit()
            except nvml.NVMLError:
                yield None
                return
            try:
                yield nvml
            finally:
                nvml.nvmlShutdown()

    @contextmanager
    def _card(self, uuid: str) -> Generator[tuple[Any, Any]]:
        with self._driver() as nvml:
            if nvml is None:
                raise CardGone(f"GPU {uuid}: this machine has no driver for it")
            try:
                yield nvml, nvml.nvmlDeviceGetHandleByUUID(uuid)
            except nvml.NVMLError as exc:
                raise CardGone(f"GPU {uuid}: {exc}") from exc


def _one(nvml: Any, handle: Any) -> list[Card]:
    """Return a card, or the slices that it is in."""
    model = _text(nvml.nvmlDeviceGetName(handle))
    uuid = _text(nvml.nvmlDeviceGetUUID(handle))
    mode = _told(nvml, lambda: nvml.nvmlDeviceGetMigMode(handle)) or (0, 0)
    if mode[0] != _MIG_ON:
        memory = nvml.nvmlDeviceGetMemoryInfo(handle).total // _MIB
        return [Card(uuid=uuid, model=model, memory_mib=memory)]
    slices: list[Card] = []
    for index in range(nvml.nvmlDeviceGetMaxMigDeviceCount(handle)):
        part = _told(nvml, lambda i=index: nvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, i))
        if part is None:
            continue
        slices.append(
            Card(
                uuid=_text(nvml.nvmlDeviceGetUUID(part)),
                model=_text(nvml.nvmlDeviceGetName(part)),
                memory_mib=nvml.nvmlDeviceGetMemoryInfo(part).total // _MIB,
                slice_of=uuid,
            )
        )
    return slices


def _whole(nvml: Any, handle: Any) -> Any:
    """Return the card that a slice is of: errors and heat are told of whole cards."""
    parent = _told(nvml, lambda: nvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(handle))
    return handle if parent is None else parent


def _temperature(nvml: Any, handle: Any) -> int:
    return int(nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU))


def _told(nvml: Any, ask: Callable[[], Any]) -> Any:
    """Return what the driver says; None where this kind of card does not have it."""
    try:
        return ask()
    except (
        nvml.NVMLError_NotSupported,
        nvml.NVMLError_NotFound,
        nvml.NVMLError_InvalidArgument,
        nvml.NVMLError_NoPermission,
        nvml.NVMLError_FunctionNotFound,
    ):
        return None


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
