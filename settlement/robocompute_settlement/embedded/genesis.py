"""What a new embedded chain holds: its program, mints and wallets, read from one JSON file."""

from __future__ import annotations

import struct
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Final

import msgspec
from solders.account import Account
from solders.pubkey import Pubkey
from solders.token import ID as TOKEN_PROGRAM
from solders.token.associated import get_associated_token_address

from robocompute_protocol.errors import ConfigError
from robocompute_settlement.embedded.timeline import FINALITY_SLOTS

BPF_LOADER_UPGRADEABLE: Final = Pubkey.from_string("BPFLoaderUpgradeab1e11111111111111111111111")
MINT_DECIMALS: Final = 6
"""Both stablecoins have six decimals; the program refuses any other mint."""
LAMPORTS_PER_BYTE_YEAR: Final = 3_480
EXEMPTION_YEARS: Final = 2
ACCOUNT_OVERHEAD_BYTES: Final = 128
"""What Solana's rent counts for an account besides its data."""
FAUCET_LAMPORTS: Final = 10**18
"""The faucet's SOL: a thousand million, which no test or local world uses up."""
MAX_CONFIG_BYTES: Final = 4_194_304
"""The genesis file: thousands of wallets fit."""


class Mint(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A test stablecoin. ``authority`` may mint more of it."""

    symbol: str
    address: str
    authority: str


class Wallet(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """An account that starts with SOL and with tokens in its associated token accounts."""

    address: str
    lamports: Annotated[int, msgspec.Meta(ge=0)] = 0
    tokens: dict[str, Annotated[int, msgspec.Meta(ge=0)]] = {}
    """Micro-units by the mint's address."""


class Program(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The settlement program, as an upgradeable program at ``address``."""

    address: str
    upgrade_authority: str
    binary: str
    """Path of the ``.so``, read once, when the chain is founded."""


class Genesis(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The whole file. It matters only when a chain is founded; later starts read what is stored."""

    faucet: list[int]
    """The faucet's key pair (64 numbers, as Solana's tools write it): it pays airdrops."""
    programs: tuple[Program, ...] = ()
    mints: tuple[Mint, ...] = ()
    wallets: tuple[Wallet, ...] = ()
    finality_slots: Annotated[int, msgspec.Meta(ge=0, le=10_000)] = FINALITY_SLOTS
    """Slots until a confirmed block counts as finalized."""


def read_genesis(path: Path) -> Genesis:
    """Read a genesis file.

    Raises:
        ConfigError: it is missing, or not what ``Genesis`` describes.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_CONFIG_BYTES + 1)
    except OSError as exc:
        raise ConfigError(f"cannot read the genesis file {path}: {exc.strerror}") from exc
    if len(raw) > MAX_CONFIG_BYTES:
        raise ConfigError(f"the genesis file {path} is larger than {MAX_CONFIG_BYTES} bytes")
    try:
        return msgspec.json.decode(raw, type=Genesis)
    except msgspec.DecodeError as exc:
        raise ConfigError(f"the genesis file {path} is not valid: {exc}") from exc


def rent_exempt(data_bytes: int) -> int:
    """Lamports an account of this many data bytes must hold to stay for ever."""
    return (ACCOUNT_OVERHEAD_BYTES + data_bytes) * LAMPORTS_PER_BYTE_YEAR * EXEMPTION_YEARS


def token_account(mint: Pubkey, owner: Pubkey, amount: int) -> Account:
    """An initialized SPL token account."""
    data = struct.pack(
        "<32s32sQI32sBIQQI32s",
        bytes(mint), bytes(owner), amount, 0, bytes(32), 1, 0, 0, 0, 0, bytes(32),
    )  # fmt: skip
    return Account(rent_exempt(len(data)), data, TOKEN_PROGRAM)


def mint_account(authority: Pubkey, supply: int) -> Account:
    """An initialized SPL mint with six decimals and no freeze authority."""
    data = struct.pack("<I32sQBBI32s", 1, bytes(authority), supply, MINT_DECIMALS, 1, 0, bytes(32))
    return Account(rent_exempt(len(data)), data, TOKEN_PROGRAM)


def program_accounts(program: Program) -> list[tuple[Pubkey, Account]]:
    """ProgramData first, then Program: LiteSVM links the code when it sees the second.

    Raises:
        ConfigError: the binary cannot be read.
    """
    address = Pubkey.from_string(program.address)
    try:
        elf = Path(program.binary).read_bytes()
    except OSError as exc:
        raise ConfigError(f"cannot read the program {program.binary}: {exc.strerror}") from exc
    data_address, _ = Pubkey.find_program_address([bytes(address)], BPF_LOADER_UPGRADEABLE)
    authority = bytes(Pubkey.from_string(program.upgrade_authority))
    program_data = struct.pack("<IQB", 3, 0, 1) + authority + elf
    pointer = struct.pack("<I", 2) + bytes(data_address)
    return [
        (
            data_address,
            Account(rent_exempt(len(program_data)), program_data, BPF_LOADER_UPGRADEABLE),
        ),
        (
            address,
            Account(rent_exempt(len(pointer)), pointer, BPF_LOADER_UPGRADEABLE, executable=True),
        ),
    ]


def genesis_accounts(genesis: Genesis, faucet: Pubkey) -> list[tuple[Pubkey, Account]]:
    """Every account a new chain starts with, in the order they must be set.

    Raises:
        ConfigError: a program binary cannot be read, or an address is not one.
    """
    try:
        return _genesis_accounts(genesis, faucet)
    except ValueError as exc:
        raise ConfigError(f"the genesis file names an address that is none: {exc}") from exc


def _genesis_accounts(genesis: Genesis, faucet: Pubkey) -> list[tuple[Pubkey, Account]]:
    system = Pubkey.default()
    accounts = [(faucet, Account(FAUCET_LAMPORTS, b"", system))]
    for program in genesis.programs:
        accounts += program_accounts(program)
    supply = {mint.address: 0 for mint in genesis.mints}
    for wallet in genesis.wallets:
        owner = Pubkey.from_string(wallet.address)
        if wallet.lamports:
            accounts.append((owner, Account(wallet.lamports, b"", system)))
        for mint_text, amount in wallet.tokens.items():
            if mint_text not in supply:
                raise ConfigError(f"wallet {wallet.address} holds an unknown mint {mint_text}")
            supply[mint_text] += amount
            mint = Pubkey.from_string(mint_text)
            accounts.append(
                (get_associated_token_address(owner, mint), token_account(mint, owner, amount))
            )
    accounts += [
        (
            Pubkey.from_string(mint.address),
            mint_account(Pubkey.from_string(mint.authority), supply[mint.address]),
        )
        for mint in genesis.mints
    ]
    return accounts


def genesis_hash(accounts: list[tuple[Pubkey, Account]], seed: bytes) -> bytes:
    """Name a chain: two worlds founded from one file still have different names."""
    state = sha256(b"robocompute/embedded/genesis/1" + seed)
    for address, account in accounts:
        state.update(bytes(address) + account.lamports.to_bytes(8, "little"))
        state.update(sha256(account.data).digest())
    return state.digest()
