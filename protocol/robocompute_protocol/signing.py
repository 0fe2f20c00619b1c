"""Signatures: the domains that keep statements apart, and the one strict way to verify.

Every signed statement begins with an eight-byte domain and is at least 80 bytes long. The domains
begin with ``R`` (0x52), which as the first byte of a Solana transaction would announce 82
signatures, more than a transaction has room for: no statement can pass for one.
"""

from __future__ import annotations

from typing import Final, NewType, TypeVar

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import (
    Ed25519PrivateKey,
    Ed25519PublicKey,
)

from robocompute_protocol import codec
from robocompute_protocol.errors import LocalProtocolError, RemoteProtocolError
from robocompute_protocol.identifiers import ID_BYTES, NodeKey, Signature
from robocompute_protocol.messages import Signed

Domain = NewType("Domain", bytes)
"""Eight ASCII bytes that say what kind of statement follows."""

OFFER: Final = Domain(b"RCOFFR01")
BID: Final = Domain(b"RCBIDS01")
TERMS: Final = Domain(b"RCTERM01")
RECEIPT: Final = Domain(b"RCRCPT01")
NEVER_LEASED: Final = Domain(b"RCNEVR01")
PEER: Final = Domain(b"RCPEER01")
VOUCHER: Final = Domain(b"RCVCHR01")
LEASE: Final = Domain(b"RCLEAS01")

MIN_STATEMENT_BYTES: Final = 80
"""No signed statement is shorter: the shortest the chain knows is a voucher."""
SIGNATURE_BYTES: Final = 64
SEED_BYTES: Final = 32

GROUP_ORDER: Final = 2**252 + 27742317777372353535851937790883648493
"""Of the curve's base point: every valid S is below it."""
_P: Final = 2**255 - 19
_SIGN_BIT: Final = 1 << 255
_ORDER_EIGHT: Final = 0x05FC536D880238B13933C6D305ACDFD5F098EFF289F4C345B027B2C28F95E826
SMALL_ORDER_Y: Final = frozenset({0, 1, _P - 1, _ORDER_EIGHT, _P - _ORDER_EIGHT})
"""The y of the eight points whose order divides 8. Whatever the sign bit, none is a key or an R."""

T = TypeVar("T", bound=msgspec.Struct)


class SigningKey:
    """A node's private key. Signing is deterministic: repeating it gives the same bytes."""

    __slots__ = ("_key", "node_key")

    node_key: NodeKey
    """The public half: who this key speaks for."""

    def __init__(self, seed: bytes) -> None:
        """Make the key of a 32-byte secret.

        Raises:
            ValueError: ``seed`` has another length.
        """
        if len(seed) != SEED_BYTES:
            raise ValueError(f"a key's seed has {SEED_BYTES} bytes, this one {len(seed)}")
        self._key = Ed25519PrivateKey.from_private_bytes(seed)
        self.node_key = NodeKey(self._key.public_key().public_bytes_raw())

    def sign(self, message: bytes) -> Signature:
        """Sign exactly ``message``; callers put a domain in front of it."""
        return Signature(self._key.sign(message))

    def __repr__(self) -> str:
        return f"SigningKey({self.node_key.hex()})"


def _is_strict_point(encoded: bytes) -> bool:
    """Whether ``encoded`` is a canonical y and not one of the small-order points."""
    y = int.from_bytes(encoded, "little") & (_SIGN_BIT - 1)
    return y < _P and y not in SMALL_ORDER_Y


def verify(key: bytes, message: bytes, signature: bytes) -> bool:
    """Whether ``signature`` is one that the chain's ed25519 program accepts too. Never raises.

    OpenSSL alone accepts small-order keys with which one signature fits many messages; the chain
    refuses them. A voucher must never be good for one and bad for the other.
    """
    if len(key) != ID_BYTES or len(signature) != SIGNATURE_BYTES:
        return False
    r, s = signature[:32], signature[32:]
    if int.from_bytes(s, "little") >= GROUP_ORDER:
        return False
    if not _is_strict_point(key) or not _is_strict_point(r):
        return False
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


def statement(domain: Domain, key: NodeKey, body: bytes) -> bytes:
    """Return the bytes that a ``Signed`` is signed over: ``domain ‖ key ‖ body``."""
    return domain + key + body


def sign_message(domain: Domain, key: SigningKey, body: bytes) -> Signed:
    """Sign an encoded message under the domain of its type.

    Raises:
        LocalProtocolError: the body is so short that the statement would have under 80 bytes.
    """
    message = statement(domain, key.node_key, body)
    if len(message) < MIN_STATEMENT_BYTES:
        raise LocalProtocolError(f"a signed statement has at least {MIN_STATEMENT_BYTES} bytes")
    return Signed(key=key.node_key, body=body, signature=key.sign(message))


def open_signed(
    domain: Domain,
    signed: Signed,
    type: type[T],
    *,
    by: NodeKey | None = None,
) -> T:
    """Return the message inside, once the signature is known to be its key's.

    Whether that key may say this is the caller's question; ``by`` answers it for one known key.

    Raises:
        RemoteProtocolError: another key than ``by``, a bad signature, or a body that is not one
            ``type``.
    """
    if by is not None and signed.key != by:
        raise RemoteProtocolError("signed by another key than it must be", code="wrong_signer")
    message = statement(domain, signed.key, signed.body)
    if len(message) < MIN_STATEMENT_BYTES or not verify(signed.key, message, signed.signature):
        raise RemoteProtocolError(
            f"the signature of a {type.__name__} is not valid", code="bad_signature"
        )
    return codec.decode(type, signed.body)
