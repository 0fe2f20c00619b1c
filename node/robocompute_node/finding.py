"""Starts what finds other nodes, as the owner has set it, and says who is there."""

from __future__ import annotations

from dataclasses import asdict
from random import SystemRandom  # noqa: TID251 the shell hands it in
from typing import TYPE_CHECKING, Final

from robocompute_node.p2p.discovery.exchange import network_of
from robocompute_node.p2p.discovery.lan import LanBeacon
from robocompute_node.p2p.discovery.rendezvous import RendezvousPoint
from robocompute_node.p2p.discovery.service import Discovery, Finding
from robocompute_node.p2p.relay import RelayBounds
from robocompute_protocol.identifiers import to_base58

if TYPE_CHECKING:
    from collections.abc import Mapping

    import trio

    from robocompute_node.clocks import Clock
    from robocompute_node.config import NodeConfig, P2pSettings
    from robocompute_node.p2p.host import Libp2pNetwork
    from robocompute_node.p2p.peerstore import PeerStore
    from robocompute_protocol.identifiers import Digest
    from robocompute_protocol.signing import SigningKey
    from robocompute_settlement.solana import SolanaSettlement

KIB: Final = 1_024


def relay_bounds(settings: P2pSettings) -> RelayBounds | None:
    """Return what this node gives away as a relay; None where it is none."""
    if not settings.relay:
        return None
    return RelayBounds(bytes_per_second=settings.relay_kib_per_s * KIB)


async def start_finding(
    services: trio.Nursery,
    network: Libp2pNetwork,
    remembered: PeerStore,
    chain: SolanaSettlement,
    key: SigningKey,
    clock: Clock,
    config: NodeConfig,
) -> Discovery:
    """Start to find nodes that settle on the same chain by the same program."""

    def network_id() -> Digest | None:
        genesis = chain.genesis_hash
        return None if genesis is None else network_of(genesis, config.chain.program_id)

    discovery = Discovery(
        network,
        key,
        clock,
        SystemRandom(),
        network_id=network_id,
        finding=Finding(
            wanted=config.p2p.peers,
            relays=config.p2p.relay,
            rendezvous=config.p2p.rendezvous,
        ),
        bootstrap=network.bootstrap,
        remembered=[(known.key, known.addresses) for known in remembered.known()],
        remember=remembered.reached,
    )
    if config.p2p.rendezvous:
        network.links.serve_rendezvous(RendezvousPoint(network_id))
    await services.start(discovery.run)
    if config.p2p.lan:
        beacon = LanBeacon(network.key, lambda: network.addresses, network_id, discovery.found)
        services.start_soon(beacon.run)
    return discovery


def network_summary(network: Libp2pNetwork, discovery: Discovery) -> Mapping[str, object]:
    """JSON-ready: what the network counts, whether this node can be dialled, and who is there."""
    server = network.links.server
    return {
        **asdict(network.status()),
        "reach": discovery.reach.value,
        "relayed_by": [to_base58(relay) for relay in network.links.client.relays()],
        "circuits_carried": 0 if server is None else server.open_circuits,
        "known": len(discovery.known),
        "neighbours": [
            {
                "peer": to_base58(each.link.peer),
                "found": each.found.value,
                "by": "relay" if each.link.relayed else "direct",
                "dialled_by": "this node" if each.link.outbound else "the peer",
                "address": each.link.address,
            }
            for each in discovery.neighbours()
        ],
    }
