"""Golden vectors: ``python -m robocompute_protocol.vectors DIR`` writes them, always the same.

They are what another implementation, and the on-chain program's tests, check themselves against.
"""

from __future__ import annotations

import json
import sys
from hashlib import sha512
from itertools import accumulate, count
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

import msgspec

from robocompute_protocol import codec, leases, limits, receipts, signing, terms, vouchers
from robocompute_protocol.causes import Cause
from robocompute_protocol.example_messages import (
    EXAMPLES,
    PAYER_SEED,
    PROVIDER_SEED,
    SIGNED,
    named,
)
from robocompute_protocol.field_bounds import refused_values
from robocompute_protocol.identifiers import Address, AgreementId, ChannelId, Digest, digest
from robocompute_protocol.messages import Manifest, Output, Terms
from robocompute_protocol.money import MicroUnits, Millis
from robocompute_protocol.signing import GROUP_ORDER, SigningKey

if TYPE_CHECKING:
    from collections.abc import Callable


def settlement() -> dict[str, Any]:
    """What the on-chain program reads too: voucher and lease statements."""
    payer, provider = SigningKey(PAYER_SEED), SigningKey(PROVIDER_SEED)
    channel = ChannelId(named("channel"))
    receipt = Digest(named("receipt"))
    first, second, third = sorted(AgreementId(named(f"agreement {n}")) for n in range(3))
    closed = vouchers.closed_digest(vouchers.NOTHING_CLOSED, third, MicroUnits(41_667), receipt)
    open_ = ((first, MicroUnits(27_778)), (second, MicroUnits(1_000_000)))
    root = vouchers.allocation_root(7, closed, open_)
    cumulative = MicroUnits(1_100_000)
    voucher = vouchers.signing_bytes(channel, cumulative, root)
    stake = Address(named("stake"))
    conflicting = {
        name: leases.sign_tick(
            provider,
            stake=stake,
            agreement=agreement,
            payer=Address(named(f"payer of {name}")),
            slots=slots,
            start_s=start_s,
            end_s=start_s + 60,
        )
        for name, agreement, slots, start_s in (
            ("lease", first, 0b0110, 1_800_000_000),
            ("conflicting_lease", second, 0b0011, 1_800_000_059),
        )
    }
    return {
        "voucher": {
            "channel": channel.hex(),
            "cumulative": cumulative,
            "alloc_root": root.hex(),
            "signing_bytes": voucher.hex(),
            "seed": PAYER_SEED.hex(),
            "key": payer.node_key.hex(),
            "signature": payer.sign(voucher).hex(),
        },
        "closed": {
            "previous": vouchers.NOTHING_CLOSED.hex(),
            "agreement": third.hex(),
            "amount": 41_667,
            "receipt": receipt.hex(),
            "closed": closed.hex(),
        },
        "alloc_root": {
            "sequence": 7,
            "closed": closed.hex(),
            "open": [{"agreement": name.hex(), "paid": paid} for name, paid in open_],
            "root": root.hex(),
        },
        **{
            name: {
                "stake": tick.stake.hex(),
                "agreement": tick.agreement.hex(),
                "payer": tick.payer.hex(),
                "slots": tick.slots,
                "start": tick.start_s,
                "end": tick.end_s,
                "signing_bytes": leases.signing_bytes(tick).hex(),
                "seed": PROVIDER_SEED.hex(),
                "key": provider.node_key.hex(),
                "signature": tick.signature.hex(),
            }
            for name, tick in conflicting.items()
        },
    }


_TORSION: Final = (
    "0100000000000000000000000000000000000000000000000000000000000000",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "0000000000000000000000000000000000000000000000000000000000000000",
    "0000000000000000000000000000000000000000000000000000000000000080",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
)
"""The eight points whose order divides 8, as they are encoded canonically."""
_NON_CANONICAL: Final = (
    "0100000000000000000000000000000000000000000000000000000000000080",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
    "ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
)
"""The same points, and one that is none, in encodings that no honest signer makes."""


def _scalar(seed: bytes) -> int:
    """Return the secret number whose multiple of the base point is the seed's public key."""
    head = bytearray(sha512(seed).digest()[:32])
    head[0] &= 248
    head[31] = head[31] & 63 | 64
    return int.from_bytes(head, "little")


def _challenge(r: bytes, key: bytes, message: bytes) -> int:
    return int.from_bytes(sha512(r + key + message).digest(), "little") % GROUP_ORDER


