"""What a person calls hardware ("A100-80GB:2"), as the requirements that offers are matched with."""

from __future__ import annotations

import math
import re
from typing import Final

from robocompute_protocol import limits
from robocompute_protocol.messages import CLASSES, Requirements

MIB_PER_GIB: Final = 1_024
CARD_MIB_PER_GB: Final = 1_000
"""Of an "80GB" card this much is asked for per GB: cards report a little less than their name says
(an RTX 4090 of 24 GB reports 24,564 MiB)."""
MAX_GIB: Final = 2**20
"""More memory or disk than this in one request is a mistake."""
CPU: Final = "cpu"
CPU_DEFAULTS: Final = Requirements(cpu_cores=1, memory_mib=2_048, disk_mib=4_096)
"""A cpu job that says nothing: enough for a small training with torch."""
PER_CARD: Final = Requirements(cpu_cores=2, memory_mib=8_192, disk_mib=16_384)
"""A GPU job that says nothing, for each card: a data loader, and weights on their way to the card."""

_ASKED: Final = re.compile(
    r"([a-z0-9](?:[a-z0-9 -]*?[a-z0-9])?)(?:-([0-9]{1,4})gb)?(?::([0-9]{1,3}))?"
)
_SPELLINGS: Final = {
    "3090": "rtx3090",
    "4090": "rtx4090",
    "5090": "rtx5090",
    "gpu": "gpu-other",
    "gpuother": "gpu-other",
}
"""Other ways to write a class, once spaces, dashes and the maker's name are gone."""


class UnknownHardware(ValueError):
    """The words name no hardware; the text says which words do."""


def parse_gpu(asked: str) -> tuple[str, int, int]:
    """Read "H100", "H100:2" or "A100-80GB:2" as (resource class, cards, MiB a card, 0 for any).

    Raises:
        UnknownHardware: no such class, or not a number of cards from 1 to 62.
    """
    match = _ASKED.fullmatch(asked.strip().lower())
    known = ", ".join(name.upper() for name in CLASSES if name != CPU)
    if match is None:
        raise UnknownHardware(
            f"{asked!r} is not a GPU: write it like H100, A100-80GB or L4:2 ({known})"
        )
    name, memory_gb, cards = match.groups()
    plain = name.replace(" ", "").replace("-", "").removeprefix("nvidia")
    family = _SPELLINGS.get(plain, plain)
    if family not in CLASSES or (family == CPU and (memory_gb or cards)):
        raise UnknownHardware(f"{asked!r} is not a GPU anybody offers here: there are {known}")
    if family == CPU:
        return CPU, 0, 0
    count = int(cards) if cards is not None else 1
    if not 1 <= count <= limits.MAX_SLOTS:
        raise UnknownHardware(f"{asked!r}: from 1 to {limits.MAX_SLOTS} cards, not {count}")
    return family, count, int(memory_gb or 0) * CARD_MIB_PER_GB


def requirements_of(
    *,
    kind: str,
    gpu: str | None,
    cpu_cores: int | None = None,
    gpu_memory_gb: float | None = None,
    ram_gb: float | None = None,
    storage_gb: float | None = None,
) -> Requirements:
    """Return what a job needs. What is not said is taken from the defaults above, per card.

    Raises:
        UnknownHardware: the parts contradict each other, or one of them is out of bounds.
    """
    if kind == CPU and gpu is not None and gpu.strip().lower() != CPU:
        raise UnknownHardware(f"type is cpu, but gpu is {gpu!r}: leave one of them out")
    if kind != CPU and gpu is None:
        raise UnknownHardware('type is gpu, but no gpu is named: say which, like "gpu": "A100:1"')
    family, cards, card_mib = parse_gpu(gpu) if gpu is not None else (CPU, 0, 0)
    if gpu_memory_gb and family == CPU:
        raise UnknownHardware("gpu_memory_gb is asked for, but no gpu: name one")
    defaults, times = (CPU_DEFAULTS, 1) if family == CPU else (PER_CARD, cards)
    return Requirements(
        resource_class=family,
        gpus=cards,
        gpu_memory_mib=max(card_mib, _mib("gpu_memory_gb", gpu_memory_gb, CARD_MIB_PER_GB, 0)),
        cpu_cores=_cores(cpu_cores, defaults.cpu_cores * times),
        memory_mib=_mib("ram_gb", ram_gb, MIB_PER_GIB, defaults.memory_mib * times),
        disk_mib=_mib("storage_gb", storage_gb, MIB_PER_GIB, defaults.disk_mib * times),
    )


def _cores(asked: int | None, default: int) -> int:
    if asked is None or asked == 0:
        return default
    if not 1 <= asked <= 4_096:
        raise UnknownHardware(f"cpu_cores: from 1 to 4096, not {asked}")
    return asked


def _mib(name: str, asked: float | None, factor: int, default: int) -> int:
    if asked is None or asked == 0:
        return default
    if not 0 < asked <= MAX_GIB:
        raise UnknownHardware(f"{name}: more than 0 and at most {MAX_GIB}, not {asked}")
    return math.ceil(asked * factor)
