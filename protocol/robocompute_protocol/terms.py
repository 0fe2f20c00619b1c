"""The rules of an agreement's time and money: its name, its ticks, its price."""

from __future__ import annotations

from typing import Final

from robocompute_protocol import codec, limits
from robocompute_protocol.causes import Cause, client_pays
from robocompute_protocol.errors import RemoteProtocolError
from robocompute_protocol.identifiers import AgreementId, Digest, digest
from robocompute_protocol.messages import Signed, Terms
from robocompute_protocol.money import MINIMUM_BILLED, MicroUnits, Millis, charge
from robocompute_protocol.signing import TERMS, SigningKey, open_signed, sign_message

AGREEMENT_DOMAIN: Final = b"RCAGRE01"
EXTENSION_SLACK: Final = Millis(1_000)
"""How far the two sides' clocks may differ on how long a lease has run: one late packet."""


def terms_digest(terms: Terms) -> Digest:
    """Return the digest of the encoded terms, which receipts name."""
    return digest(codec.encode(terms))


def agreement_id(terms: Terms) -> AgreementId:
    """Return the name of the agreement these terms make: nothing else has it."""
    return AgreementId(
        digest(
            AGREEMENT_DOMAIN,
            terms.channel,
            terms.payer,
            terms.payee,
            terms.nonce,
            codec.encode(terms),
        )
    )


def sign_terms(key: SigningKey, terms: Terms) -> Signed:
    """Sign the terms as the payer's node."""
    return sign_message(TERMS, key, codec.encode(terms))


def open_terms(signed: Signed) -> Terms:
    """Return terms that their payer's node signed and that make sense.

    Raises:
        RemoteProtocolError: a bad signature, another signer than ``payer_node``, another encoding
            than the one that the agreement's name is made of, no slot, or a first tick that
            exceeds the horizon.
    """
    terms = open_signed(TERMS, signed, Terms)
    if terms.payer_node != signed.key:
        raise RemoteProtocolError("the terms name another payer node", code="wrong_signer")
    if codec.encode(terms) != signed.body:
        raise RemoteProtocolError("the terms are not encoded canonically", code="malformed")
    if terms.slots == 0:
        raise RemoteProtocolError("the terms are for no slot", code="bad_terms")
    if terms.first_tick_ms > terms.horizon_ms:
        raise RemoteProtocolError("the first tick exceeds the horizon", code="bad_terms")
    return terms


def first_tick(terms: Terms) -> Millis:
    """Return the prepaid time that the first voucher is for."""
    return terms.first_tick_ms


def prepaid_amount(terms: Terms, prepaid_ms: Millis) -> MicroUnits:
    """Return the total that pays for the first ``prepaid_ms`` of the lease."""
    return charge(terms.price_per_hour, prepaid_ms)


def next_extension(
    terms: Terms, *, elapsed_ms: Millis, prepaid_ms: Millis
) -> tuple[Millis, Millis]:
    """Return when the next voucher is due, in elapsed time, and the prepaid total it brings.

    The first tick is extended when half of it is left, later ones when nine tenths of the horizon
    are. It may be overdue: then the total counts from ``elapsed_ms``, but not from later than the
    prepaid time's end, for nothing was delivered after that. The total is never more than the
    horizon ahead, nor one tick longer than ``MAX_TICK``. Extend no further before the last
    extension was answered with a tick: otherwise an unreachable provider would be paid on.
    """
    horizon = terms.horizon_ms
    if prepaid_ms <= terms.first_tick_ms:
        left_at_due = terms.first_tick_ms // 2
    else:
        left_at_due = horizon * 9 // 10
    due = max(0, prepaid_ms - left_at_due)
    delivered = min(elapsed_ms, prepaid_ms)
    total = min(max(due, delivered) + horizon, prepaid_ms + limits.MAX_TICK)
    return Millis(due), Millis(total)


def check_extension(
    terms: Terms, *, elapsed_ms: Millis, prepaid_ms: Millis, new_prepaid_ms: Millis
) -> None:
    """Check what a client asks to extend to. A repeat or a step back is no extension, and fine.

    Raises:
        RemoteProtocolError: further ahead than the horizon, or a tick over ``MAX_TICK``.
    """
    if new_prepaid_ms <= prepaid_ms:
        return
    if new_prepaid_ms - prepaid_ms > limits.MAX_TICK:
        raise RemoteProtocolError("a tick longer than any may be", code="tick_too_long")
    if new_prepaid_ms > elapsed_ms + terms.horizon_ms + EXTENSION_SLACK:
        raise RemoteProtocolError("prepaid further ahead than the horizon", code="tick_too_long")


def reserve(terms: Terms, tick_index: int) -> Millis:
    """Return how much of the prepaid time's end is spent frozen, waiting for the next tick.

    ``tick_index`` counts ticks from 0; the first has no reserve.
    """
    if tick_index == 0:
        return Millis(0)
    return min(limits.RESERVE_MAX, Millis(terms.horizon_ms // 4))


def amount_owed(
    terms: Terms, *, cause: Cause, metered_ms: Millis, prepaid: MicroUnits
) -> MicroUnits:
    """Return what an agreement comes to.

    Nothing if the provider is answerable for its end; otherwise the time from lease start to the
    end, frozen time included, at least a second, and never more than was prepaid.
    """
    if not client_pays(cause):
        return MicroUnits(0)
    return min(charge(terms.price_per_hour, max(MINIMUM_BILLED, metered_ms)), prepaid)
