"""Solana's own test validator as a local world's chain: found, founded, started, waited for.

It runs the cluster's real runtime, loader and clock. A genesis file written for the embedded chain
founds it too; only Config comes later, for it holds the genesis hash, which a validator makes up.
"""

from __future__ import annotations

import base64
import json
import secrets
import shutil
import socket
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import httpx
from solders.keypair import Keypair

from robocompute_protocol.errors import ConfigError
from robocompute_settlement.embedded.genesis import genesis_accounts, read_genesis

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from solders.account import Account
    from solders.pubkey import Pubkey

NAME: Final = "solana-test-validator"
VARIABLE: Final = "ROBOCOMPUTE_VALIDATOR"
"""Names the binary where it is not on the path."""
HOST: Final = "127.0.0.1"
READY_S: Final = 90.0
"""It answers within a second on an idle machine; on a busy one 15 s were seen."""
LEDGER_SHREDS: Final = 10_000
"""What the ledger keeps of old blocks: about 100 MB, hours of an idle world."""
OTHER_PORTS: Final = 34
"""Faucet, gossip, and the range of 32 that the validator takes the rest from (25 at least)."""
FIRST_PORT: Final = 20_000
LAST_PORT: Final = 31_000
"""Ports are looked for below those that the kernel gives to whoever asks."""
MIN_SLOT: Final = 2
"""A program at genesis can be called from the next slots on."""
ASK_S: Final = 2.0
TAIL_LINES: Final = 12
"""Of its log, shown when it does not start."""
MAX_ACCOUNT_BYTES: Final = 1_000
"""Accounts of a genesis file are smaller, except a program's code, which has its own option."""


def find_validator(named: Path | None, env: Mapping[str, str]) -> Path:
    """Return the binary: ``named``, else that of ROBOCOMPUTE_VALIDATOR, else the one on the path.

    Raises:
        ConfigError: there is none; the text says how to get it.
    """
    chosen = str(named) if named is not None else env.get(VARIABLE) or NAME
    found = shutil.which(chosen, path=env.get("PATH"))
    if found is None:
        where = f"{chosen} is no program" if chosen != NAME else f"no {NAME} on the path"
        raise ConfigError(
            f"{where}: `cargo install agave-validator --version 3.1.8 --bin {NAME}` builds it, or "
            f"Solana's installer brings it; name it in {VARIABLE} or as validator in [chain]; "
            'backend = "embedded" needs none'
        )
    return Path(found).absolute()


def free_ports(count: int) -> int:
    """Return the first of ``count`` neighbouring ports that nobody listens on, TCP or UDP.

    Raises:
        ConfigError: there are none.
    """
    for _ in range(100):
        first = FIRST_PORT + secrets.randbelow(LAST_PORT - FIRST_PORT - count)
        with ExitStack() as stack:
            try:
                for port in range(first, first + count):
                    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
                        one = stack.enter_context(socket.socket(socket.AF_INET, kind))
                        one.bind((HOST, port))
            except OSError:
                continue
            return first
    raise ConfigError(f"no {count} free ports beside each other between 20000 and 31000")


@dataclass(frozen=True, slots=True, kw_only=True)
class Validator:
    """One validator's chain below ``folder``; whoever runs its command ends the process.

    It is one process of many threads, and ended by SIGTERM at once; what was confirmed is on disk.
    """

    binary: Path
    folder: Path
    rpc_port: int
    """Its websocket is at the next one."""

    @property
    def rpc_url(self) -> str:
        return f"http://{HOST}:{self.rpc_port}"

    @property
    def ws_url(self) -> str:
        return f"ws://{HOST}:{self.rpc_port + 1}"

    @property
    def ledger(self) -> Path:
        return self.folder / "ledger"

    def command(
        self,
        genesis_file: Path,
        *,
        also: Iterable[tuple[Pubkey, Account]] = (),
        ledger_shreds: int = LEDGER_SHREDS,
    ) -> list[str]:
        """Return the command that founds the chain, or wakes it where there is a ledger.

        ``also`` are accounts of its genesis besides those of the file.

        Raises:
            ConfigError: the genesis file cannot be used, or there are no free ports.
        """
        genesis = read_genesis(genesis_file)
        faucet = Keypair.from_bytes(bytes(genesis.faucet)).pubkey()
        accounts = self.folder / "accounts"
        accounts.mkdir(parents=True, exist_ok=True)
        (self.folder / "tmp").mkdir(exist_ok=True)
        for address, account in (*genesis_accounts(genesis, faucet), *also):
            small = len(account.data) <= MAX_ACCOUNT_BYTES and not account.executable
            if small and address != faucet:
                _write_account(accounts / f"{address}.json", address, account)
        first = free_ports(OTHER_PORTS)
        command = [
            str(self.binary), "--quiet", "--ledger", str(self.ledger), "--bind-address", HOST,
            "--rpc-port", str(self.rpc_port), "--faucet-port", str(first),
            "--gossip-port", str(first + 1),
            "--dynamic-port-range", f"{first + 2}-{first + OTHER_PORTS - 1}",
            "--limit-ledger-size", str(ledger_shreds), "--mint", str(faucet),
            "--account-dir", str(accounts),
        ]  # fmt: skip
        for program in genesis.programs:
            command += [
                "--upgradeable-program", program.address, program.binary,
                program.upgrade_authority,
            ]  # fmt: skip
        return command

    def environment(self, env: Mapping[str, str]) -> dict[str, str]:
        """Return ``env`` for the process: it leaves files in TMPDIR, and writes a log without end."""
        return {**env, "TMPDIR": str(self.folder / "tmp"), "RUST_LOG": "warn"}

    def ready(self) -> bool:
        """Whether it takes transactions, having replayed all that it knew when it was ended."""
        slots: list[int] = []
        with httpx.Client(base_url=self.rpc_url, timeout=ASK_S, trust_env=False) as client:
            for level in ("finalized", "confirmed", "processed"):
                params = [{"commitment": level}]
                body = {"jsonrpc": "2.0", "id": 1, "method": "getSlot", "params": params}
                try:
                    answer: Any = client.post("/", json=body).json()
                    slots.append(int(answer["result"]))
                except (httpx.HTTPError, ValueError, KeyError, TypeError):
                    return False
        finalized, confirmed, processed = slots
        # While it replays, what it processed is behind what was confirmed before.
        return confirmed >= MIN_SLOT and finalized < confirmed <= processed

    def last_words(self) -> str:
        """The end of its log: why it did not start."""
        try:
            lines = (self.ledger / "validator.log").read_text(errors="replace").splitlines()
        except OSError:
            return ""
        return "\n".join(lines[-TAIL_LINES:])


def _write_account(path: Path, address: Pubkey, account: Account) -> None:
    content = {
        "pubkey": str(address),
        "account": {
            "lamports": account.lamports,
            "data": [base64.b64encode(account.data).decode("ascii"), "base64"],
            "owner": str(account.owner),
            "executable": False,
            "rentEpoch": 0,
        },
    }
    path.write_text(json.dumps(content))
