"""A chain that scenes play on: the embedded one or Solana's validator, behind a cable."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import httpx
import pytest
import trio
from relay import Relay
from whole_world import PATIENCE_S, free_port, wait_until

from robocompute_node.localnet.chains import (
    LOCAL,
    ChainProcess,
    EmbeddedProcess,
    ValidatorProcess,
)
from robocompute_node.localnet.processes import start, stop
from robocompute_protocol.errors import ConfigError
from robocompute_protocol.identifiers import Address, to_base58
from robocompute_protocol.money import MicroUnits
from robocompute_settlement.audit import MintBooks, read_books
from robocompute_settlement.localworld import (
    GenesisPlan,
    PlannedWallet,
    found_world,
    local_address,
    local_seed,
    program_path,
    write_genesis,
)
from robocompute_settlement.solana import SolanaSettlement
from robocompute_settlement.validator import LEDGER_SHREDS, Validator, find_validator, free_ports

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path


FEE_BPS: Final = 100
UNBOND_S: Final = 20
CHALLENGE_S: Final = 12
"""A day, scaled: an outage of half an hour to two is a second, and four hours are two."""
SLOT_STAKE: Final = MicroUnits(10_000_000)
LAMPORTS: Final = 10_000_000_000
STRANGER: Final = local_seed("stranger")
"""Somebody who is no party to anything."""


class SceneChain:
    """The program, set up, on a running chain. Nodes reach it through the cables."""

    def __init__(self, backend: str, folder: Path, wallets: dict[Address, MicroUnits]) -> None:
        self.backend = backend
        self._log = folder / "chain.log"
        stranger = Address(bytes(local_address("stranger")))
        planned = [
            PlannedWallet(address=address, lamports=LAMPORTS, tokens={LOCAL.mints[0]: usdc})
            for address, usdc in wallets.items()
        ]
        planned.append(PlannedWallet(address=stranger, lamports=LAMPORTS))
        plan = GenesisPlan(
            wallets=tuple(planned),
            program_binary=program_path(),
            program_id=LOCAL.program_id,
            mints=LOCAL.mints,
            finality_slots=2,
        )
        self._admin_seed = plan.faucet_seed
        write_genesis(plan, folder / "genesis.json")
        self._process = self._of(backend, folder)
        command, environment = self._process.command(), self._process.environment(os.environ)
        self._running = start(f"{backend} chain", command, log=self._log, env=environment)
        try:
            found = wait_until("the chain's answer", self._process.ready, within_s=PATIENCE_S)
            self.rpc_url, self.ws_url = found.rpc_url, found.ws_url
            trio.run(self._found)
            self.rpc = Relay(free_port(), _port_of(found.rpc_url))
            self.ws = Relay(free_port(), _port_of(found.ws_url))
        except BaseException:
            stop(self._running)
            raise

    def _of(self, backend: str, folder: Path) -> ChainProcess:
        if backend == "embedded":
            return EmbeddedProcess(folder, self._log, rpc_port=0, ws_port=0)
        validator = Validator(binary=validator_or_skip(), folder=folder, rpc_port=free_ports(2))
        return ValidatorProcess(validator=validator, ledger_shreds=LEDGER_SHREDS)

    async def _found(self) -> None:
        async with self.adapter(self._admin_seed) as admin:
            await found_world(
                admin, mints=LOCAL.mints, treasury=admin.signer, fee_bps=FEE_BPS,
                slot_stake=SLOT_STAKE, unbond_s=UNBOND_S, min_challenge_s=CHALLENGE_S,
            )  # fmt: skip

    def end(self) -> None:
        self.rpc.pull()
        self.ws.pull()
        stop(self._running)

    @contextmanager
    def away(self) -> Generator[None]:
        """Take the chain away from the nodes for a while. It goes on."""
        self.rpc.pull()
        self.ws.pull()
        try:
            yield
        finally:
            self.rpc.plug()
            self.ws.plug()

    def adapter(self, seed: bytes) -> SolanaSettlement:
        """A connection that goes past the cables."""
        return SolanaSettlement(
            rpc_urls=(self.rpc_url,), program_id=LOCAL.program_id, signer_seed=seed
        )

    def call(self, method: str, *params: Any) -> Any:
        """A raw JSON-RPC request past the cables; the whole answer."""
        body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        with httpx.Client(trust_env=False, timeout=10) as client:
            return client.post(self.rpc_url, json=body).json()

    def lamports(self, address: Address) -> int:
        params = (to_base58(address), {"commitment": "confirmed"})
        return int(self.call("getBalance", *params)["result"]["value"])

    def books(self) -> MintBooks:
        """The program's books of USDC."""

        async def read() -> MintBooks:
            async with self.adapter(STRANGER) as chain:
                return (await read_books(chain))[0]

        return trio.run(read)

    def accounts(self) -> dict[Address, bytes]:
        """Every account of the program, and the vaults."""

        async def read() -> dict[Address, bytes]:
            async with self.adapter(STRANGER) as chain:
                found = {address: held.data for address, held in await chain.program_accounts()}
                vault = await chain.vault_tokens(LOCAL.mints[0])
                return {**found, LOCAL.mints[0]: vault.to_bytes(8, "little")}

        return trio.run(read)


def validator_or_skip() -> Path:
    """Solana's validator, or the end of the test with the words that say how to get it."""
    try:
        return find_validator(None, os.environ)
    except ConfigError as exc:
        pytest.skip(str(exc))


def _port_of(url: str) -> int:
    return int(url.rpartition(":")[2])
