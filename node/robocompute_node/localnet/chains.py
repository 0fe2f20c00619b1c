"""The chain under a local world: which process it is, if it is one, and where it answers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Protocol

import msgspec

from robocompute_node.config import LOCAL_PROGRAM, LOCAL_USDC, LOCAL_USDT
from robocompute_node.localnet.blueprint import Backend
from robocompute_protocol.identifiers import Address, address_from_base58
from robocompute_settlement.localworld import chain_command
from robocompute_settlement.validator import READY_S, Validator, find_validator, free_ports

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from robocompute_node.localnet.blueprint import Chain, Plan

EMBEDDED_READY_S: Final = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoints:
    """Where a chain answers."""

    rpc_url: str
    ws_url: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """The settlement program of a world, and the mints it takes."""

    program_id: Address
    mints: tuple[Address, Address]


LOCAL: Final = Deployment(program_id=LOCAL_PROGRAM, mints=(LOCAL_USDC, LOCAL_USDT))


class ChainProcess(Protocol):
    """A chain that a world starts."""

    @property
    def patience_s(self) -> float:
        """How long it may take to answer."""
        ...

    def command(self) -> list[str]:
        """Raises: ConfigError when what it needs is not there."""
        ...

    def environment(self, env: Mapping[str, str]) -> dict[str, str]: ...
    def ready(self) -> Endpoints | None:
        """Return where it answers, once it does. Never waits long."""
        ...

    def last_words(self) -> str:
        """What it said in logs of its own, besides its output."""
        ...


class EmbeddedProcess:
    """The embedded chain: it says in its output where it answers."""

    def __init__(self, folder: Path, log: Path, *, rpc_port: int, ws_port: int) -> None:
        self.patience_s = EMBEDDED_READY_S
        self._folder = folder
        self._log = log
        self._ports = (rpc_port, ws_port)
        self._behind = log.stat().st_size if log.exists() else 0

    def command(self) -> list[str]:
        rpc_port, ws_port = self._ports
        genesis = self._folder / "genesis.json"
        return chain_command(self._folder, genesis, rpc_port=rpc_port, ws_port=ws_port)

    def environment(self, env: Mapping[str, str]) -> dict[str, str]:
        return dict(env)

    def ready(self) -> Endpoints | None:
        with self._log.open("rb") as file:
            file.seek(self._behind)
            for line in file:
                if line.startswith(b"{") and line.endswith(b"\n"):
                    told: dict[str, object] = msgspec.json.decode(line)
                    if told.get("ready"):
                        return Endpoints(
                            rpc_url=f"http://127.0.0.1:{told['rpc_port']}",
                            ws_url=f"ws://127.0.0.1:{told['ws_port']}",
                        )
        return None

    def last_words(self) -> str:
        return ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ValidatorProcess:
    """Solana's test validator."""

    validator: Validator
    ledger_shreds: int
    patience_s: float = field(default=READY_S)

    def command(self) -> list[str]:
        genesis = self.validator.folder / "genesis.json"
        return self.validator.command(genesis, ledger_shreds=self.ledger_shreds)

    def environment(self, env: Mapping[str, str]) -> dict[str, str]:
        return self.validator.environment(env)

    def ready(self) -> Endpoints | None:
        if not self.validator.ready():
            return None
        return Endpoints(rpc_url=self.validator.rpc_url, ws_url=self.validator.ws_url)

    def last_words(self) -> str:
        return self.validator.last_words()


def process_of(
    plan: Plan, folder: Path, log: Path, *, free: bool, env: Mapping[str, str]
) -> ChainProcess | None:
    """Return the chain's process below ``folder``, not started yet; None where it is a cluster.

    Raises:
        ConfigError: there is no validator, or no free ports for it.
    """
    chain = plan.blueprint.chain
    if chain.backend is Backend.URL:
        return None
    if chain.backend is Backend.EMBEDDED:
        rpc_port, ws_port = (0, 0) if free else (chain.rpc_port, chain.ws_port)
        return EmbeddedProcess(folder, log, rpc_port=rpc_port, ws_port=ws_port)
    binary = find_validator(plan.validator, env)
    rpc_port = free_ports(2) if free or not chain.rpc_port else chain.rpc_port
    return ValidatorProcess(
        validator=Validator(binary=binary, folder=folder, rpc_port=rpc_port),
        ledger_shreds=chain.ledger_shreds,
    )


def deployment_of(chain: Chain) -> Deployment:
    """Return which program and mints a world's nodes use."""
    if chain.backend is not Backend.URL:
        return LOCAL
    usdc, usdt = (address_from_base58(mint) for mint in chain.mints)
    return Deployment(program_id=address_from_base58(chain.program_id), mints=(usdc, usdt))
