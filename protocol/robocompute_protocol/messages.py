"""Every message two nodes exchange, as strict msgspec structs.

A signed thing travels as ``Signed``: the very bytes that were signed, so nobody re-encodes before
verifying. Streams carry length-prefixed frames (4 bytes, big-endian), each one msgpack message of
the union named for its protocol. Those of a job's own streams are in ``stream_messages``.
"""

from __future__ import annotations

from typing import Annotated, TypeAlias

import msgspec

from robocompute_protocol import limits
from robocompute_protocol.causes import Cause
from robocompute_protocol.message_fields import (
    AddressField,
    AgreementField,
    AmountField,
    ArgText,
    ChannelField,
    Count,
    DigestField,
    GpuClass,
    LongText,
    Message,
    MillisField,
    NodeKeyField,
    PathText,
    PortField,
    ShortText,
    SignatureField,
    Signed,
    SlotBits,
)
from robocompute_protocol.money import Millis
from robocompute_protocol.stream_messages import (
    Appended,
    Attach,
    BulkAsk,
    BulkAt,
    ChunkPart,
    Credit,
    Finished,
    Have,
    Kept,
    Missing,
    OpenTunnel,
    Output,
    Stage,
    Stored,
    TunnelData,
    TunnelEnd,
    TunnelOpened,
    Usage,
    Want,
)

PROTOCOL_AGREEMENT = "/robocompute/agreement/1"
PROTOCOL_BLOB = "/robocompute/blob/1"
PROTOCOL_BULK = "/robocompute/bulk/1"
PROTOCOL_JOB = "/robocompute/job/1"
PROTOCOL_PAY = "/robocompute/pay/1"
PROTOCOL_TUNNEL = "/robocompute/tunnel/1"
PROTOCOL_BOOK = "/robocompute/book/1"
PROTOCOL_TOWER = "/robocompute/tower/1"
PROTOCOL_PEERS = "/robocompute/peers/1"
PROTOCOL_REACH = "/robocompute/reach/1"
TOPIC_OFFERS = "/robocompute/1/offers/"
TOPIC_BIDS = "/robocompute/1/bids/"
TOPIC_LEASES = "/robocompute/1/leases"
PROTOCOL_BID = "/robocompute/bid/1"

CLASSES = (
    "cpu", "a100", "h100", "h200", "b200", "l4", "l40s", "a10", "t4", "v100", "rtx3090", "rtx4090",
    "rtx5090", "gpu-other",
)  # fmt: skip
"""The closed list of resource classes: each is a gossip topic."""


# --- what a task needs, and what a provider has ------------------------------------------------


class Requirements(Message, frozen=True, kw_only=True):
    """What a job needs of one provider. ``gpus`` cards of ``resource_class``, or none for cpu."""

    resource_class: GpuClass = "cpu"
    gpus: Annotated[int, msgspec.Meta(ge=0, le=limits.MAX_SLOTS)] = 0
    gpu_memory_mib: Count = 0
    cpu_cores: Count = 1
    memory_mib: Count = 512
    disk_mib: Count = 1_024
    executor: ShortText = "bubblewrap"
    """What runs it, as offers name it: "bubblewrap", or "container" for a task with an image."""


class FileEntry(Message, frozen=True, kw_only=True):
    """One regular file: its chunks, in order, are its content."""

    path: PathText
    mode: Annotated[int, msgspec.Meta(ge=0, le=0o777)]
    size: Count
    chunks: tuple[DigestField, ...]


class Manifest(Message, frozen=True, kw_only=True):
    """A set of files. Its own encoding is a chunk too, and its digest names the set."""

    files: Annotated[tuple[FileEntry, ...], msgspec.Meta(max_length=limits.MAX_FILES)]
    parts: Annotated[tuple[DigestField, ...], msgspec.Meta(max_length=limits.MAX_PARTS)] = ()
    """Chunks with the files that do not fit into one: manifests without parts of their own."""


