"""The settlement program's bytes as its tests read and write them: by the IDL and the docs."""

from __future__ import annotations

import hashlib
import json
import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from solders.instruction import Instruction
from solders.pubkey import Pubkey

if TYPE_CHECKING:
    from solders.keypair import Keypair

PROGRAM_DIR: Final = Path(__file__).parents[2] / "programs" / "settlement"
IDL: Final[dict[str, Any]] = json.loads((PROGRAM_DIR / "idl" / "settlement.json").read_text())
INSTRUCTIONS: Final = {one["name"]: one for one in IDL["instructions"]}
ERRORS: Final = {one["code"]: one["name"] for one in IDL["errors"]}

SYSTEM: Final = Pubkey.default()
TOKEN: Final = Pubkey.from_string("TokenkegQfeZyiNwAJbNbGKPFXCWuBvf9Ss623VQ5DA")
TOKEN_2022: Final = Pubkey.from_string("TokenzQdBNbLqP5VEhdkAS6EPFLC1PHnBqCXEpPxuEb")
LOADER: Final = Pubkey.from_string("BPFLoaderUpgradeab1e11111111111111111111111")
ED25519: Final = Pubkey.from_string("Ed25519SigVerify111111111111111111111111111")
SYSVAR: Final = Pubkey.from_string("Sysvar1nstructions1111111111111111111111111")

U64: Final = 2**64 - 1
NOW: Final = 1_800_000_000
DAY: Final = 86_400
ROOT: Final = bytes(range(32))
GENESIS: Final = hashlib.sha256(b"genesis of the tests").digest()


