"""Golden vectors: ``python -m robocompute_protocol.vectors DIR`` writes them, always the same.

They are what another implementation, and the on-chain program's tests, check themselves against.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, Final

from robocompute_protocol import leases, vouchers
from robocompute_protocol.identifiers import Address, AgreementId, ChannelId, Digest, digest
from robocompute_protocol.money import MicroUnits
from robocompute_protocol.signing import SigningKey

PAYER_SEED: Final = bytes(range(32))
PROVIDER_SEED: Final = bytes(range(32, 64))


def _named(name: str) -> bytes:
    """Return 32 bytes that a reader can rebuild: the SHA-256 of a name."""
    return digest(b"robocompute/vectors/", name.encode())


def settlement() -> dict[str, Any]:
    """What the on-chain program reads too: voucher and lease statements."""
    payer, provider = SigningKey(PAYER_SEED), SigningKey(PROVIDER_SEED)
    channel = ChannelId(_named("channel"))
    receipt = Digest(_named("receipt"))
    first, second, third = sorted(AgreementId(_named(f"agreement {n}")) for n in range(3))
    closed = vouchers.closed_digest(vouchers.NOTHING_CLOSED, third, MicroUnits(41_667), receipt)
    open_ = ((first, MicroUnits(27_778)), (second, MicroUnits(1_000_000)))
    root = vouchers.allocation_root(7, closed, open_)
    cumulative = MicroUnits(1_100_000)
    voucher = vouchers.signing_bytes(channel, cumulative, root)
    stake = Address(_named("stake"))
    conflicting = {
        name: leases.sign_tick(
            provider,
            stake=stake,
            agreement=agreement,
            payer=Address(_named(f"payer of {name}")),
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


FILES: Final = {"settlement.json": settlement}


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
