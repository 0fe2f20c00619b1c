"""Several addresses of one chain in the settings: the first that answers is used, all are named."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from money_world import Owner, found_owner
from settlement_chains import ChainWorld, embedded_world

from robocompute_node.chain_link import chain_link
from robocompute_node.config import ChainSettings
from robocompute_node.config_file import load_config
from robocompute_protocol.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

DEAD = "http://127.0.0.1:1"
DEAD_TOO = "http://127.0.0.1:2"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Generator[ChainWorld]:
    with embedded_world(tmp_path_factory.mktemp("chain")) as found:
        yield found


@pytest.fixture
def owner(world: ChainWorld, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Owner:
    return found_owner(world, tmp_path / "node", capsys)


def set_urls(owner: Owner, *urls: str) -> None:
    """Name other JSON-RPC addresses in the node's file."""
    text = owner.config.path.read_text()
    listed = ", ".join(f'"{url}"' for url in urls)
    old = f'\nrpc_url = "{owner.world.rpc_url}"\n'
    assert old in text
    owner.config.path.write_text(text.replace(old, f"\nrpc_url = [{listed}]\n"))


@pytest.mark.chain
def test_a_dead_first_address_keeps_no_money_from_moving(owner: Owner) -> None:
    set_urls(owner, DEAD, owner.world.rpc_url)
    owner.json("wallet", "deposit", "3.25")
    assert owner.held()["available"] == "3.250000"
    assert f"at {DEAD} or {owner.world.rpc_url}" in owner.types("chain", "status")[1]
    assert f"{DEAD} or {owner.world.rpc_url}, genesis" in owner.types("doctor")[1]


def test_when_no_address_answers_all_are_named_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], world: ChainWorld
) -> None:
    owner = found_owner(world, tmp_path / "node", capsys)
    set_urls(owner, DEAD, DEAD_TOO)
    said = owner.refused("wallet", "deposit", "1")
    assert f"{DEAD} or {DEAD_TOO} does not answer" in said
    assert str(owner.config.path) in said


def test_one_address_is_still_a_string(owner: Owner) -> None:
    assert f'\nrpc_url = "{owner.world.rpc_url}"\n' in owner.config.path.read_text()
    assert owner.config.chain.rpc_url == (owner.world.rpc_url,)
    assert load_config(owner.config.data_dir).chain.ws_url == (owner.world.ws_url,)


@pytest.mark.parametrize(
    "line",
    [
        "rpc_url = []",
        f"rpc_url = ['{DEAD}', 'ftp://x']",
        f"rpc_url = ['{DEAD}', '{DEAD}']",
        "rpc_url = 3",
        "ws_url = ['http://x']",
        "ws_url = ['ws://1', 'ws://2', 'ws://3', 'ws://4', 'ws://5', 'ws://6', 'ws://7', 'ws://8', 'ws://9']",
        "requests_per_s = 0",
        "requests_per_s = '5'",
        "requests_per_s = nan",
        "max_priority_fee = -1",
        "max_priority_fee = 100000001",
        "max_priority_fee = 1.5",
    ],
)
def test_a_bad_value_is_refused_in_one_line_that_says_what_it_must_be(
    line: str, tmp_path: Path
) -> None:
    (tmp_path / "config.toml").write_text(f"[chain]\n{line}\n")
    with pytest.raises(ConfigError) as caught:
        load_config(tmp_path)
    said = str(caught.value)
    assert f"{line.split(' ')[0]} in [chain] must be " in said
    assert "\n" not in said


def test_what_is_set_is_what_the_adapter_gets() -> None:
    chain = replace(
        ChainSettings(), rpc_url=(DEAD, DEAD_TOO), requests_per_s=7, max_priority_fee=9
    )
    link = chain_link(chain)
    assert link["rpc_urls"] == (DEAD, DEAD_TOO)
    assert link["requests_per_s"] == 7
    assert link["priority"].most_micro_lamports == 9
    assert link["priority"].least_micro_lamports == 9
    assert chain_link(ChainSettings())["priority"].least_micro_lamports == 1_000
