"""What travels on the streams of a job: its feed, chunks, direct connections and tunnels."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from robocompute_protocol import limits
from robocompute_protocol.message_fields import (
    AgreementField,
    CertificateField,
    Count,
    CreditBytes,
    DigestField,
    LongText,
    Message,
    MillisField,
    NanosField,
    PathText,
    ShortText,
    Signed,
)

# --- /robocompute/job/1 -------------------------------------------------------------------------


class Attach(Message, frozen=True, kw_only=True, tag="attach"):
    """Send everything of this agreement's job from output number ``next_sequence`` on."""

    agreement: AgreementField
    next_sequence: Count
    files: tuple[tuple[PathText, Count], ...] = ()
    """Live files already held, and up to which byte."""


class Stage(Message, frozen=True, kw_only=True, tag="stage"):
    """Where the job is: preparing, environment, starting, running, frozen, collecting."""

    stage: ShortText
    detail: LongText = ""


class Output(Message, frozen=True, kw_only=True, tag="output"):
    """One numbered record. kind: line, cr (a redraw), part (no line end yet), note (from us)."""

    sequence: Count
    stream: Literal["stdout", "stderr", "supervisor"]
    kind: Literal["line", "cr", "part", "note"]
    at_ns: NanosField
    data: Annotated[bytes, msgspec.Meta(max_length=65_536)]
    """As it was written. What ended a line (LF) or a redraw (CR) is left out, and read into its kind."""


class Usage(Message, frozen=True, kw_only=True, tag="usage"):
    """What the job uses now, about once a second."""

    cpu_ms: MillisField
    memory_bytes: Count
    peak_memory_bytes: Count
    gpu_utilisation: tuple[Annotated[int, msgspec.Meta(ge=0, le=100)], ...] = ()


class Appended(Message, frozen=True, kw_only=True, tag="appended"):
    """Bytes a live file (the job's aspara metrics) grew by. Idempotent by offset."""

    path: PathText
    offset: Count
    data: Annotated[bytes, msgspec.Meta(max_length=65_536)]


class Finished(Message, frozen=True, kw_only=True, tag="finished"):
    """The last event: the artifact manifest's digest (its blobs can be fetched) and the receipt."""

    artifacts: DigestField
    receipt: Signed


class Kept(Message, frozen=True, kw_only=True, tag="kept"):
    """From the client: everything up to here is on its disk; the provider may delete the job."""

    agreement: AgreementField


# --- /robocompute/blob/1 ------------------------------------------------------------------------


class Have(Message, frozen=True, kw_only=True, tag="have"):
    """The sender can send these chunks; answered by Want."""

    chunks: Annotated[tuple[DigestField, ...], msgspec.Meta(max_length=4_096)]


class Want(Message, frozen=True, kw_only=True, tag="want"):
    """The chunks of Have to send, in this order; or, unasked, chunks to fetch."""

    chunks: Annotated[tuple[DigestField, ...], msgspec.Meta(max_length=4_096)]
    offset: Annotated[int, msgspec.Meta(ge=0, le=limits.MAX_CHUNK_BYTES)] = 0
    """The first chunk's first bytes that are here already: a cut transfer goes on behind them."""
    credit: CreditBytes = limits.MAX_CREDIT_BYTES
    """Bytes that may be sent before a ``Credit`` allows more."""


class Credit(Message, frozen=True, kw_only=True, tag="credit"):
    """From the side that receives: so many bytes more may be sent."""

    more: CreditBytes


class ChunkPart(Message, frozen=True, kw_only=True, tag="part"):
    """A piece of a chunk, in order; ``last`` ends it, and then its digest must fit."""

    chunk: DigestField
    offset: Count
    data: Annotated[bytes, msgspec.Meta(max_length=131_072)]
    last: bool


class Stored(Message, frozen=True, kw_only=True, tag="stored"):
    """Every chunk wanted so far is on disk."""


class Missing(Message, frozen=True, kw_only=True, tag="missing"):
    """Asked for, but not here (any more)."""

    chunks: tuple[DigestField, ...]


# --- /robocompute/bulk/1 -------------------------------------------------------------------------


class BulkAsk(Message, frozen=True, kw_only=True, tag="bulk?"):
    """Where can ``protocol`` be spoken over a direct connection by the holder of ``certificate``?"""

    protocol: ShortText
    certificate: CertificateField
    """DER, bound to the asker's key as the libp2p TLS specification has it."""


class BulkAt(Message, frozen=True, kw_only=True, tag="bulk"):
    """Here: one connection, soon, by the holder of ``token``. Answered by connecting."""

    addresses: Annotated[tuple[ShortText, ...], msgspec.Meta(max_length=8)]
    token: Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
    certificate: CertificateField


# --- /robocompute/tunnel/1 -----------------------------------------------------------------------


class OpenTunnel(Message, frozen=True, kw_only=True, tag="tunnel?"):
    """Connect to a port that this agreement's job listens on, inside its own network."""

    agreement: AgreementField
    port: Annotated[int, msgspec.Meta(ge=1, le=65_535)]


class TunnelOpened(Message, frozen=True, kw_only=True, tag="tunnel"):
    """The job took the connection."""


class TunnelData(Message, frozen=True, kw_only=True, tag="bytes"):
    """Bytes of the connection, in order."""

    data: Annotated[bytes, msgspec.Meta(min_length=1, max_length=65_536)]


class TunnelEnd(Message, frozen=True, kw_only=True, tag="end"):
    """This direction is over; the other one may go on."""
