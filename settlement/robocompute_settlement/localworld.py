"""Local worlds: what their chain is founded with, how it is started, and how it is set up.

The keys here are derived from fixed words, so that every local world on every machine has the same
program, mints and faucet. They are no secrets: never use one of them on a public chain.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from hashlib import sha256
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec
from solders.keypair import Keypair

from robocompute_protocol.errors import ConfigError
from robocompute_protocol.identifiers import Address, to_base58
from robocompute_protocol.money import MicroUnits
from robocompute_settlement.administration import Administration
from robocompute_settlement.embedded import genesis
from robocompute_settlement.embedded.timeline import FINALITY_SLOTS

if TYPE_CHECKING:
    from robocompute_settlement.port import ConfigView
    from robocompute_settlement.solana import SolanaSettlement

DEFAULT_SLOT_STAKE: Final = MicroUnits(10_000_000)
"""Ten dollars a slot: a local world's providers can afford several."""


def local_seed(name: str) -> bytes:
    """The 32-byte seed of a local world's well-known key. Not secret."""
    return sha256(b"robocompute/local-world/1/" + name.encode()).digest()


def local_address(name: str) -> Address:
    """The address of a local world's well-known key."""
    return Address(bytes(Keypair.from_seed(local_seed(name)).pubkey()))


PROGRAM: Final = "program"
FAUCET: Final = "faucet"
"""Pays airdrops, may mint both stablecoins, may upgrade the program, and is Config's admin."""
USDC: Final = "usdc"
USDT: Final = "usdt"
TREASURY: Final = "treasury"


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedWallet:
    """A wallet or node key that starts with SOL and tokens."""

    address: Address
    lamports: int
    tokens: dict[Address, MicroUnits] = field(default_factory=dict[Address, MicroUnits])
    """By mint."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GenesisPlan:
    """All a local world's chain starts with."""

    wallets: tuple[PlannedWallet, ...]
    program_binary: Path
    program_id: Address = field(default_factory=lambda: local_address(PROGRAM))
    mints: tuple[Address, Address] = field(
        default_factory=lambda: (local_address(USDC), local_address(USDT))
    )
    """USDC and USDT; the faucet may mint both."""
    faucet_seed: bytes = field(default_factory=lambda: local_seed(FAUCET))
    finality_slots: int = FINALITY_SLOTS
    """400 ms each."""

    @property
    def faucet(self) -> Address:
        return Address(bytes(Keypair.from_seed(self.faucet_seed).pubkey()))


def program_path() -> Path:
    """The committed settlement program: in the installed package, else in the checkout.

    Raises:
        ConfigError: it is in neither.
    """
    packaged = Path(str(files("robocompute_settlement"))) / "program" / "settlement.so"
    checkout = Path(__file__).parents[2] / "programs" / "settlement" / "settlement.so"
    for path in (packaged, checkout):
        if path.is_file():
            return path
    raise ConfigError(f"the settlement program is missing: neither {packaged} nor {checkout}")


def write_genesis(plan: GenesisPlan, path: Path) -> None:
    """Write the genesis file that the embedded chain is started with."""
    faucet = Keypair.from_seed(plan.faucet_seed)
    config = genesis.Genesis(
        faucet=list(bytes(faucet)),
        programs=(
            genesis.Program(
                address=to_base58(plan.program_id),
                upgrade_authority=str(faucet.pubkey()),
                binary=str(plan.program_binary.resolve()),
            ),
        ),
        mints=tuple(
            genesis.Mint(symbol=symbol, address=to_base58(mint), authority=str(faucet.pubkey()))
            for symbol, mint in zip(("USDC", "USDT"), plan.mints, strict=True)
        ),
        wallets=tuple(
            genesis.Wallet(
                address=to_base58(wallet.address),
                lamports=wallet.lamports,
                tokens={to_base58(mint): amount for mint, amount in wallet.tokens.items()},
            )
            for wallet in plan.wallets
        ),
        finality_slots=plan.finality_slots,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.format(msgspec.json.encode(config)) + b"\n")
    path.chmod(0o600)


def chain_command(
    folder: Path,
    genesis_file: Path,
    *,
    rpc_port: int = 8899,
    ws_port: int = 8900,
    faults: bool = False,
) -> list[str]:
    """The command that runs an embedded chain; it prints one line of JSON when it answers.

    Args:
        folder: where the chain is kept.
        genesis_file: what it is founded with.
        rpc_port: 0 takes a free one.
        ws_port: 0 takes a free one.
        faults: whether clients may make things go wrong there: for tests.
    """
    return [
        sys.executable, "-m", "robocompute_settlement.embedded",
        "--dir", str(folder), "--config", str(genesis_file),
        "--rpc-port", str(rpc_port), "--ws-port", str(ws_port),
        *(["--faults"] if faults else []),
    ]  # fmt: skip


async def found_world(
    admin: SolanaSettlement,
    *,
    mints: tuple[Address, Address],
    treasury: Address,
    fee_bps: int = 100,
    slot_stake: MicroUnits = DEFAULT_SLOT_STAKE,
    unbond_s: int = 604_800,
    min_challenge_s: int = 86_400,
    slash_bps: int = 2_000,
) -> ConfigView:
    """Set the program up, once: a world that was founded before is left as it is.

    Args:
        admin: made with the upgrade authority's seed (``GenesisPlan.faucet_seed``).
        mints: the two accepted stablecoins.
        treasury: whose Balance receives the fees.
        fee_bps: the network's fee on what is settled, in hundredths of a per cent.
        slot_stake: what a provider must bond for each slot it offers.
        unbond_s: how long unstaked money stays slashable.
        min_challenge_s: the shortest challenge time a channel may have.
        slash_bps: what a proven double sale costs.

    Raises:
        ChainRefused: the admin's key is not the upgrade authority, or a setting is out of range.
    """
    await admin.connect()
    if not await admin.is_set_up():
        await Administration(admin).init_config(
            mints=mints,
            treasury=treasury,
            slot_stake=slot_stake,
            unbond_s=unbond_s,
            min_challenge_s=min_challenge_s,
            fee_bps=fee_bps,
            slash_bps=slash_bps,
        )
    return await admin.config()