class TaskSpec(Message, frozen=True, kw_only=True):
    """A job, complete: its encoding's digest is the task hash that the agreement and receipt name."""

    app_name: ShortText
    argv: Annotated[tuple[ArgText, ...], msgspec.Meta(min_length=1, max_length=limits.MAX_ARGV)]
    env: tuple[tuple[ShortText, ArgText], ...] = ()
    requirements: Requirements
    upload: DigestField
    """Digest of the encoded Manifest."""
    requirements_file: PathText | None = None
    """Path of a pip requirements file inside the upload, or none."""
    wall_ms: MillisField
    output_rate: Count = 16_777_216
    """Bytes of output a second before back-pressure."""
    image: ShortText | None = None
    """The container image to run ``argv`` in, as engines name images; its executor is "container"."""


class Offer(Message, frozen=True, kw_only=True):
    """What a provider lets, all its slots of one class in one message. Newest sequence wins."""

    provider: NodeKeyField
    sequence: Count
    """max(previous + 1, unix ms): also the time it was made."""
    ttl_ms: Annotated[Millis, msgspec.Meta(ge=0, le=limits.MAX_OFFER_TTL)]
    """0 is a tombstone: the offer is withdrawn."""
    resource_class: GpuClass
    model: ShortText
    slots: Annotated[int, msgspec.Meta(ge=0, le=limits.MAX_SLOTS)]
    gpu_memory_mib: Count = 0
    cpu_cores: Count
    """Per slot, like all that follow."""
    memory_mib: Count
    disk_mib: Count
    price_per_hour: AmountField
    mint: AddressField
    payee: AddressField
    stake: AddressField
    executors: tuple[ShortText, ...]
    runtimes: tuple[ShortText, ...] = ()
    """What the base runtime of jobs has: "python3.11", "torch"."""
    location: ShortText = ""
    addresses: Annotated[tuple[ShortText, ...], msgspec.Meta(max_length=8)]


class Bid(Message, frozen=True, kw_only=True):
    """A task nobody in the book fits: providers that can serve it send the client a quote."""

    client: NodeKeyField
    sequence: Count
    requirements: Requirements
    max_price_per_hour: AmountField
    mint: AddressField
    ttl_ms: Annotated[Millis, msgspec.Meta(ge=0, le=limits.MAX_OFFER_TTL)]
    addresses: Annotated[tuple[ShortText, ...], msgspec.Meta(max_length=8)]


# --- /robocompute/agreement/1 -------------------------------------------------------------------


class QuoteRequest(Message, frozen=True, kw_only=True, tag="quote?"):
    """What would this cost, and are the slots to be had?"""

    requirements: Requirements
    payer: AddressField
    mint: AddressField
    wall_ms: MillisField


class Quote(Message, frozen=True, kw_only=True, tag="quote"):
    """An answer, never evidence: slots are held for ``hold_ms`` at most."""

    price_per_hour: AmountField
    """For everything asked, not per slot."""
    slots: SlotBits
    hold_ms: MillisField
    payee: AddressField
    stake: AddressField
    mint: AddressField
    min_challenge_s: Count


class ReleaseQuote(Message, frozen=True, kw_only=True, tag="release"):
    """The quotes given on this stream are not wanted: what they hold is free again. No answer."""


class Terms(Message, frozen=True, kw_only=True):
    """What both sides sign up to. Durations, never wall-clock times."""

    task: DigestField
    payer: AddressField
    payer_node: NodeKeyField
    payee: AddressField
    payee_node: NodeKeyField
    stake: AddressField
    mint: AddressField
    channel: ChannelField
    nonce: Annotated[bytes, msgspec.Meta(min_length=16, max_length=16)]
    slots: SlotBits
    price_per_hour: AmountField
    horizon_ms: Annotated[Millis, msgspec.Meta(ge=limits.MIN_HORIZON, le=limits.MAX_HORIZON)]
    first_tick_ms: Annotated[
        Millis, msgspec.Meta(ge=limits.FIRST_TICK_MIN, le=limits.FIRST_TICK_MAX)
    ]
    start_deadline_ms: MillisField
    """From lease start until the program must run, environment included."""


