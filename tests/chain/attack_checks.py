"""Ed25519 instructions an attacker builds: any header over any blocks, and what counts as strict."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from settlement_layouts import ED25519
from solders.instruction import Instruction

if TYPE_CHECKING:
    from solders.keypair import Keypair

HERE: Final = 0xFFFF
"""An instruction index that means: this instruction."""
FIELDS: Final = (
    "signature at", "signature in", "key at", "key in", "message at", "message length",
    "message in",
)  # fmt: skip


@dataclass(frozen=True)
class Block:
    """Signature, key and message, one after another; the signature need not fit."""

    signature: bytes
    key: bytes
    message: bytes

    @property
    def data(self) -> bytes:
        return self.signature + self.key + self.message


def signed_block(key: Keypair, message: bytes) -> Block:
    return Block(bytes(key.sign_message(message)), bytes(key.pubkey()), message)


def bait(claimed: Keypair, message: bytes) -> Block:
    """What ``claimed`` never signed."""
    return Block(bytes(64), bytes(claimed.pubkey()), message)


def straight(blocks: list[Block]) -> list[list[int]]:
    """The canonical offset records of these blocks."""
    records: list[list[int]] = []
    at = 2 + 14 * len(blocks)
    for block in blocks:
        records.append([at, HERE, at + 64, HERE, at + 96, len(block.message), HERE])
        at += len(block.data)
    return records


def check(
    records: list[list[int]],
    blocks: list[Block],
    *,
    count: int | None = None,
    pad: int = 0,
    gap: bytes = b"",
    tail: bytes = b"",
) -> Instruction:
    """Header, then ``gap``, the blocks and ``tail``; nothing is put right."""
    head = bytes([len(records) if count is None else count, pad])
    head += b"".join(struct.pack("<7H", *record) for record in records)
    body = b"".join(block.data for block in blocks)
    return Instruction(ED25519, head + gap + body + tail, [])


def is_strict(data: bytes, entry: int, length: int) -> bool:
    """Whether ``entry`` counts, by the words of section 4 of ``docs/settlement.md``."""
    if len(data) < 2 or data[1] != 0 or entry >= data[0]:
        return False
    n = data[0]
    if len(data) != 2 + 14 * n + n * (96 + length):
        return False
    at = 2 + 14 * n + entry * (96 + length)
    record = struct.unpack_from("<7H", data, 2 + 14 * entry)
    return record == (at, HERE, at + 64, HERE, at + 96, length, HERE)


def entry_of(data: bytes, entry: int, length: int) -> tuple[bytes, bytes]:
    """Key and message where a strict entry has them."""
    at = 2 + 14 * data[0] + entry * (96 + length) + 64
    return data[at : at + 32], data[at + 32 : at + 32 + length]