def _identity_signature(seed: bytes, message: bytes) -> bytes:
    """Return a signature by this very key whose R is the identity: OpenSSL lets it pass."""
    r = bytes.fromhex(_TORSION[0])
    s = _challenge(r, SigningKey(seed).node_key, message) * _scalar(seed) % GROUP_ORDER
    return r + s.to_bytes(32, "little")


def _signature_by_nobody(key: bytes, message: bytes) -> bytes:
    """Return a signature that a small-order key verifies, R being an ordinary point.

    The challenge is a multiple of eight, so the key drops out: OpenSSL lets it pass.
    """
    for number in count():
        seed = digest(b"robocompute/vectors/nobody", number.to_bytes(8, "little"))
        r = SigningKey(seed).node_key
        if _challenge(r, key, message) % 8 == 0:
            return r + (_scalar(seed) % GROUP_ORDER).to_bytes(32, "little")
    raise AssertionError


def signatures() -> dict[str, Any]:
    """What strict verification accepts and refuses."""
    key = SigningKey(PAYER_SEED)
    message = bytes(range(80))
    good = key.sign(message)
    zero = bytes(32)
    identity = bytes.fromhex(_TORSION[0])
    over = int.from_bytes(good[32:], "little") + GROUP_ORDER
    refused: list[tuple[str, bytes, bytes]] = [
        ("S is L more than it was", key.node_key, good[:32] + over.to_bytes(32, "little")),
        ("S is L", key.node_key, good[:32] + GROUP_ORDER.to_bytes(32, "little")),
        ("all of S is ones", key.node_key, good[:32] + b"\xff" * 32),
        ("R is the identity, S fits", key.node_key, _identity_signature(PAYER_SEED, message)),
        ("a bit of R flipped", key.node_key, bytes([good[0] ^ 1]) + good[1:]),
        ("a bit of S flipped", key.node_key, good[:32] + bytes([good[32] ^ 1]) + good[33:]),
        ("the sign of R flipped", key.node_key, good[:31] + bytes([good[31] ^ 128]) + good[32:]),
        ("the sign of the key flipped", key.node_key[:31] + bytes([key.node_key[31] ^ 128]), good),
        ("another key", SigningKey(PROVIDER_SEED).node_key, good),
        ("all zero", key.node_key, bytes(64)),
    ]
    for kind, points in (("small-order", _TORSION), ("non-canonical", _NON_CANONICAL)):
        for number, text in enumerate(points):
            point = bytes.fromhex(text)
            refused += [
                (f"{kind} key {number}, identity R, S = 0", point, identity + zero),
                (f"{kind} key {number} as R too, S = 0", point, point + zero),
                (f"{kind} R {number}", key.node_key, point + good[32:]),
                (f"{kind} key {number}, ordinary R", point, _signature_by_nobody(point, message)),
            ]
    return {
        "message": message.hex(),
        "accepted": [
            {
                "name": name,
                "key": SigningKey(seed).node_key.hex(),
                "signature": SigningKey(seed).sign(message).hex(),
            }
            for name, seed in (
                ("payer", PAYER_SEED),
                ("provider", PROVIDER_SEED),
                ("zero seed", zero),
            )
        ],
        "refused": [
            {"name": name, "key": public.hex(), "signature": signature.hex()}
            for name, public, signature in refused
        ],
    }


def example_terms() -> Terms:
    """Return the terms that the vectors and the tests share."""
    return Terms(
        task=Digest(named("task")),
        payer=Address(named("payer")),
        payer_node=SigningKey(PAYER_SEED).node_key,
        payee=Address(named("payee")),
        payee_node=SigningKey(PROVIDER_SEED).node_key,
        stake=Address(named("stake")),
        mint=Address(named("mint")),
        channel=ChannelId(named("channel")),
        nonce=named("nonce")[:16],
        slots=0b0110,
        price_per_hour=MicroUnits(2_500_000),
        horizon_ms=limits.DEFAULT_HORIZON,
        first_tick_ms=limits.FIRST_TICK_MAX,
        start_deadline_ms=Millis(300_000),
    )


