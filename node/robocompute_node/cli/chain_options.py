"""Which cluster, program and key a ``chain`` command means."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from robocompute_node.cli.options import inner_data_option, json_option

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from robocompute_node.config import ChainSettings, NodeConfig
    from robocompute_protocol.identifiers import Address
    from robocompute_settlement.solana import SolanaSettlement

rpc_option = click.option(
    "--rpc", metavar="URL", help="Solana JSON-RPC. Default: the one of DIR's config.toml."
)
program_option = click.option(
    "--program", metavar="ADDRESS", help="The settlement program. Default: the one of config.toml."
)
key_option = click.option(
    "--key",
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    help="The key that signs and pays, in the form of Solana's tools. Default: DIR's wallet.",
)


def place_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options that say where: --rpc, --program, --data and --json."""
    for option in (json_option, inner_data_option, program_option, rpc_option):
        command = option(command)
    return command


def settings_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options of a deployment's settings; it gets those that were given."""

    @functools.wraps(command)
    def with_settings(**options: Any) -> Any:
        chosen = {key: options.pop(key) for key in SETTINGS}
        given = {key: value for key, value in chosen.items() if value is not None}
        return command(settings=given, **options)

    decorated: Callable[..., Any] = with_settings
    for option in SETTINGS.values():
        decorated = option(decorated)
    return decorated


def _amount(_context: click.Context, _parameter: click.Parameter, value: str | None) -> Any:
    from robocompute_protocol.money import parse_amount

    try:
        return None if value is None else parse_amount(value)
    except ValueError as exc:
        raise click.BadParameter(str(exc)) from None


def _address(_context: click.Context, parameter: click.Parameter, value: str | None) -> Any:
    return None if value is None else read_address(value, f"--{parameter.name}")


MAX_SECONDS: Final = 2_592_000
"""The program takes no time of more than 30 days."""
SETTINGS: Final[Mapping[str, Callable[[Callable[..., Any]], Callable[..., Any]]]] = {
    "treasury": click.option(
        "--treasury", metavar="ADDRESS", callback=_address, help="Whose Balances get the fees."
    ),
    "slot_stake": click.option(
        "--slot-stake", metavar="AMOUNT", callback=_amount, help="Bonded for each slot let."
    ),
    "unbond_s": click.option(
        "--unbond-s",
        type=click.IntRange(0, MAX_SECONDS),
        help="Seconds until unstaked money is free.",
    ),
    "min_challenge_s": click.option(
        "--min-challenge-s",
        type=click.IntRange(0, MAX_SECONDS),
        help="Seconds a channel's payee has at least to settle.",
    ),
    "fee_bps": click.option(
        "--fee-bps", type=click.IntRange(0, 500), help="Fee of new channels, in hundredths of 1 %."
    ),
    "slash_bps": click.option(
        "--slash-bps", type=click.IntRange(0, 5_000), help="What a double sale costs of a stake."
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A deployment on a cluster, whether or not anything is there."""

    data: Path
    chain: ChainSettings

    @property
    def program_id(self) -> Address:
        """The settlement program's address."""
        return self.chain.program_id

    def open(self, *, seed: bytes | None = None) -> SolanaSettlement:
        """Return a connection, to be closed; with ``seed`` it can write."""
        from robocompute_node.chain_link import chain_link
        from robocompute_settlement.solana import SolanaSettlement

        return SolanaSettlement(**chain_link(self.chain), signer_seed=seed)


def place_of(data: Path, rpc: str | None, program: str | None) -> Place:
    """Return what was named, and for the rest what the node of ``data`` uses.

    Raises:
        ConfigError: something was not named, and there is no such node.
    """
    from robocompute_node.config import ChainSettings

    wanting = ["--rpc URL"] if rpc is None else []
    wanting += ["--program ADDRESS"] if program is None else []
    chain = _node_of(data, " and ".join(wanting)).chain if wanting else ChainSettings()
    if rpc is not None:
        chain = replace(chain, rpc_url=(_url(rpc),))
    if program is not None:
        chain = replace(chain, program_id=read_address(program, "--program"))
    return Place(data=data, chain=chain)


def read_key(data: Path, key: Path | None) -> Any:
    """Return the key of ``--key``, or the wallet of the node in ``data``.

    Raises:
        ConfigError: it cannot be used.
    """
    from robocompute_node.keys import NAME_A_KEY, load_key, load_wallet

    if key is None:
        return load_wallet(_node_of(data, "--key FILE"))
    return load_key(key, otherwise=NAME_A_KEY)


def _node_of(data: Path, options: str) -> NodeConfig:
    """Load the node's settings; where there is none, say which options do without one."""
    from robocompute_node.config import CONFIG_NAME
    from robocompute_node.config_file import load_config
    from robocompute_protocol.errors import ConfigError

    if not (data / CONFIG_NAME).exists():
        raise ConfigError(
            f"there is no node in {data}: add {options}, or name one with --data DIR"
        )
    return load_config(data)


def read_address(text: str, option: str) -> Address:
    """Read an address that was given with ``option``."""
    from robocompute_protocol.identifiers import address_from_base58

    try:
        return address_from_base58(text)
    except ValueError as exc:
        raise click.BadParameter(str(exc), param_hint=option) from None


def _url(text: str) -> str:
    if not text.startswith(("http://", "https://")):
        raise click.BadParameter(f"{text!r} is no http:// or https:// address", param_hint="--rpc")
    return text
