"""What a provider says of an agreement: read off what is stored, so asking again gets the same."""

from __future__ import annotations

from typing import TYPE_CHECKING

from robocompute_protocol.agreement import ProviderPhase
from robocompute_protocol.errors import RemoteProtocolError
from robocompute_protocol.messages import Ended, Leased, Message, NeverLeased, Refused, Waiting

if TYPE_CHECKING:
    from robocompute_node.core.channel_policy import Objection
    from robocompute_node.services.lettings import LettingRecord, Lettings
    from robocompute_protocol.identifiers import AgreementId, ChannelId, NodeKey


def refusal(objection: Objection) -> Refused:
    """Say why not."""
    return Refused(code=objection.code, message=objection.message)


def statement(lettings: Lettings, agreement: AgreementId, channel: ChannelId) -> NeverLeased:
    """Say that this agreement was not and will not be leased."""
    return NeverLeased(statement=lettings.never_leased(agreement, channel))


def own_record(lettings: Lettings, agreement: AgreementId, peer: NodeKey) -> LettingRecord:
    """Return an agreement of the peer that asks.

    Raises: RemoteProtocolError when it is none of this peer's.
    """
    record = lettings.get(agreement)
    if record is None or record.terms.payer_node != peer:
        raise RemoteProtocolError("no such agreement with you", code="unknown_agreement")
    return record


def answer(lettings: Lettings, record: LettingRecord) -> Message:
    """Say what became of an agreement so far."""
    never = lettings.never.get(record.state.agreement)
    if never is not None:
        return statement(lettings, record.state.agreement, never.channel)
    match record.state.phase:
        case ProviderPhase.LEASED if record.tick is not None:
            return Leased(
                tick=record.tick,
                prepaid_ms=record.state.prepaid_ms,
                elapsed_ms=lettings.elapsed(record),
            )
        case ProviderPhase.ENDED | ProviderPhase.KEPT if record.state.receipt is not None:
            return Ended(receipt=record.state.receipt)
        case _:
            return Waiting(reason="stopping")
