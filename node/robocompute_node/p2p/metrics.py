"""What the network shell counts, and the frozen picture of it that a status shows."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


class Drop(StrEnum):
    """Why something that came by gossip went no further."""

    TOO_FAST = "too_fast"
    TOO_LARGE = "too_large"
    BAD_SIGNER = "bad_signer"
    BAD_SIGNATURE = "bad_signature"
    INVALID = "invalid"
    UNREADABLE = "unreadable"
    SUBSCRIPTION = "subscription"
    CONTROL = "control"
    SLOW_SUBSCRIBER = "slow_subscriber"


@dataclass(slots=True)
class Meters:
    """Counters that only grow, for as long as the process lives."""

    bytes_in: int = 0
    bytes_out: int = 0
    streams_in: int = 0
    streams_out: int = 0
    gossip_in: int = 0
    gossip_out: int = 0
    gossip_dropped: Counter[str] = field(default_factory=Counter[str])
    connections_refused: Counter[str] = field(default_factory=Counter[str])
    connections_pruned: int = 0
    streams_refused: int = 0
    peers_barred: int = 0
    dials: int = 0
    dial_failures: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkStatus:
    """The network at one moment. Counters are since the process started."""

    connections_in: int
    """Open connections that peers made."""
    connections_out: int
    """Open connections that this node made."""
    half_open: int
    """Inbound handshakes under way."""
    connections_refused: Mapping[str, int]
    """Inbound connections not let in, by reason."""
    connections_pruned: int
    """Connections closed because others were of more use."""
    peers_barred: int
    """How often a peer was shut out for what it did."""
    streams: int
    """Inbound streams open now."""
    streams_in: int
    """Streams that peers opened."""
    streams_out: int
    """Streams that this node opened."""
    streams_refused: int
    """Streams over a peer's share, reset."""
    bytes_in: int
    """Payload bytes that came, below encryption and above yamux."""
    bytes_out: int
    """The same that went."""
    unread: int
    """Bytes that came and wait to be read by this node."""
    gossip_in: int
    """Gossip messages accepted and handed to a subscriber."""
    gossip_out: int
    """Gossip messages written to peers, published here or relayed, each as often as it went."""
    gossip_dropped: Mapping[str, int]
    """Gossip that went no further, by reason."""
    dials: int
    """Addresses dialled."""
    dial_failures: int
    """Of those, without a connection."""
    starts: int
    """How often libp2p came up: more than once means that it failed."""
    last_failure: str | None
    """What it failed with last."""
    remembered: int
    """Peers remembered on disk."""