def agreement() -> dict[str, Any]:
    """One agreement from its terms to its receipt: encodings, names, digests, amounts."""
    payer, provider = SigningKey(PAYER_SEED), SigningKey(PROVIDER_SEED)
    agreed = example_terms()
    name = terms.agreement_id(agreed)
    signed_terms = terms.sign_terms(payer, agreed)
    first_amount = terms.prepaid_amount(agreed, terms.first_tick(agreed))
    _, unsigned = vouchers.PayerLedger(channel=agreed.channel).allocate(name, first_amount)
    voucher = vouchers.sign_voucher(payer, unsigned)
    records = (
        Output(sequence=0, stream="supervisor", kind="note", at_ns=1, data=b"running"),
        Output(sequence=1, stream="stdout", kind="line", at_ns=2, data=b"epoch 1"),
        Output(sequence=2, stream="stderr", kind="part", at_ns=3, data="\N{CHECK MARK}".encode()),
    )
    chains = list(accumulate(records, receipts.chain, initial=receipts.NO_OUTPUT))
    receipt = receipts.build_receipt(
        agreed,
        started_ms=Millis(1_800_000_000_000),
        metered_ms=Millis(61_234),
        frozen_ms=Millis(1_200),
        exit_code=3,
        cause=Cause.EXITED,
        detail="",
        output=chains[-1],
        output_records=len(records),
        artifacts=digest(codec.encode(Manifest(files=()))),
        prepaid_ms=Millis(65_000),
    )
    signed_receipt = receipts.sign_receipt(provider, receipt)
    never = receipts.sign_never_leased(provider, agreement=name, channel=agreed.channel)
    ticks: list[dict[str, int]] = []
    prepaid = terms.first_tick(agreed)
    for index in range(1, 5):
        due, prepaid = terms.next_extension(agreed, elapsed_ms=Millis(0), prepaid_ms=prepaid)
        reserve = terms.reserve(agreed, index)
        ticks.append({"due_ms": due, "prepaid_ms": prepaid, "reserve_ms": reserve})
    return {
        "terms": signed_terms.body.hex(),
        "terms_digest": terms.terms_digest(agreed).hex(),
        "terms_signature": signed_terms.signature.hex(),
        "payer_seed": PAYER_SEED.hex(),
        "provider_seed": PROVIDER_SEED.hex(),
        "agreement": name.hex(),
        "first_amount": first_amount,
        "voucher": codec.encode(voucher).hex(),
        "extensions": ticks,
        "output": [codec.encode(record).hex() for record in records],
        "output_chain": [link.hex() for link in chains],
        "receipt": signed_receipt.body.hex(),
        "receipt_signature": signed_receipt.signature.hex(),
        "receipt_digest": receipts.receipt_digest(signed_receipt).hex(),
        "amount": receipt.amount,
        "never_leased": never.body.hex(),
        "never_leased_signature": never.signature.hex(),
    }


def _readable(value: object) -> Any:
    """Return a decoded message as JSON has it: bytes are hexadecimal."""
    match value:
        case bytes():
            return value.hex()
        case dict():
            fields = cast("dict[str, object]", value)
            return {name: _readable(field) for name, field in fields.items()}
        case list():
            return [_readable(each) for each in cast("list[object]", value)]
        case _:
            return value


def messages() -> dict[str, Any]:
    """Every message encoded, what each of its fields may not hold, and the signed ones signed."""
    return {
        "messages": [
            {
                "name": type(example).__name__,
                "fields": _readable(msgspec.msgpack.decode(codec.encode(example))),
                "encoded": codec.encode(example).hex(),
                "refused": [
                    {"field": refused.field, "value": refused.encoded.hex(), "why": refused.why}
                    for refused in refused_values(type(example))
                ],
            }
            for example in EXAMPLES
        ],
        "signed": [
            {
                "name": name,
                "domain": domain.decode(),
                "key": key.node_key.hex(),
                "body": codec.encode(body).hex(),
                "statement": signing.statement(domain, key.node_key, codec.encode(body)).hex(),
                "signature": signing.sign_message(domain, key, codec.encode(body)).signature.hex(),
            }
            for name, (domain, key, body) in SIGNED.items()
        ],
    }


FILES: Final[dict[str, Callable[[], dict[str, Any]]]] = {
    "settlement.json": settlement,
    "signatures.json": signatures,
    "agreement.json": agreement,
    "messages.json": messages,
}


def render(name: str) -> str:
    """Return the text of one vector file."""
    return json.dumps(FILES[name](), indent=2) + "\n"


def write(folder: Path) -> None:
    """Write every vector file into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        (folder / name).write_text(render(name), encoding="utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parents[1] / "vectors")
