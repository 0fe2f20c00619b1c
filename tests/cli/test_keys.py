from __future__ import annotations

import json
import stat
from typing import TYPE_CHECKING

import pytest

from robocompute_node.keys import load_api_key, load_key, make_api_key, make_key
from robocompute_protocol.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path


def test_a_key_file_is_what_solana_tools_write(tmp_path: Path) -> None:
    made = make_key(tmp_path / "k")
    numbers = json.loads((tmp_path / "k").read_text())
    assert bytes(numbers) == made.seed + made.public
    assert stat.S_IMODE((tmp_path / "k").stat().st_mode) == 0o600
    assert load_key(tmp_path / "k") == made
    assert made.seed.hex() not in repr(made)
    assert [path.name for path in tmp_path.iterdir()] == ["k"]


def test_a_key_file_is_never_overwritten(tmp_path: Path) -> None:
    made = make_key(tmp_path / "k")
    with pytest.raises(ConfigError, match="never overwritten"):
        make_key(tmp_path / "k")
    assert load_key(tmp_path / "k") == made


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o660])
def test_a_key_that_others_may_read_is_refused_with_the_command_that_helps(
    tmp_path: Path, mode: int
) -> None:
    make_key(tmp_path / "k")
    (tmp_path / "k").chmod(mode)
    with pytest.raises(ConfigError, match="chmod 600"):
        load_key(tmp_path / "k")


@pytest.mark.parametrize("text", ["", "[]", "[1, 2]", "{}", "[300]", '["a"]', str([7] * 64)])
def test_what_is_no_key_pair_is_refused_in_one_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "k"
    path.write_text(text)
    path.chmod(0o600)
    with pytest.raises(ConfigError, match="not a key file") as caught:
        load_key(path)
    assert "\n" not in str(caught.value)


def test_a_missing_key_and_a_folder_in_its_place_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="robocompute-node init"):
        load_key(tmp_path / "k")
    (tmp_path / "k").mkdir()
    with pytest.raises(ConfigError, match="not a plain file"):
        load_key(tmp_path / "k")


def test_an_api_key_is_long_and_read_back(tmp_path: Path) -> None:
    key = make_api_key(tmp_path / "api_key")
    assert key.startswith("rc_live_")
    assert len(key) >= 64
    assert load_api_key(tmp_path / "api_key") == key
    (tmp_path / "api_key").write_text("short\n")
    with pytest.raises(ConfigError, match="holds no API key"):
        load_api_key(tmp_path / "api_key")