def snake(name: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()


def discriminator(namespace: str, name: str) -> bytes:
    return hashlib.sha256(f"{namespace}:{name}".encode()).digest()[:8]


def encode(kind: object, value: Any) -> bytes:
    """One IDL value."""
    if kind == "publicKey" or isinstance(kind, dict):
        data = bytes(value)
        assert len(data) == 32
        return data
    form = {"u8": "<B", "u16": "<H", "u64": "<Q", "i64": "<q", "bool": "<?"}[str(kind)]
    return struct.pack(form, value)


def decode(kind: object, data: bytes) -> tuple[Any, bytes]:
    """One IDL value, and what follows it."""
    if kind == "publicKey":
        return Pubkey.from_bytes(data[:32]), data[32:]
    if isinstance(kind, dict):
        return data[:32], data[32:]
    form = {"u8": "<B", "u16": "<H", "u64": "<Q", "i64": "<q", "bool": "<?"}[str(kind)]
    size = struct.calcsize(form)
    return struct.unpack(form, data[:size])[0], data[size:]


@dataclass(frozen=True)
class ConfigAccount:
    kind: int
    version: int
    bump: int
    fee_bps: int
    admin: Pubkey
    treasury: Pubkey
    mints: tuple[Pubkey, Pubkey]
    domain: bytes
    pending_admin: Pubkey
    slot_stake: int
    unbond_s: int
    min_challenge_s: int
    slash_bps: int
    paused: int


@dataclass(frozen=True)
class BalanceAccount:
    owner: Pubkey
    mint: Pubkey
    delegate: Pubkey
    available: int
    fees_owed: int
    fees_paid: int
    next_nonce: int
    allowance: int
    delegate_expires: int


@dataclass(frozen=True)
class StakeAccount:
    owner: Pubkey
    mint: Pubkey
    node_key: Pubkey
    prev_key: Pubkey
    rent_payer: Pubkey
    bonded: int
    unbonding: int
    unbond_at: int
    rotated_at: int
    watermark: int
    slashed: int


@dataclass(frozen=True)
class ChannelAccount:
    state: int
    fee_bps: int
    payer: Pubkey
    payee: Pubkey
    voucher_key: Pubkey
    mint: Pubkey
    rent_payer: Pubkey
    nonce: int
    deposit: int
    settled: int
    fee_taken: int
    challenge_s: int
    close_at: int
    alloc_root: bytes


def key_at(data: bytes, at: int) -> Pubkey:
    return Pubkey.from_bytes(data[at : at + 32])


def voucher_bytes(channel: Pubkey, cumulative: int, root: bytes = ROOT) -> bytes:
    return b"RCVCHR01" + bytes(channel) + struct.pack("<Q", cumulative) + root


def lease_bytes(
    stake: Pubkey, payer: Pubkey, slots: int, start: int, end: int, agreement: bytes = ROOT
) -> bytes:
    numbers = struct.pack("<Qqq", slots, start, end)
    return b"RCLEAS01" + bytes(stake) + agreement + bytes(payer) + numbers


def ed25519_instruction(*signed: tuple[Keypair, bytes]) -> Instruction:
    """The canonical layout: all offsets, then signature, key and message of each entry."""
    head, body = b"", b""
    start = 2 + 14 * len(signed)
    for key, message in signed:
        at = start + len(body)
        head += struct.pack("<7H", at, 0xFFFF, at + 64, 0xFFFF, at + 96, len(message), 0xFFFF)
        body += bytes(key.sign_message(message)) + bytes(key.pubkey()) + message
    return Instruction(ED25519, bytes([len(signed), 0]) + head + body, [])


def mint_data(decimals: int = 6) -> bytes:
    return struct.pack("<I32sQBBI32s", 0, bytes(32), 10**15, decimals, 1, 0, bytes(32))


def token_data(mint: Pubkey, owner: Pubkey, amount: int, *, state: int = 1) -> bytes:
    return struct.pack(
        "<32s32sQI32sBIQQI32s",
        bytes(mint), bytes(owner), amount, 0, bytes(32), state, 0, 0, 0, 0, bytes(32),
    )  # fmt: skip


def decode_config(data: bytes | None) -> ConfigAccount:
    assert data is not None
    assert len(data) == 232
    kind, version, bump, _, fee_bps, _ = struct.unpack_from("<BBBBHH", data)
    keys = [Pubkey.from_bytes(data[at : at + 32]) for at in range(8, 200, 32)]
    numbers = struct.unpack_from("<QQQHB", data, 200)
    return ConfigAccount(
        kind, version, bump, fee_bps, keys[0], keys[1], (keys[2], keys[3]), bytes(keys[4]),
        keys[5], *numbers,
    )  # fmt: skip


def decode_balance(data: bytes | None) -> BalanceAccount:
    assert data is not None
    assert len(data) == 152
    assert data[:2] == b"\2\1"
    numbers = struct.unpack_from("<QQQQQq", data, 104)
    return BalanceAccount(key_at(data, 8), key_at(data, 40), key_at(data, 72), *numbers)


def decode_stake(data: bytes | None) -> StakeAccount:
    assert data is not None
    assert len(data) == 216
    assert data[:2] == b"\3\1"
    numbers = struct.unpack_from("<QQqqqQ", data, 168)
    return StakeAccount(
        key_at(data, 8), key_at(data, 40), key_at(data, 72), key_at(data, 104),
        key_at(data, 136), *numbers,
    )  # fmt: skip


def decode_channel(data: bytes | None) -> ChannelAccount:
    assert data is not None
    assert len(data) == 248
    assert data[:2] == b"\4\1"
    nonce, deposit, settled, fee_taken, challenge_s, close_at = struct.unpack_from(
        "<QQQQQq", data, 168
    )
    return ChannelAccount(
        state=data[3],
        fee_bps=int(struct.unpack_from("<H", data, 4)[0]),
        payer=key_at(data, 8),
        payee=key_at(data, 40),
        voucher_key=key_at(data, 72),
        mint=key_at(data, 104),
        rent_payer=key_at(data, 136),
        nonce=nonce,
        deposit=deposit,
        settled=settled,
        fee_taken=fee_taken,
        challenge_s=challenge_s,
        close_at=close_at,
        alloc_root=data[216:248],
    )
