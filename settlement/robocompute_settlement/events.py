"""What the program tells in its transactions' logs, as values.

An event is one ``Program data:`` line: eight bytes of ``SHA-256("event:" + name)`` and the fields
one after another. Any program can write such a line, so only those count that were written while
our program was the one running; the log's invoke, success and failed lines say when that was.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass, field, fields
from hashlib import sha256
from struct import Struct
from typing import TYPE_CHECKING, Final, NamedTuple

from robocompute_protocol.identifiers import Address, ChannelId, Digest, NodeKey, to_base58

if TYPE_CHECKING:
    from collections.abc import Iterable

    from robocompute_protocol.money import MicroUnits

LOG_TRUNCATED: Final = "Log truncated"
"""The runtime's last line when a transaction has said more than its 10,000 bytes."""
DATA_LINE: Final = "Program data: "
TAG_BYTES: Final = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigChanged:
    """These are the settings from now on."""

    admin: Address
    treasury: Address
    slot_stake: MicroUnits
    unbond_s: int
    min_challenge_s: int
    fee_bps: int
    slash_bps: int
    paused: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Deposited:
    """Tokens came in; ``available`` is the Balance after it."""

    owner: Address
    mint: Address
    amount: MicroUnits
    available: MicroUnits


@dataclass(frozen=True, slots=True, kw_only=True)
class Withdrawn:
    """Tokens went out to the token account ``destination``."""

    owner: Address
    mint: Address
    destination: Address
    amount: MicroUnits
    available: MicroUnits


@dataclass(frozen=True, slots=True, kw_only=True)
class DelegateSet:
    """A zero ``delegate`` ends the delegation."""

    owner: Address
    mint: Address
    delegate: Address
    allowance: MicroUnits
    expires: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelOpened:
    """Money was set aside for a payee."""

    channel: ChannelId
    payer: Address
    payee: Address
    mint: Address
    voucher_key: NodeKey
    nonce: int
    deposit: MicroUnits
    challenge_s: int
    fee_bps: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ToppedUp:
    """``deposit`` is the channel's after it."""

    channel: ChannelId
    amount: MicroUnits
    deposit: MicroUnits


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """``settled`` is the channel's total after it; ``paid`` went to the payee just now."""

    channel: ChannelId
    payee: Address
    settled: MicroUnits
    paid: MicroUnits
    fee: MicroUnits
    alloc_root: Digest


@dataclass(frozen=True, slots=True, kw_only=True)
class CloseRequested:
    """The payee has until ``close_at`` to settle."""

    channel: ChannelId
    payee: Address
    close_at: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelClosed:
    """``settled`` is the channel's final total."""

    channel: ChannelId
    payer: Address
    payee: Address
    settled: MicroUnits
    refunded: MicroUnits


@dataclass(frozen=True, slots=True, kw_only=True)
class Registered:
    """A provider's Stake exists from now on."""

    stake: Address
    owner: Address
    mint: Address
    node_key: NodeKey


@dataclass(frozen=True, slots=True, kw_only=True)
class Staked:
    """``bonded`` is the Stake's after it."""

    stake: Address
    amount: MicroUnits
    bonded: MicroUnits


@dataclass(frozen=True, slots=True, kw_only=True)
class FeesSwept:
    """``amount`` came to the treasury's Balance."""

    treasury: Address
    mint: Address
    amount: MicroUnits


@dataclass(frozen=True, slots=True, kw_only=True)
class Unstaked:
    """``amount`` began to leave; all of ``unbonding`` may be claimed from ``unbond_at`` on."""

    stake: Address
    amount: MicroUnits
    bonded: MicroUnits
    unbonding: MicroUnits
    unbond_at: int


@dataclass(frozen=True, slots=True, kw_only=True)
class UnbondedClaimed:
    """``amount`` came back to the owner's Balance."""

    stake: Address
    owner: Address
    mint: Address
    amount: MicroUnits
    available: MicroUnits


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyRotated:
    """Another key signs the stake's leases."""

    stake: Address
    node_key: NodeKey
    prev_key: NodeKey
    rotated_at: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AdminProposed:
    """A zero ``pending_admin`` takes the offer back."""

    admin: Address
    pending_admin: Address


@dataclass(frozen=True, slots=True, kw_only=True)
class AdminChanged:
    """The offer was accepted."""

    previous: Address
    admin: Address


