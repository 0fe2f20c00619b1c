"""The chain that fake adapters share: what it holds, what it is told, and what it is asked to fail."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from contextlib import asynccontextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import trio

from robocompute_protocol.identifiers import Address, ChannelId, Digest, digest
from robocompute_protocol.money import MicroUnits
from robocompute_settlement.addresses import Addresses
from robocompute_settlement.port import (
    Attempt,
    BalanceView,
    ChainRecord,
    ChannelView,
    Commitment,
    ConfigView,
    Outcome,
    Sent,
    StakeView,
)

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterable

    from robocompute_protocol.errors import ChainError
    from robocompute_settlement.events import ChainEvent

FINAL_AFTER_S: Final = 13.0
"""What is confirmed is final after this long: 32 slots of 0.4 s."""
NOBODY: Final = Address(bytes(32))
ZERO: Final = MicroUnits(0)


@dataclass(slots=True)
class Ledger:
    """Everything the chain holds at one moment."""

    balances: dict[tuple[Address, Address], BalanceView] = field(
        default_factory=dict[tuple[Address, Address], BalanceView]
    )
    stakes: dict[tuple[Address, Address], StakeView] = field(
        default_factory=dict[tuple[Address, Address], StakeView]
    )
    channels: dict[ChannelId, ChannelView] = field(default_factory=dict[ChannelId, ChannelView])
    tokens: dict[tuple[Address, Address], int] = field(
        default_factory=lambda: defaultdict[tuple[Address, Address], int](int)
    )
    lamports: dict[Address, int] = field(default_factory=lambda: defaultdict[Address, int](int))
    vaults: dict[Address, int] = field(default_factory=lambda: defaultdict[Address, int](int))


@dataclass(frozen=True, slots=True)
class Landed:
    """A transaction that was taken."""

    name: str
    touched: frozenset[Address]
    record: ChainRecord
    at_s: float


class FakeChain:
    """What the adapters of one test have in common.

    ``fault`` is asked before each write, by the method's name: an error it returns is raised, and
    nothing happened.
    """

    def __init__(
        self,
        *,
        now_s: Callable[[], float],
        mints: tuple[Address, Address],
        fee_bps: int = 100,
        min_challenge_s: int = 2,
        slot_stake: MicroUnits = ZERO,
        unbond_s: int = 60,
        slash_bps: int = 2_000,
        treasury: Address = NOBODY,
        admin: Address = NOBODY,
    ) -> None:
        self.addresses = Addresses(
            Address(digest(b"fake program")), Digest(digest(b"fake domain"))
        )
        self.settings = ConfigView(
            admin=admin,
            pending_admin=NOBODY,
            treasury=treasury,
            mints=mints,
            domain=self.addresses.domain,
            slot_stake=slot_stake,
            unbond_s=unbond_s,
            min_challenge_s=min_challenge_s,
            fee_bps=fee_bps,
            slash_bps=slash_bps,
            paused=False,
        )
        self.now_s = now_s
        self.fault: Callable[[str], ChainError | None] = lambda _name: None
        self.delay: Callable[[], float] = lambda: 0.0
        """Seconds that the next request takes to get there, or its answer to come back."""
        self.ledger = Ledger()
        self.sent: list[Landed] = []
        """Oldest first."""
        self.changed = trio.Event()
        self._history: list[tuple[float, Ledger]] = [(float("-inf"), Ledger())]

    async def way(self) -> None:
        """Travel one way."""
        await trio.sleep(self.delay())

    @asynccontextmanager
    async def asked(self) -> AsyncGenerator[None]:
        """What the block reads is the chain's state of one moment, and known a while later."""
        await self.way()
        yield
        await self.way()

    def found(self, owner: Address, *, lamports: int, tokens: int = 0) -> None:
        """Give a wallet SOL, and tokens of the first mint."""
        self.ledger.lamports[owner] += lamports
        self.ledger.tokens[owner, self.settings.mints[0]] += tokens

    def at(self, commitment: Commitment) -> Ledger:
        """What the chain holds, as sure as ``commitment``."""
        if commitment is Commitment.CONFIRMED:
            return self.ledger
        final = self.now_s() - FINAL_AFTER_S
        while len(self._history) > 1 and self._history[1][0] <= final:
            del self._history[0]
        return self._history[0][1]

    def touching(self, address: Address, at: Commitment) -> list[Landed]:
        """The transactions that named ``address``, oldest first."""
        final = self.now_s() - FINAL_AFTER_S
        return [
            each
            for each in self.sent
            if address in each.touched and (at is Commitment.CONFIRMED or each.at_s <= final)
        ]

    def outcome(self, attempt: Attempt) -> Outcome:
        """What became of a transaction: here it lands at once, or never."""
        known = any(each.record.signature == attempt.signature for each in self.sent)
        return Outcome.LANDED if known else Outcome.NEVER

    def next_attempt(self) -> Attempt:
        """What the next transaction that is taken will have been."""
        return Attempt(self._signature(), last_valid_height=len(self.sent) + 150)

    def _signature(self) -> str:
        return hashlib.sha256(f"transaction {len(self.sent)}".encode()).hexdigest()

    async def took(
        self, name: str, touched: Iterable[Address], events: Iterable[ChainEvent] = ()
    ) -> Sent:
        """Record a transaction that was taken; who sent it knows a while later."""
        sent = self.note(name, touched, events)
        await self.way()
        return sent

    def note(
        self, name: str, touched: Iterable[Address], events: Iterable[ChainEvent] = ()
    ) -> Sent:
        """Record a transaction that was taken."""
        signature = self._signature()
        record = ChainRecord(
            signature=signature,
            slot=len(self.sent) + 1,
            time_s=int(self.now_s()),
            events=tuple(events),
            complete=True,
        )
        self.sent.append(Landed(name, frozenset(touched), record, self.now_s()))
        self._history.append((self.now_s(), deepcopy(self.ledger)))
        self.at(Commitment.FINALIZED)
        self.changed.set()
        self.changed = trio.Event()
        return Sent(signature=signature, slot=record.slot)