class SignedVoucher(Message, frozen=True, kw_only=True):
    """A cumulative promise (80 signing bytes on chain) and what the total is for."""

    channel: ChannelField
    cumulative: AmountField
    sequence: Count
    closed: DigestField
    open: Annotated[
        tuple[tuple[AgreementField, AmountField], ...],
        msgspec.Meta(max_length=limits.MAX_OPEN_AGREEMENTS),
    ]
    """Sorted by agreement. Its root, with sequence and closed, is the voucher's alloc_root."""
    closes: Annotated[
        tuple[AgreementField, ...], msgspec.Meta(max_length=limits.MAX_OPEN_AGREEMENTS)
    ] = ()
    """The last agreements closed, oldest first: how a payee follows ``closed``. Not signed."""
    signature: SignatureField


class LeaseTick(Message, frozen=True, kw_only=True):
    """The 128-byte lease statement, signed by the provider: acceptance, and evidence."""

    stake: AddressField
    agreement: AgreementField
    payer: AddressField
    slots: SlotBits
    start_s: Count
    end_s: Count
    signature: SignatureField


class Order(Message, frozen=True, kw_only=True, tag="order"):
    """The client's offer to contract: encoded terms signed by its node, with the first voucher."""

    terms: Signed
    task: Annotated[bytes, msgspec.Meta(max_length=limits.MAX_FRAME_BYTES)]
    """The encoded TaskSpec; its digest is terms.task."""
    voucher: SignedVoucher


class Waiting(Message, frozen=True, kw_only=True, tag="waiting"):
    """Not yet: what the provider waits for ("channel_confirmation", "slot"). More follows."""

    reason: ShortText


class Leased(Message, frozen=True, kw_only=True, tag="leased"):
    """A tick: accepted, or extended. ``prepaid_ms`` is the total prepaid since the lease began."""

    tick: LeaseTick
    prepaid_ms: MillisField
    elapsed_ms: MillisField


class Refused(Message, frozen=True, kw_only=True, tag="refused"):
    """A no that costs nothing. ``code`` is an error code of docs/protocol.md."""

    code: ShortText
    message: LongText


class CancelRequest(Message, frozen=True, kw_only=True, tag="cancel"):
    """Stop, or never start. Repeated until NeverLeased or Ended comes back."""

    agreement: AgreementField
    reason: ShortText = "cancelled"
    terms: Signed | None = None
    """What was ordered: with it a provider that the order never reached can say NeverLeased."""


class NeverLeased(Message, frozen=True, kw_only=True, tag="never-leased"):
    """Signed for ever: this agreement was not and will not be leased. Body: NeverLeasedBody."""

    statement: Signed


class NeverLeasedBody(Message, frozen=True, kw_only=True):
    """What NeverLeased signs."""

    agreement: AgreementField
    channel: ChannelField


class Receipt(Message, frozen=True, kw_only=True):
    """What one agreement came to. Chains task to terms, metered time, output, results and money."""

    agreement: AgreementField
    terms: DigestField
    """Digest of the encoded Terms."""
    task: DigestField
    channel: ChannelField
    started_ms: MillisField
    """Unix time of the lease start by the provider's clock: for people, not for rules."""
    metered_ms: MillisField
    frozen_ms: MillisField
    exit_code: int | None
    cause: Cause
    detail: LongText
    output: DigestField
    """Chained digest of the numbered output records; see docs/protocol.md."""
    output_records: Count
    artifacts: DigestField
    """Digest of the encoded artifact Manifest."""
    prepaid: AmountField
    amount: AmountField
    """What is owed for this agreement: at most ``prepaid``."""


class Ended(Message, frozen=True, kw_only=True, tag="ended"):
    """The end: a Receipt signed by the provider."""

    receipt: Signed


# --- /robocompute/pay/1 -------------------------------------------------------------------------


class Extend(Message, frozen=True, kw_only=True, tag="extend"):
    """The next voucher; answered by Leased, or by Refused or Ended."""

    agreement: AgreementField
    prepaid_ms: MillisField
    voucher: SignedVoucher


class Sync(Message, frozen=True, kw_only=True, tag="sync"):
    """After a reconnect: the highest voucher the sender knows of this channel, if any.

    A payee shows with it the receipts of agreements that the voucher has open and that ended: a
    payer whose store was lost can then close them, and go on with the same channel.
    """

    channel: ChannelField
    voucher: SignedVoucher | None
    receipts: Annotated[
        tuple[Signed, ...], msgspec.Meta(max_length=limits.MAX_SHOWN_RECEIPTS)
    ] = ()


