"""Lease ticks: what a provider signs when it lets slots, and what proves one card sold twice."""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING, Final, NamedTuple

from robocompute_protocol.errors import LocalProtocolError, RemoteProtocolError
from robocompute_protocol.messages import LeaseTick
from robocompute_protocol.signing import LEASE, SigningKey, verify

if TYPE_CHECKING:
    from robocompute_protocol.identifiers import Address, AgreementId, NodeKey
    from robocompute_protocol.money import Millis

_NUMBERS: Final = Struct("<Qqq")
STATEMENT_BYTES: Final = 128
"""``domain 8 ‖ stake 32 ‖ agreement 32 ‖ payer 32 ‖ slots u64 ‖ start i64 ‖ end i64``."""


class Window(NamedTuple):
    """Whole seconds since the Unix epoch, the end not included."""

    start_s: int
    end_s: int


def window(*, now_ms: Millis, left_ms: Millis, free_from_s: int) -> Window:
    """Return when a tick signed now begins and ends.

    ``left_ms`` is the prepaid time left with this tick; ``free_from_s`` the last end signed on
    these slots for another payer. Rounded so that a slot is never let twice and the tick covers
    all that is paid.
    """
    start = max(now_ms // 1_000, free_from_s)
    end = max(start * 1_000, now_ms) + left_ms
    return Window(start, max(start + 1, -(-end // 1_000)))


def signing_bytes(tick: LeaseTick) -> bytes:
    """Return the 128 bytes the provider signs. The on-chain program rebuilds exactly these."""
    return _statement(tick.stake, tick.agreement, tick.payer, tick.slots, tick.start_s, tick.end_s)


def _statement(
    stake: Address, agreement: AgreementId, payer: Address, slots: int, start_s: int, end_s: int
) -> bytes:
    return LEASE + stake + agreement + payer + _NUMBERS.pack(slots, start_s, end_s)


def sign_tick(
    key: SigningKey,
    *,
    stake: Address,
    agreement: AgreementId,
    payer: Address,
    slots: int,
    start_s: int,
    end_s: int,
) -> LeaseTick:
    """Sign one tick. The caller has stored ``end_s`` for these slots before.

    Raises:
        LocalProtocolError: it would end before it starts, or let no slot.
    """
    if end_s <= start_s or slots == 0:
        raise LocalProtocolError("a tick lets at least one slot for at least a second")
    statement = _statement(stake, agreement, payer, slots, start_s, end_s)
    return LeaseTick(
        stake=stake,
        agreement=agreement,
        payer=payer,
        slots=slots,
        start_s=start_s,
        end_s=end_s,
        signature=key.sign(statement),
    )


def verify_tick(tick: LeaseTick, node_key: NodeKey) -> None:
    """Check that ``node_key`` signed this tick and that it lets something.

    Raises:
        RemoteProtocolError: it did not, or it does not.
    """
    if tick.end_s <= tick.start_s or tick.slots == 0:
        raise RemoteProtocolError("a lease tick that lets nothing", code="bad_lease")
    if not verify(node_key, signing_bytes(tick), tick.signature):
        raise RemoteProtocolError("a lease tick's signature is not valid", code="bad_signature")


def overlaps(a: LeaseTick, b: LeaseTick) -> bool:
    """Whether two ticks of one node key together prove that a slot was let twice.

    The same stake, different payers, a slot in common, and a moment in common. One payer's ticks
    may overlap freely. Signatures are not looked at here.
    """
    return (
        a.stake == b.stake
        and a.payer != b.payer
        and a.slots & b.slots != 0
        and a.start_s < a.end_s
        and b.start_s < b.end_s
        and max(a.start_s, b.start_s) < min(a.end_s, b.end_s)
    )
