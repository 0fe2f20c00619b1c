"""A node that cannot start says why in one line, with the next step."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest
from whole_world import NODE, PATIENCE_S

if TYPE_CHECKING:
    from pathlib import Path

    from whole_world import WholeWorld

pytestmark = pytest.mark.world


def copied(world: WholeWorld, folder: Path) -> Path:
    """The client's keys and settings, in a folder of their own."""
    data = folder / "node"
    data.mkdir(mode=0o700)
    for path in world.data("client-1").iterdir():
        if path.is_file() and path.name != "api.json":
            (data / path.name).write_bytes(path.read_bytes())
            (data / path.name).chmod(0o600)
    return data


def refused(data: Path) -> str:
    """Run the node; return the one line it ends with."""
    ended = subprocess.run(
        [*NODE, "run", "--data", str(data)],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert ended.returncode != 0
    assert "Traceback" not in ended.stderr
    assert not ended.stdout
    lines = [line for line in ended.stderr.splitlines() if line.startswith("robocompute-node: ")]
    assert len(lines) == 1, ended.stderr
    return lines[0]


def test_a_port_that_is_taken_is_named_with_its_holder_and_the_setting(
    calm: WholeWorld, tmp_path: Path
) -> None:
    data = copied(calm, tmp_path)
    config = data / "config.toml"
    p2p = next(line for line in config.read_text().splitlines() if line.startswith("listen"))
    config.write_text(config.read_text().replace(p2p, 'listen = ["/ip4/127.0.0.1/tcp/0"]'))
    line = refused(data)
    assert "port" in line
    assert calm.sdk().base_url.split(":")[2].split("/")[0] in line
    assert "taken" in line or "in use" in line
    assert "config.toml" in line


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[node\n", "config.toml"),
        ('[node]\nrolls = ["client"]\n', "rolls"),
        ("[client]\nhorizon_s = 1\n", "horizon_s"),
        ("\x00\xff", "config.toml"),
    ],
)
def test_a_corrupt_config_is_named_with_the_line_or_setting(
    calm: WholeWorld, tmp_path: Path, text: str, named: str
) -> None:
    data = copied(calm, tmp_path)
    (data / "config.toml").write_bytes(text.encode("latin-1"))
    assert named in refused(data)
