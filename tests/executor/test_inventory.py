from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from robocompute_node.inventory import gpu_class, gpu_utilisation, take_inventory
from robocompute_protocol.messages import CLASSES

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("NVIDIA A100-SXM4-80GB", "a100"),
        ("NVIDIA H100 PCIe", "h100"),
        ("NVIDIA H200", "h200"),
        ("NVIDIA L40S", "l40s"),
        ("NVIDIA L4", "l4"),
        ("NVIDIA A10", "a10"),
        ("Tesla T4", "t4"),
        ("Tesla V100-PCIE-16GB", "v100"),
        ("NVIDIA GeForce RTX 4090", "rtx4090"),
        ("NVIDIA GeForce GTX 1080", "gpu-other"),
        ("NVIDIA RTX A1000", "gpu-other"),
    ],
)
def test_a_product_name_has_one_class(model: str, expected: str):
    assert gpu_class(model) == expected
    assert expected in CLASSES


def test_this_machine_has_a_processor_memory_and_disk(tmp_path: Path):
    inventory = take_inventory(tmp_path)
    assert inventory.cpu_cores >= 1
    assert inventory.cpu_model
    assert inventory.memory_mib > 64
    assert inventory.disk_mib > 0


def test_no_cards_have_no_utilisation():
    assert gpu_utilisation(()) == ()
