"""Receipts: what one agreement came to, checked against its terms, and the chain of its output."""

from __future__ import annotations

from struct import Struct as Packer
from typing import TYPE_CHECKING, Final

from robocompute_protocol import codec, terms as rules
from robocompute_protocol.errors import LocalProtocolError, RemoteProtocolError
from robocompute_protocol.identifiers import AgreementId, ChannelId, Digest, digest
from robocompute_protocol.messages import NeverLeasedBody, Output, Receipt, Signed, Terms
from robocompute_protocol.signing import (
    NEVER_LEASED,
    RECEIPT,
    SigningKey,
    open_signed,
    sign_message,
)

if TYPE_CHECKING:
    from robocompute_protocol.causes import Cause
    from robocompute_protocol.money import MicroUnits, Millis

NO_OUTPUT: Final = Digest(bytes(32))
"""The output chain before the first record."""
_U64: Final = Packer("<Q")


def chain(previous: Digest, record: Output) -> Digest:
    """Return the output chain after one more record. Begins at ``NO_OUTPUT``, in sequence order.

    When a record was written is left out, so that a supervisor's clock is not part of a promise.
    """
    return digest(
        previous,
        record.stream.encode(),
        record.kind.encode(),
        _U64.pack(record.sequence),
        record.data,
    )


def build_receipt(
    terms: Terms,
    *,
    started_ms: Millis,
    metered_ms: Millis,
    frozen_ms: Millis,
    exit_code: int | None,
    cause: Cause,
    detail: str,
    output: Digest,
    output_records: int,
    artifacts: Digest,
    prepaid_ms: Millis,
) -> Receipt:
    """Return the receipt of an agreement that ended: its amount follows from all the rest.

    ``metered_ms`` runs from lease start to the end and includes ``frozen_ms``.

    Raises:
        LocalProtocolError: more was frozen than metered.
    """
    if frozen_ms > metered_ms:
        raise LocalProtocolError("frozen time is part of metered time")
    prepaid = rules.prepaid_amount(terms, prepaid_ms)
    return Receipt(
        agreement=rules.agreement_id(terms),
        terms=rules.terms_digest(terms),
        task=terms.task,
        channel=terms.channel,
        started_ms=started_ms,
        metered_ms=metered_ms,
        frozen_ms=frozen_ms,
        exit_code=exit_code,
        cause=cause,
        detail=detail[:_DETAIL_CHARACTERS],
        output=output,
        output_records=output_records,
        artifacts=artifacts,
        prepaid=prepaid,
        amount=rules.amount_owed(terms, cause=cause, metered_ms=metered_ms, prepaid=prepaid),
    )


_DETAIL_CHARACTERS: Final = 4_096
"""What fits the message's ``detail``."""


def sign_receipt(key: SigningKey, receipt: Receipt) -> Signed:
    """Sign a receipt as the payee's node. Store it before sending it: there is one for ever."""
    return sign_message(RECEIPT, key, codec.encode(receipt))


def verify_receipt(signed: Signed, terms: Terms, *, paid: MicroUnits) -> Receipt:
    """Return a receipt that binds the provider and asks for no more than the terms allow.

    ``paid`` is the total that this agreement was promised in vouchers so far.

    Raises:
        RemoteProtocolError: not signed by the payee's node, about another agreement, or an amount
            that does not follow from cause, metered time and prepaid total.
    """
    receipt = open_signed(RECEIPT, signed, Receipt, by=terms.payee_node)
    if (
        receipt.agreement != rules.agreement_id(terms)
        or receipt.terms != rules.terms_digest(terms)
        or receipt.task != terms.task
        or receipt.channel != terms.channel
    ):
        raise RemoteProtocolError("a receipt of another agreement", code="wrong_agreement")
    if receipt.prepaid > paid:
        raise RemoteProtocolError("a receipt for more than was paid", code="bad_receipt")
    if receipt.frozen_ms > receipt.metered_ms:
        raise RemoteProtocolError("a receipt with more frozen than metered", code="bad_receipt")
    owed = rules.amount_owed(
        terms, cause=receipt.cause, metered_ms=receipt.metered_ms, prepaid=receipt.prepaid
    )
    if receipt.amount != owed:
        raise RemoteProtocolError(
            "a receipt whose amount does not follow from its terms", code="bad_receipt"
        )
    return receipt


def receipt_digest(signed: Signed) -> Digest:
    """Return the digest under which a channel's ledger closes the agreement: body and signature."""
    return digest(signed.body, signed.signature)


def sign_never_leased(key: SigningKey, *, agreement: AgreementId, channel: ChannelId) -> Signed:
    """State for ever that an agreement was not and will not be leased.

    The decision is stored before this is said; the bytes are the same each time.
    """
    body = NeverLeasedBody(agreement=agreement, channel=channel)
    return sign_message(NEVER_LEASED, key, codec.encode(body))


def verify_never_leased(signed: Signed, terms: Terms) -> None:
    """Check that the payee's node said so of this agreement.

    Raises:
        RemoteProtocolError: it did not.
    """
    body = open_signed(NEVER_LEASED, signed, NeverLeasedBody, by=terms.payee_node)
    if body.agreement != rules.agreement_id(terms) or body.channel != terms.channel:
        raise RemoteProtocolError("a statement about another agreement", code="wrong_agreement")
