"""What ``localnet.toml`` says: chain, program, mints, wallets and nodes of a local world."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec

from robocompute_node.config import Role
from robocompute_protocol.errors import ConfigError
from robocompute_protocol.identifiers import address_from_base58
from robocompute_protocol.money import parse_amount
from robocompute_settlement.embedded.timeline import FINALITY_SLOTS
from robocompute_settlement.localworld import program_path
from robocompute_settlement.validator import LEDGER_SHREDS

if TYPE_CHECKING:
    from pathlib import Path

NAME = "localnet.toml"
Port = Annotated[int, msgspec.Meta(ge=0, le=65_535)]
Name = Annotated[str, msgspec.Meta(pattern="^[a-z0-9][a-z0-9-]{0,31}$")]
Amount = Annotated[str, msgspec.Meta(max_length=24)]
Seconds = Annotated[int, msgspec.Meta(ge=0, le=2_592_000)]
Url = Annotated[str, msgspec.Meta(pattern="^(|(http|ws)s?://.+)$", max_length=2_000)]
Key = Annotated[str, msgspec.Meta(pattern="^[1-9A-HJ-NP-Za-km-z]{0,44}$")]


class Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of all tables: exact."""


class Backend(StrEnum):
    """What the world's chain is."""

    EMBEDDED = "embedded"
    """The program in LiteSVM behind Solana's JSON-RPC, in a process of ours."""
    VALIDATOR = "validator"
    """Solana's own test validator."""
    URL = "url"
    """A cluster that somebody else runs: nothing is started, and nothing is given away."""


class Chain(Table, frozen=True, kw_only=True):
    """[chain]. What stands below the ports is of one backend alone."""

    backend: Backend = Backend.EMBEDDED
    rpc_port: Port = 8899
    ws_port: Port = 8900
    finality_slots: Annotated[int, msgspec.Meta(ge=0, le=10_000)] = FINALITY_SLOTS
    """embedded: 400 ms each."""
    validator: str = ""
    """validator: the binary, relative to the file; not set: ROBOCOMPUTE_VALIDATOR or the path."""
    ledger_shreds: Annotated[int, msgspec.Meta(ge=1_000, le=10**9)] = LEDGER_SHREDS
    """validator: how much of old blocks it keeps."""
    rpc_url: Url = ""
    ws_url: Url = ""
    program_id: Key = ""
    mints: tuple[Key, ...] = ()
    """url: where the cluster and the deployment are; USDC and USDT in this order."""


class ProgramFile(Table, frozen=True, kw_only=True):
    """[program]."""

    binary: str = ""
    """Relative to the file; not set: the one this package came with."""


class Timing(Table, frozen=True, kw_only=True):
    """[timing]: days of a real cluster, scaled to seconds."""

    min_challenge_s: Seconds = 5
    unbond_s: Seconds = 30


class Fees(Table, frozen=True, kw_only=True):
    """[fees]."""

    fee_bps: Annotated[int, msgspec.Meta(ge=0, le=500)] = 100
    slot_stake: Amount = "100.00"


class MintName(Table, frozen=True, kw_only=True):
    """[[mints]]."""

    symbol: Literal["USDC", "USDT"]


class Wallet(Table, frozen=True, kw_only=True):
    """[[wallets]]: what a wallet holds at the start."""

    name: Name
    sol: Amount = "10.00"
    usdc: Amount = "0.00"
    usdt: Amount = "0.00"


class Node(Table, frozen=True, kw_only=True):
    """[[nodes]]: ``provider``, ``client`` and ``containers`` are sections of its config.toml."""

    name: Name
    roles: tuple[Role, ...]
    wallet: Name
    api_port: Port = 0
    p2p_port: Port = 0
    deposit: Amount = "0.00"
    allowance: Amount = "0.00"
    stake_slots: Annotated[int, msgspec.Meta(ge=0, le=62)] = 0
    provider: dict[str, object] = {}
    client: dict[str, object] = {}
    containers: dict[str, object] = {}


