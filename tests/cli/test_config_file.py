from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from robocompute_node.config import NodeConfig
from robocompute_node.config_file import config_text, documented, load_config, parse_config
from robocompute_node.founding import found_node
from robocompute_protocol.errors import ConfigError

DOCS = Path(__file__).parents[2] / "docs" / "node.md"


def refused(text: str, tmp_path: Path) -> str:
    (tmp_path / "config.toml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_config(tmp_path)
    assert "\n" not in str(caught.value)
    assert str(tmp_path / "config.toml") in str(caught.value)
    return str(caught.value)


def test_a_file_with_nothing_set_means_the_defaults(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text(config_text({}))
    assert load_config(tmp_path) == NodeConfig(data_dir=tmp_path)


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    document = {
        "node": {"roles": ["client", "provider"]},
        "provider": {"price_per_hour": "0.123456", "cpu_cores": 3, "location": 'a "b" \\ c'},
        "p2p": {"bootstrap": ["/ip4/127.0.0.1/tcp/1/p2p/x"]},
        "client": {"horizon_s": 12.5},
    }
    founded = found_node(tmp_path, document)
    assert founded.config == parse_config(document, data_dir=tmp_path, source="")
    assert founded.config.provider.price_per_hour == 123_456
    assert founded.config.is_client
    assert founded.config.is_provider


def test_a_misspelt_setting_is_an_error_that_names_the_nearest_one(tmp_path: Path) -> None:
    said = refused("[api]\nprot = 1\n", tmp_path)
    assert "prot in [api]" in said
    assert "did you mean port?" in said
    assert "did you mean provider?" in refused("[provder]\n", tmp_path)


def test_a_file_that_is_not_toml_is_one_line_with_the_place(tmp_path: Path) -> None:
    said = refused("[api]\nport = 80 80\n", tmp_path)
    assert "line 2" in said
    assert "robocompute-node init" in said


@pytest.mark.parametrize(
    "text",
    [
        "[api]\nport = 70000\n",
        "[api]\nport = true\n",
        "[api]\nport = '1'\n",
        "[client]\nhorizon_s = 1\n",
        "[client]\nhorizon_s = 'x'\n",
        "[client]\nchannel_deposit = 5.0\n",
        "[client]\nchannel_deposit = '5.0000001'\n",
        "[chain]\nrpc_url = 'ftp://x'\n",
        "[chain]\nmint = 'xyz'\n",
        "[node]\nroles = []\n",
        "[node]\nroles = ['miner']\n",
        "[provider]\nresource_class = 'quantum'\n",
        "api = 3\n",
    ],
)
def test_a_value_out_of_bounds_is_refused_with_what_it_must_be(text: str, tmp_path: Path) -> None:
    assert "must be" in refused(text, tmp_path)


def test_a_missing_node_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="robocompute-node init --data"):
        load_config(tmp_path / "nowhere")


def test_every_setting_is_documented_as_it_is() -> None:
    rows = set(re.findall(r"^\| `\[.*$", DOCS.read_text(), flags=re.MULTILINE))
    assert rows == {line.row() for line in documented()}


def test_the_default_file_names_every_setting() -> None:
    text = config_text({})
    assert tomllib.loads(text) == {line.section: {} for line in documented()}
    for line in documented():
        assert f"# {line.key} " in text
