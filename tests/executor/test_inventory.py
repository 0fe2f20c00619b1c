from __future__ import annotations

from typing import TYPE_CHECKING

from robocompute_node.inventory import take_inventory
from robocompute_node.nvml import NvmlCards

if TYPE_CHECKING:
    from pathlib import Path


def test_this_machine_has_a_processor_memory_and_disk(tmp_path: Path):
    inventory = take_inventory(tmp_path, NvmlCards())
    assert inventory.cpu_cores >= 1
    assert inventory.cpu_model
    assert inventory.memory_mib > 64
    assert inventory.disk_mib > 0
