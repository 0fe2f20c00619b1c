"""How everything of a node reaches its chain: what the settings say, as the adapter takes it."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypedDict

from robocompute_settlement.transactions import Priority

if TYPE_CHECKING:
    from robocompute_node.config import ChainSettings
    from robocompute_protocol.identifiers import Address


class ChainLink(TypedDict):
    """Keyword arguments of ``SolanaSettlement``; what it signs with, and websockets, are extra."""

    rpc_urls: tuple[str, ...]
    program_id: Address
    requests_per_s: float
    priority: Priority


def chain_link(chain: ChainSettings) -> ChainLink:
    """Return what [chain] says. The least that is offered is never more than the most allowed."""
    most = chain.max_priority_fee
    return ChainLink(
        rpc_urls=chain.rpc_url,
        program_id=chain.program_id,
        requests_per_s=chain.requests_per_s,
        priority=Priority(
            least_micro_lamports=min(Priority().least_micro_lamports, most),
            most_micro_lamports=most,
        ),
    )
