"""Names for the 32-byte values that must never be mixed up, and how they are written for people."""

from __future__ import annotations

from hashlib import sha256
from typing import Final, NewType

import base58

Digest = NewType("Digest", bytes)
"""A SHA-256 digest."""
Address = NewType("Address", bytes)
"""A Solana address: a wallet, a mint, or an account of the settlement program."""
NodeKey = NewType("NodeKey", bytes)
"""A node's ed25519 public key: its libp2p identity and the signer of all it says."""
ChannelId = NewType("ChannelId", bytes)
"""The address of a payment channel's account, which is the whole replay scope of a voucher."""
AgreementId = NewType("AgreementId", bytes)
"""The digest that names one agreement between one payer and one payee."""
Signature = NewType("Signature", bytes)
"""A 64-byte ed25519 signature."""

ID_BYTES: Final = 32
"""Every identifier here is this long."""


def digest(*parts: bytes) -> Digest:
    """Return the SHA-256 of ``parts``, one after the other."""
    state = sha256()
    for part in parts:
        state.update(part)
    return Digest(state.digest())


def to_base58(value: bytes) -> str:
    """Write an address or key the way Solana tools do."""
    return base58.b58encode(value).decode("ascii")


def address_from_base58(text: str) -> Address:
    """Read an address.

    Raises:
        ValueError: ``text`` is not base58, or not 32 bytes.
    """
    raw = base58.b58decode(text)
    if len(raw) != ID_BYTES:
        raise ValueError(f"an address has {ID_BYTES} bytes, this one {len(raw)}: {text!r}")
    return Address(raw)
