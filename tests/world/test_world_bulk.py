"""Files of many megabytes there and back, over a direct connection between two processes."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from whole_world import WholeWorld

pytestmark = pytest.mark.world

MIB = 1 << 20
TURN_AROUND = """
from pathlib import Path
data = Path("data.bin").read_bytes()
Path("/volume/back.bin").write_bytes(data[::-1])
print(len(data))
"""


def test_much_goes_there_and_back_directly_and_byte_for_byte(calm: WholeWorld) -> None:
    folder = calm.job_folder(TURN_AROUND)
    data = os.urandom(12 * MIB + 5)
    (folder / "data.bin").write_bytes(data)
    said = len(calm.log("client-1"))
    ran = calm.chisel(folder, "python", "job.py").end()
    assert ran.status == 0, ran.stderr
    assert ran.stdout == b"%d\n" % len(data)
    (back,) = folder.glob("chisel-out/*/**/back.bin")
    assert back.read_bytes() == data[::-1]
    log = calm.log("client-1")[said:]
    assert "chunks go over libp2p" not in log
    assert log.count("chunks go directly") == 2
