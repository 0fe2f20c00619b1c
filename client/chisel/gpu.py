"""The GPU configurations that have a name."""

from __future__ import annotations

from enum import Enum


class GPUType(Enum):
    """``.value`` is what ``chisel --gpu`` takes: a model, a colon, how many of it."""

    A100_80GB_1 = "A100-80GB:1"
    A100_80GB_2 = "A100-80GB:2"
    A100_80GB_4 = "A100-80GB:4"
    A100_80GB_8 = "A100-80GB:8"
    A100_1 = "A100:1"
    A100_2 = "A100:2"
    A100_4 = "A100:4"
    A100_8 = "A100:8"
    H100_1 = "H100:1"
    H100_2 = "H100:2"
    H100_4 = "H100:4"
    H100_8 = "H100:8"
    L4_1 = "L4:1"
    L4_2 = "L4:2"
    L4_4 = "L4:4"
    L4_8 = "L4:8"