@dataclass(frozen=True, slots=True, kw_only=True)
class Slashed:
    """``from_bonded + from_unbonding`` left the stake and went where the last four amounts say."""

    stake: Address
    mint: Address
    reporter: Address
    first_payer: Address
    second_payer: Address
    treasury: Address
    from_bonded: MicroUnits
    from_unbonding: MicroUnits
    to_reporter: MicroUnits
    to_first: MicroUnits
    to_second: MicroUnits
    to_treasury: MicroUnits
    watermark: int


ChainEvent = (
    ConfigChanged | Deposited | Withdrawn | DelegateSet | ChannelOpened | ToppedUp | Settled
    | CloseRequested | ChannelClosed | Registered | Staked | FeesSwept | Unstaked
    | UnbondedClaimed | KeyRotated | AdminProposed | AdminChanged | Slashed
)  # fmt: skip

_PACKED: Final[dict[type[ChainEvent], str]] = {
    ConfigChanged: "<32s32sQQQHH?",
    Deposited: "<32s32sQQ",
    Withdrawn: "<32s32s32sQQ",
    DelegateSet: "<32s32s32sQq",
    ChannelOpened: "<32s32s32s32s32sQQQH",
    ToppedUp: "<32sQQ",
    Settled: "<32s32sQQQ32s",
    CloseRequested: "<32s32sq",
    ChannelClosed: "<32s32s32sQQ",
    Registered: "<32s32s32s32s",
    Staked: "<32sQQ",
    FeesSwept: "<32s32sQ",
    Unstaked: "<32sQQQq",
    UnbondedClaimed: "<32s32s32sQQ",
    KeyRotated: "<32s32s32sq",
    AdminProposed: "<32s32s",
    AdminChanged: "<32s32s",
    Slashed: "<32s32s32s32s32s32sQQQQQQq",
}
"""How the fields, in their order, are packed. A test holds them against the program's IDL."""


class _Form(NamedTuple):
    event: type[ChainEvent]
    names: tuple[str, ...]
    packed: Struct


_FORMS: Final[dict[bytes, _Form]] = {
    sha256(f"event:{event.__name__}".encode()).digest()[:TAG_BYTES]: _Form(
        event, tuple(each.name for each in fields(event)), Struct(packed)
    )
    for event, packed in _PACKED.items()
}


class Told(NamedTuple):
    """What one transaction's log says."""

    events: tuple[ChainEvent, ...]
    complete: bool
    """False when the log was cut short, or an event is not known here."""


def decode_event(data: bytes) -> ChainEvent | None:
    """Read one event; ``None`` for one that this version does not know."""
    form = _FORMS.get(data[:TAG_BYTES])
    if form is None or len(data) != TAG_BYTES + form.packed.size:
        return None
    values = form.packed.unpack_from(data, TAG_BYTES)
    return form.event(**dict(zip(form.names, values, strict=True)))


@dataclass(slots=True)
class _Call:
    """One program running, and what it and the programs it called told so far."""

    program: str
    events: list[ChainEvent] = field(default_factory=list[ChainEvent])


def events_of(logs: Iterable[str], program_id: Address) -> Told:
    """Read the events of our program out of one transaction's log lines.

    What was told inside a call that failed is left out, whoever called it. Never raises, whatever
    the lines are: what they do not tell clearly makes ``complete`` false.
    """
    ours = to_base58(program_id)
    told: list[ChainEvent] = []
    running: list[_Call] = []
    complete = True
    for line in logs:
        if line == LOG_TRUNCATED:
            complete = False
            break
        if line.startswith(DATA_LINE):
            if running and running[-1].program == ours:
                event = _event_in(line)
                complete = complete and event is not None
                running[-1].events.extend(() if event is None else (event,))
            continue
        match line.split(" "):
            case ["Program", "log:" | "return:" | "consumption:", *_]:
                continue  # what follows is the program's to choose
            case ["Program", program, "invoke", depth] if depth == f"[{len(running) + 1}]":
                running.append(_Call(program))
            case ["Program", program, "success"] if running and running[-1].program == program:
                ended = running.pop()
                (running[-1].events if running else told).extend(ended.events)
            case ["Program", program, "failed:", *_] if running and running[-1].program == program:
                running.pop()
            case ["Program", _, "invoke" | "success" | "failed:", *_]:
                complete = False
            case _:
                continue
    for call in running:
        # The log ends inside these calls: the transaction did not fail, so neither did they.
        complete = False
        told.extend(call.events)
    return Told(tuple(told), complete)


def _event_in(line: str) -> ChainEvent | None:
    try:
        return decode_event(base64.b64decode(line[len(DATA_LINE) :], validate=True))
    except (binascii.Error, ValueError):
        return None
