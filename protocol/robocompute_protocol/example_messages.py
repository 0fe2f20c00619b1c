"""One example of every message, from which its golden vectors are made.

The values mean nothing together; each only shows how a field of its type is written. Where a field
has a default, the example has another value, so that it is seen to travel.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from robocompute_protocol import codec, leases, signing, terms, vouchers
from robocompute_protocol.causes import Cause
from robocompute_protocol.identifiers import Address, AgreementId, ChannelId, Digest, digest
from robocompute_protocol.messages import (
    Appended,
    Attach,
    Bid,
    BidAnswer,
    BookPage,
    BookRequest,
    BulkAsk,
    BulkAt,
    CancelRequest,
    ChunkPart,
    Credit,
    DialBack,
    DialledBack,
    Ended,
    Extend,
    FileEntry,
    Finished,
    Have,
    Held,
    Kept,
    Leased,
    LeaseTick,
    Leave,
    Manifest,
    Message,
    Missing,
    NeverLeased,
    NeverLeasedBody,
    Offer,
    OpenTunnel,
    Order,
    Output,
    PeerRecord,
    PeersPage,
    PeersRequest,
    Quote,
    QuoteRequest,
    Receipt,
    Refused,
    ReleaseQuote,
    Requirements,
    Signed,
    SignedVoucher,
    Stage,
    Stored,
    Sync,
    TaskSpec,
    Terms,
    TunnelData,
    TunnelEnd,
    TunnelOpened,
    Usage,
    Waiting,
    Want,
)
from robocompute_protocol.money import MicroUnits, Millis
from robocompute_protocol.signing import Domain, SigningKey

if TYPE_CHECKING:
    from collections.abc import Mapping

PAYER_SEED: Final = bytes(range(32))
PROVIDER_SEED: Final = bytes(range(32, 64))
CLIENT: Final = SigningKey(PAYER_SEED)
PROVIDER: Final = SigningKey(PROVIDER_SEED)


def named(name: str) -> bytes:
    """Return 32 bytes that a reader can rebuild: the SHA-256 of a name."""
    return digest(b"robocompute/vectors/", name.encode())


def _address(name: str) -> Address:
    return Address(named(name))


def _digest(name: str) -> Digest:
    return Digest(named(name))


AGREEMENT: Final = AgreementId(named("agreement"))
CHANNEL: Final = ChannelId(named("channel"))
WANTED: Final = Requirements(
    resource_class="h100", gpus=2, gpu_memory_mib=81_920, cpu_cores=16, memory_mib=65_536,
    disk_mib=200_000,
)  # fmt: skip
FILE: Final = FileEntry(
    path="src/tr\N{LATIN SMALL LETTER A WITH DIAERESIS}in.py", mode=0o755, size=1_300_000,
    chunks=(_digest("chunk 0"), _digest("chunk 1")),
)  # fmt: skip
TASK: Final = TaskSpec(
    app_name="train", argv=("python", "train.py", "--epochs", "10"),
    env=(("SEED", "42"), ("EMPTY", "")), requirements=WANTED, upload=_digest("manifest"),
    requirements_file="requirements.txt", wall_ms=Millis(86_400_000), output_rate=65_536,
)  # fmt: skip
OFFER: Final = Offer(
    provider=PROVIDER.node_key, sequence=1_800_000_000_000, ttl_ms=Millis(1_800_000),
    resource_class="h100", model="NVIDIA H100 80GB HBM3", slots=8, gpu_memory_mib=81_559,
    cpu_cores=16, memory_mib=131_072, disk_mib=500_000, price_per_hour=MicroUnits(2_500_000),
    mint=_address("mint"), payee=_address("payee"), stake=_address("stake"),
    executors=("bubblewrap",), runtimes=("python3.11", "torch"), location="eu-central",
    addresses=("/ip4/192.0.2.7/tcp/4001", "/ip6/2001:db8::7/tcp/4001"),
)  # fmt: skip
BID: Final = Bid(
    client=CLIENT.node_key, sequence=1_800_000_000_001, requirements=WANTED,
    max_price_per_hour=MicroUnits(6_000_000), mint=_address("mint"), ttl_ms=Millis(60_000),
    addresses=("/dns4/client.example/tcp/4001",),
)  # fmt: skip
TERMS: Final = Terms(
    task=digest(codec.encode(TASK)), payer=_address("payer"), payer_node=CLIENT.node_key,
    payee=_address("payee"), payee_node=PROVIDER.node_key, stake=_address("stake"),
    mint=_address("mint"), channel=CHANNEL, nonce=named("nonce")[:16], slots=0b0110,
    price_per_hour=MicroUnits(5_000_000), horizon_ms=Millis(60_000),
    first_tick_ms=Millis(10_000), start_deadline_ms=Millis(300_000),
)  # fmt: skip
RECEIPT: Final = Receipt(
    agreement=terms.agreement_id(TERMS), terms=terms.terms_digest(TERMS), task=TERMS.task,
    channel=CHANNEL, started_ms=Millis(1_800_000_000_000), metered_ms=Millis(61_234),
    frozen_ms=Millis(1_200), exit_code=-9, cause=Cause.MEMORY, detail="used 70,000 MiB",
    output=_digest("output"), output_records=12, artifacts=_digest("artifacts"),
    prepaid=MicroUnits(90_278), amount=MicroUnits(85_048),
)  # fmt: skip
PEER: Final = PeerRecord(
    key=PROVIDER.node_key, network=_digest("network"), sequence=1_800_000_000_000,
    ttl_ms=Millis(3_600_000), relay=True, addresses=("/ip4/192.0.2.7/tcp/4001",),
)  # fmt: skip
NEVER: Final = NeverLeasedBody(agreement=AGREEMENT, channel=CHANNEL)


SIGNED: Final[Mapping[str, tuple[Domain, SigningKey, Message]]] = {
    "Offer": (signing.OFFER, PROVIDER, OFFER),
    "Bid": (signing.BID, CLIENT, BID),
    "Terms": (signing.TERMS, CLIENT, TERMS),
    "Receipt": (signing.RECEIPT, PROVIDER, RECEIPT),
    "NeverLeasedBody": (signing.NEVER_LEASED, PROVIDER, NEVER),
    "PeerRecord": (signing.PEER, PROVIDER, PEER),
}
"""What is signed as a message, its domain, and by whom."""


def signed(name: str) -> Signed:
    """Return an example as it travels: signed by whom it must be signed by."""
    domain, key, body = SIGNED[name]
    return signing.sign_message(domain, key, codec.encode(body))


def _voucher() -> SignedVoucher:
    closed, newest = AgreementId(named("agreement 0")), AgreementId(named("agreement 1"))
    ledger, _ = vouchers.PayerLedger(channel=CHANNEL).allocate(closed, MicroUnits(27_778))
    ledger = ledger.close(closed, _digest("receipt"), MicroUnits(20_000))
    _, voucher = ledger.allocate(newest, MicroUnits(41_667))
    return vouchers.sign_voucher(CLIENT, voucher)


VOUCHER: Final = _voucher()
TICK: Final[LeaseTick] = leases.sign_tick(
    PROVIDER, stake=_address("stake"), agreement=AGREEMENT, payer=_address("payer"),
    slots=0b0110, start_s=1_800_000_000, end_s=1_800_000_010,
)  # fmt: skip
CHUNKS: Final = (_digest("chunk 0"), _digest("chunk 1"))

EXAMPLES: Final[tuple[Message, ...]] = (
    signed("Offer"),
    WANTED,
    FILE,
    Manifest(files=(FILE,), parts=CHUNKS[:1]),
    TASK,
    OFFER,
    BID,
    QuoteRequest(
        requirements=WANTED, payer=_address("payer"), mint=_address("mint"),
        wall_ms=Millis(3_600_000),
    ),
    Quote(
        price_per_hour=MicroUnits(5_000_000), slots=0b0110, hold_ms=Millis(5_000),
        payee=_address("payee"), stake=_address("stake"), mint=_address("mint"),
        min_challenge_s=86_400,
    ),
    ReleaseQuote(),
    TERMS,
    VOUCHER,
    TICK,
    Order(terms=signed("Terms"), task=codec.encode(TASK), voucher=VOUCHER),
    Waiting(reason="channel_confirmation"),
    Leased(tick=TICK, prepaid_ms=Millis(10_000), elapsed_ms=Millis(130)),
    Refused(code="busy", message="all slots are taken; ask again in a while"),
    CancelRequest(agreement=AGREEMENT, reason="interrupted", terms=signed("Terms")),
    NeverLeased(statement=signed("NeverLeasedBody")),
    NEVER,
    RECEIPT,
    Ended(receipt=signed("Receipt")),
    Extend(agreement=AGREEMENT, prepaid_ms=Millis(65_000), voucher=VOUCHER),
    Sync(channel=CHANNEL, voucher=VOUCHER, receipts=(signed("Receipt"),)),
    Attach(agreement=AGREEMENT, next_sequence=17, files=(("volume/aspara/run.jsonl", 4_096),)),
    Stage(stage="environment", detail="installing numpy"),
    Output(
        sequence=2, stream="stderr", kind="part", at_ns=1_800_000_000_123_456_789,
        data="\N{CHECK MARK} 50 %".encode(),
    ),
    Usage(cpu_ms=Millis(1_500), memory_bytes=70_000_000, peak_memory_bytes=90_000_000,
          gpu_utilisation=(0, 100)),
    Appended(path="volume/aspara/run.jsonl", offset=4_096, data=b'{"loss": 0.5}\n'),
    Finished(artifacts=_digest("artifacts"), receipt=signed("Receipt")),
    Kept(agreement=AGREEMENT),
    Have(chunks=CHUNKS),
    Want(chunks=CHUNKS[1:], offset=131_072, credit=2_097_152),
    Credit(more=1_048_576),
    ChunkPart(chunk=CHUNKS[1], offset=131_072, data=bytes(range(256)), last=True),
    Stored(),
    Missing(chunks=CHUNKS[:1]),
    BulkAsk(protocol="/robocompute/blob/1", certificate=named("certificate")),
    BulkAt(
        addresses=("/ip4/192.0.2.1/tcp/4002",), token=named("token"),
        certificate=named("certificate"),
    ),
    OpenTunnel(agreement=AGREEMENT, port=8_888),
    TunnelOpened(),
    TunnelData(data=b"GET / HTTP/1.1\r\n\r\n"),
    TunnelEnd(),
    BidAnswer(sequence=1_800_000_000_001, offer=signed("Offer")),
    BookRequest(classes=("cpu", "h100")),
    BookPage(offers=(signed("Offer"),), last=True),
    Leave(voucher=VOUCHER, claim=MicroUnits(20_000)),
    Held(channel=CHANNEL, claim=MicroUnits(20_000)),
    PEER,
    PeersRequest(network=_digest("network"), record=signed("PeerRecord")),
    PeersPage(records=(signed("PeerRecord"),)),
    DialBack(ports=(4_001, 443)),
    DialledBack(address="192.0.2.7", ports=(443,)),
)  # fmt: skip
"""One of each message, in the order of docs/protocol.md."""
