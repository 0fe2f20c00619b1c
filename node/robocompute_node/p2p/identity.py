"""Node keys as libp2p writes them: an ed25519 peer id carries the whole key."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.peer.id import ID

from robocompute_protocol.identifiers import ID_BYTES, NodeKey

if TYPE_CHECKING:
    from libp2p.crypto.keys import KeyPair

_PREFIX: Final = bytes((0x00, 0x24, 0x08, 0x01, 0x12, 0x20))
"""Identity multihash of 36 bytes, then protobuf: key type ed25519, 32 bytes of key."""


def key_pair_of(seed: bytes) -> KeyPair:
    """Return the libp2p key pair of a 32-byte ed25519 seed.

    Raises:
        ValueError: ``seed`` is not 32 bytes.
    """
    if len(seed) != ID_BYTES:
        raise ValueError(f"an ed25519 seed has {ID_BYTES} bytes, this one {len(seed)}")
    return create_new_key_pair(seed)


def peer_id_of(key: NodeKey) -> ID:
    """Return the peer id that libp2p gives to ``key``.

    Raises:
        ValueError: ``key`` is not 32 bytes.
    """
    if len(key) != ID_BYTES:
        raise ValueError(f"a node key has {ID_BYTES} bytes, this one {len(key)}")
    return ID(_PREFIX + key)


def peer_id_from(text: str) -> ID:
    """Return the peer id written in base58.

    Raises:
        ValueError: it is none.
    """
    try:
        return ID.from_base58(text)
    except Exception as exc:
        raise ValueError(f"not a peer id: {text!r}") from exc


def node_key_of(peer_id: ID) -> NodeKey:
    """Return the node key inside a peer id.

    Raises:
        ValueError: it is no ed25519 peer id; such a peer has no node key and is not served.
    """
    raw = peer_id.to_bytes()
    if len(raw) != len(_PREFIX) + ID_BYTES or not raw.startswith(_PREFIX):
        raise ValueError(f"not an ed25519 peer id: {raw.hex()}")
    return NodeKey(raw[len(_PREFIX) :])