class Blueprint(Table, frozen=True, kw_only=True):
    """The whole file."""

    chain: Chain = Chain()
    program: ProgramFile = ProgramFile()
    timing: Timing = Timing()
    fees: Fees = Fees()
    mints: tuple[MintName, ...]
    wallets: tuple[Wallet, ...]
    nodes: tuple[Node, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A blueprint, checked, and where it came from."""

    path: Path
    text: str = field(repr=False)
    blueprint: Blueprint

    @property
    def binary(self) -> Path:
        """The settlement program.

        Raises:
            ConfigError: the file names none, and this package came without one.
        """
        named = self.blueprint.program.binary
        return self._beside(named) if named else program_path()

    @property
    def validator(self) -> Path | None:
        """The test validator's binary, where the file names one."""
        named = self.blueprint.chain.validator
        return self._beside(named) if named else None

    def _beside(self, named: str) -> Path:
        return (self.path.parent / named).resolve()

    def wallet(self, name: str) -> Wallet:
        """Return the wallet of that name."""
        return next(wallet for wallet in self.blueprint.wallets if wallet.name == name)


def read_plan(path: Path) -> Plan:
    """Read ``path``.

    Raises:
        ConfigError: missing, not TOML, or not a world. One line, with the place.
    """
    try:
        text = path.read_text()
    except FileNotFoundError:
        raise ConfigError(
            f"{path} does not exist: name the world's file with --config, or run in the "
            "repository's root"
        ) from None
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError(f"{path} cannot be read: {exc}") from exc
    try:
        blueprint = msgspec.convert(tomllib.loads(text), type=Blueprint)
    except tomllib.TOMLDecodeError as exc:
        raise ConfigError(f"{path} is not TOML: {exc}: correct that place") from None
    except msgspec.ValidationError as exc:
        raise ConfigError(f"{path} is no local world: {exc}") from None
    _check(path, blueprint)
    return Plan(path=path, text=text, blueprint=blueprint)


def _check(path: Path, blueprint: Blueprint) -> None:
    problems: list[str] = []
    wallets = {wallet.name for wallet in blueprint.wallets}
    names = [node.name for node in blueprint.nodes]
    used = [node.wallet for node in blueprint.nodes]
    if len(set(names)) != len(names) or not names:
        problems.append("[[nodes]] need different names, and at least one of them")
    if len(set(used)) != len(used):
        problems.append("each of the [[nodes]] needs a wallet of its own")
    problems += [
        f"node {n.name} names no wallet here" for n in blueprint.nodes if n.wallet not in wallets
    ]
    if [mint.symbol for mint in blueprint.mints] != ["USDC", "USDT"]:
        problems.append("[[mints]] are USDC and USDT, in this order")
    problems += _problems_of(blueprint.chain)
    amounts = [blueprint.fees.slot_stake]
    amounts += [value for node in blueprint.nodes for value in (node.deposit, node.allowance)]
    amounts += [
        value for wallet in blueprint.wallets for value in (wallet.sol, wallet.usdc, wallet.usdt)
    ]
    for value in amounts:
        try:
            parse_amount(value)
        except ValueError as exc:
            problems.append(str(exc))
    if problems:
        raise ConfigError(f"{path} is no local world: {problems[0]}")


def _problems_of(chain: Chain) -> list[str]:
    problems: list[str] = []
    elsewhere = {
        "rpc_url": chain.rpc_url,
        "ws_url": chain.ws_url,
        "program_id": chain.program_id,
        "mints": chain.mints,
    }
    if chain.backend is Backend.URL:
        problems += [
            f'backend "url" needs {key} in [chain]' for key, v in elsewhere.items() if not v
        ]
        if chain.mints and len(chain.mints) != 2:
            problems.append("mints in [chain] are two: USDC and USDT, in this order")
    else:
        problems += [
            f'{key} in [chain] is for backend "url" alone' for key, v in elsewhere.items() if v
        ]
    if chain.backend is not Backend.VALIDATOR and chain.validator:
        problems.append('validator in [chain] is for backend "validator" alone')
    if (
        chain.backend is Backend.VALIDATOR
        and chain.rpc_port
        and chain.ws_port != chain.rpc_port + 1
    ):
        problems.append("a validator's ws_port is its rpc_port + 1")
    for key in (chain.program_id, *chain.mints):
        try:
            _ = key and address_from_base58(key)
        except ValueError as exc:
            problems.append(f"[chain] {exc}")
    return problems