# --- /robocompute/bid/1 ---------------------------------------------------------------------------


class BidAnswer(Message, frozen=True, kw_only=True, tag="bid-answer"):
    """From a provider that can serve a bid; on this stream the client then asks as on agreement/1."""

    sequence: Count
    """Of the bid."""
    offer: Signed
    """The provider's own offer, as it is gossiped."""


# --- /robocompute/book/1 ------------------------------------------------------------------------


class BookRequest(Message, frozen=True, kw_only=True, tag="book?"):
    """Which live offers does the other side know of these classes?"""

    classes: tuple[GpuClass, ...]


class BookPage(Message, frozen=True, kw_only=True, tag="book"):
    """Live offers as they were gossiped, signatures and all; ``last`` ends the answer."""

    offers: Annotated[tuple[Signed, ...], msgspec.Meta(max_length=32)]
    last: bool


# --- /robocompute/tower/1 -----------------------------------------------------------------------


class Leave(Message, frozen=True, kw_only=True, tag="leave"):
    """A payee leaves its newest voucher: should the payer close, ``claim`` of it is to be settled."""

    voucher: SignedVoucher
    claim: AmountField


class Held(Message, frozen=True, kw_only=True, tag="held"):
    """What the watchtower holds of this channel now is on its disk."""

    channel: ChannelField
    claim: AmountField


# --- /robocompute/peers/1 and /robocompute/reach/1 ----------------------------------------------


class PeerRecord(Message, frozen=True, kw_only=True):
    """Where a node can be dialled, said by itself. Newest sequence wins."""

    key: NodeKeyField
    network: DigestField
    sequence: Count
    """Unix ms when it was made."""
    ttl_ms: Annotated[Millis, msgspec.Meta(ge=0, le=limits.MAX_PEER_TTL)]
    relay: bool = False
    """Whether it relays for nodes that cannot be dialled."""
    addresses: Annotated[tuple[ShortText, ...], msgspec.Meta(max_length=8)]


class PeersRequest(Message, frozen=True, kw_only=True, tag="peers?"):
    """Which nodes of this network can you vouch for? ``record`` is the asking node's own."""

    network: DigestField
    record: Signed | None = None


class PeersPage(Message, frozen=True, kw_only=True, tag="peers"):
    """Some records of nodes that the answering node reached itself, as they were signed."""

    records: Annotated[tuple[Signed, ...], msgspec.Meta(max_length=limits.MAX_PEER_RECORDS)]


class DialBack(Message, frozen=True, kw_only=True, tag="dial?"):
    """Can you connect to me, at the address you see me at, on one of these TCP ports?"""

    ports: Annotated[tuple[PortField, ...], msgspec.Meta(max_length=4)]


class DialledBack(Message, frozen=True, kw_only=True, tag="dialled"):
    """The address it sees, and the ports on which the asking node answered, with its key."""

    address: ShortText
    ports: Annotated[tuple[PortField, ...], msgspec.Meta(max_length=4)]


AgreementMessage: TypeAlias = (
    QuoteRequest
    | Quote
    | ReleaseQuote
    | Order
    | Waiting
    | Leased
    | Refused
    | CancelRequest
    | NeverLeased
    | Ended
)
PayMessage: TypeAlias = Extend | Leased | Refused | Ended | Sync
JobMessage: TypeAlias = (
    Attach | Stage | Output | Usage | Appended | Finished | Kept | Leased | Refused
)
BlobMessage: TypeAlias = Have | Want | Credit | ChunkPart | Stored | Missing | Refused
BulkMessage: TypeAlias = BulkAsk | BulkAt | Refused
TunnelMessage: TypeAlias = OpenTunnel | TunnelOpened | TunnelData | TunnelEnd | Refused
BidMessage: TypeAlias = BidAnswer | Refused
BookMessage: TypeAlias = BookRequest | BookPage | Refused
TowerMessage: TypeAlias = Leave | Held | Refused
PeersMessage: TypeAlias = PeersRequest | PeersPage | Refused
ReachMessage: TypeAlias = DialBack | DialledBack | Refused
