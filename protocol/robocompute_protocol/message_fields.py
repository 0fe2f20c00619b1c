"""What messages are made of: the kinds of their fields with their bounds, and what all have in common."""

from __future__ import annotations

from typing import Annotated, TypeAlias

import msgspec

from robocompute_protocol import limits
from robocompute_protocol.identifiers import (
    Address,
    AgreementId,
    ChannelId,
    Digest,
    NodeKey,
    Signature,
)
from robocompute_protocol.money import MicroUnits, Millis

_KEY = msgspec.Meta(min_length=32, max_length=32)
AddressField: TypeAlias = Annotated[Address, _KEY]
NodeKeyField: TypeAlias = Annotated[NodeKey, _KEY]
ChannelField: TypeAlias = Annotated[ChannelId, _KEY]
AgreementField: TypeAlias = Annotated[AgreementId, _KEY]
DigestField: TypeAlias = Annotated[Digest, _KEY]
SignatureField: TypeAlias = Annotated[Signature, msgspec.Meta(min_length=64, max_length=64)]
AmountField: TypeAlias = Annotated[MicroUnits, msgspec.Meta(ge=0, le=2**62)]
MillisField: TypeAlias = Annotated[Millis, msgspec.Meta(ge=0, le=2**53)]
SlotBits: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=2**62 - 1)]
NanosField: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=2**62)]
"""A moment in nanoseconds since the Unix epoch: beyond 2**53 since 1970-04-15."""
Count: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
PortField: TypeAlias = Annotated[int, msgspec.Meta(ge=1, le=65_535)]
ShortText: TypeAlias = Annotated[str, msgspec.Meta(max_length=256)]
LongText: TypeAlias = Annotated[str, msgspec.Meta(max_length=4_096)]
PathText: TypeAlias = Annotated[str, msgspec.Meta(min_length=1, max_length=limits.MAX_PATH_BYTES)]
CreditBytes: TypeAlias = Annotated[
    int, msgspec.Meta(ge=limits.MIN_CREDIT_BYTES, le=limits.MAX_CREDIT_BYTES)
]
CertificateField: TypeAlias = Annotated[
    bytes, msgspec.Meta(max_length=limits.MAX_CERTIFICATE_BYTES)
]
ArgText: TypeAlias = Annotated[str, msgspec.Meta(max_length=limits.MAX_ARG_BYTES)]

GpuClass: TypeAlias = Annotated[str, msgspec.Meta(max_length=16, pattern=r"^[a-z0-9-]+\Z")]


class Message(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of all messages: immutable, exact, unknown fields refused."""


class Signed(Message, frozen=True, kw_only=True):
    """``body`` as it was signed by ``key`` under the domain that belongs to its type."""

    key: NodeKeyField
    body: Annotated[bytes, msgspec.Meta(max_length=limits.MAX_FRAME_BYTES)]
    signature: SignatureField
