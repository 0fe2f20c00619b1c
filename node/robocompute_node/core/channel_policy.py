"""What a provider demands of a payment channel before it signs a tick on it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from robocompute_protocol import limits
from robocompute_protocol.money import MicroUnits, Millis, format_amount

if TYPE_CHECKING:
    from robocompute_protocol.messages import Terms
    from robocompute_settlement.port import ChannelView


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelDemand:
    """This provider's demands. ``max_fee_bps`` is the program's own fee: more is not our chain."""

    min_challenge_s: int
    max_fee_bps: int


@dataclass(frozen=True, slots=True)
class Objection:
    """Why not: an error code, and a sentence for the client."""

    code: str
    message: str


def objection_to_channel(
    channel: ChannelView, terms: Terms, demand: ChannelDemand, *, in_use: bool
) -> Objection | None:
    """Return what is wrong with the channel itself, or None.

    One that is ``in_use`` was found good before, and its fee is the program's of that time: it is
    frozen in the channel, and a program that takes less since is no reason to take nothing.
    """
    if (channel.payer, channel.payee) != (terms.payer, terms.payee):
        return Objection("channel_wrong_parties", "the channel is between others than the terms")
    if channel.mint != terms.mint:
        return Objection("channel_wrong_mint", "the channel holds another mint than the terms")
    if channel.voucher_key != terms.payer_node:
        return Objection("channel_wrong_key", "the channel's vouchers are signed by another key")
    if channel.closing:
        return Objection("channel_closing", "the channel is closing; open a new one")
    if channel.challenge_s < demand.min_challenge_s:
        return Objection(
            "channel_challenge_short",
            f"the channel's challenge time is {channel.challenge_s} s; "
            f"this provider needs {demand.min_challenge_s} s",
        )
    if channel.fee_bps > demand.max_fee_bps and not in_use:
        return Objection("channel_fee_high", f"the channel's fee is {channel.fee_bps} bps")
    return None


def objection_to_total(
    cumulative: MicroUnits,
    prepaid_ms: Millis,
    *,
    confirmed: MicroUnits,
    finalized: MicroUnits,
) -> Objection | None:
    """Return why a voucher's total is not covered.

    A deposit that is only confirmed carries ticks up to a minute in all: a rolled-back deposit then
    costs the provider no more than that.
    """
    if cumulative > confirmed:
        return Objection(
            "channel_dry",
            f"the voucher's total {format_amount(cumulative)} is more than the channel's deposit "
            f"{format_amount(confirmed)}; top it up",
        )
    if cumulative > finalized and prepaid_ms > limits.CONFIRMED_CARRIES:
        return Objection(
            "deposit_not_final",
            "the deposit is not final yet and carries no more than the first minute",
        )
    return None
