from __future__ import annotations

import pytest

from robocompute_node.core.hardware import UnknownHardware, parse_gpu, requirements_of


@pytest.mark.parametrize(
    ("asked", "meant"),
    [
        ("H100", ("h100", 1, 0)),
        ("h100:8", ("h100", 8, 0)),
        ("A100-80GB:2", ("a100", 2, 80_000)),
        ("A100-40GB", ("a100", 1, 40_000)),
        ("RTX 4090", ("rtx4090", 1, 0)),
        ("rtx-4090:2", ("rtx4090", 2, 0)),
        ("4090", ("rtx4090", 1, 0)),
        ("NVIDIA H200", ("h200", 1, 0)),
        ("gpu-other:3", ("gpu-other", 3, 0)),
        ("cpu", ("cpu", 0, 0)),
    ],
)
def test_what_people_call_hardware(asked: str, meant: tuple[str, int, int]) -> None:
    assert parse_gpu(asked) == meant


@pytest.mark.parametrize(
    "asked", ["", "Z80", "H100:0", "H100:63", "H100:x", "cpu:2", ":2", "A100-"]
)
def test_what_nobody_offers_is_refused(asked: str) -> None:
    with pytest.raises(UnknownHardware):
        parse_gpu(asked)


def test_what_is_not_said_is_enough_for_a_small_training() -> None:
    plain = requirements_of(kind="cpu", gpu=None)
    assert (plain.cpu_cores, plain.memory_mib, plain.disk_mib) == (1, 2_048, 4_096)
    two = requirements_of(kind="gpu", gpu="H100:2")
    assert (two.cpu_cores, two.memory_mib, two.disk_mib) == (4, 16_384, 32_768)


def test_what_is_said_is_rounded_up_to_the_mebibyte() -> None:
    asked = requirements_of(kind="cpu", gpu="cpu", cpu_cores=3, ram_gb=0.0001, storage_gb=1.5)
    assert (asked.cpu_cores, asked.memory_mib, asked.disk_mib) == (3, 1, 1_536)


def test_parts_that_contradict_each_other_are_refused() -> None:
    for wrong in (
        {"kind": "cpu", "gpu": "H100"},
        {"kind": "gpu", "gpu": None},
        {"kind": "cpu", "gpu": None, "gpu_memory_gb": 8.0},
        {"kind": "cpu", "gpu": None, "ram_gb": 1e9},
        {"kind": "cpu", "gpu": None, "cpu_cores": -1},
    ):
        with pytest.raises(UnknownHardware):
            requirements_of(**wrong)  # type: ignore[arg-type]
