"""The reads of the fake adapter, and what its writes have in common."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

import trio

from robocompute_protocol.errors import ChainBusy, ChainRefused
from robocompute_protocol.identifiers import Address, ChannelId
from robocompute_protocol.money import MicroUnits
from robocompute_settlement.addresses import AddressBook
from robocompute_settlement.fake_chain import NOBODY, ZERO, FakeChain, Ledger
from robocompute_settlement.instructions import Instructions
from robocompute_settlement.port import (
    Attempt,
    BalanceView,
    ChainRecord,
    Changed,
    ChannelView,
    Commitment,
    ConfigView,
    Outcome,
    Sent,
    StakeView,
)
from robocompute_settlement.program_errors import describe
from robocompute_settlement.watching import listening

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from solders.instruction import Instruction

    from robocompute_settlement.addresses import Addresses
    from robocompute_settlement.events import ChainEvent

TRANSACTION_LAMPORTS: Final = 5_000


def refused(number: int) -> ChainRefused:
    """The program's refusal of this number."""
    return ChainRefused(describe(number), number=number)


class FakeReader(AddressBook):
    """Reads a ``FakeChain``; ``signer`` is who writes what a subclass adds."""

    def __init__(self, chain: FakeChain, signer: Address) -> None:
        self._chain = chain
        self._signer = signer

    @property
    def addresses(self) -> Addresses:
        return self._chain.addresses

    @property
    def signer(self) -> Address:
        return self._signer

    async def config(self) -> ConfigView:
        async with self._chain.asked():
            return self._chain.settings

    async def balance(
        self, owner: Address, mint: Address, *, at: Commitment = Commitment.CONFIRMED
    ) -> BalanceView | None:
        async with self._chain.asked():
            return self._chain.at(at).balances.get((owner, mint))

    async def channel(
        self, channel: ChannelId, *, at: Commitment = Commitment.CONFIRMED
    ) -> ChannelView | None:
        async with self._chain.asked():
            return self._chain.at(at).channels.get(channel)

    async def channels_of(
        self, owner: Address, *, mint: Address | None = None,
        at: Commitment = Commitment.CONFIRMED,
    ) -> tuple[ChannelView, ...]:  # fmt: skip
        async with self._chain.asked():
            return tuple(
                view
                for _, view in sorted(self._chain.at(at).channels.items())
                if owner in (view.payer, view.payee) and mint in (None, view.mint)
            )

    async def stake_of(
        self, owner: Address, mint: Address, *, at: Commitment = Commitment.CONFIRMED
    ) -> StakeView | None:
        async with self._chain.asked():
            return self._chain.at(at).stakes.get((owner, mint))

    async def stakes(self, mint: Address) -> tuple[StakeView, ...]:
        async with self._chain.asked():
            held = self._chain.at(Commitment.CONFIRMED).stakes.values()
            return tuple(
                sorted((each for each in held if each.mint == mint), key=lambda each: each.stake)
            )

    async def time_s(self) -> int:
        async with self._chain.asked():
            return self._now_s

    async def token_balance(self, owner: Address, mint: Address) -> MicroUnits:
        async with self._chain.asked():
            return MicroUnits(self._chain.ledger.tokens[owner, mint])

    async def lamports(self, address: Address) -> int:
        async with self._chain.asked():
            return self._chain.ledger.lamports[address]

    async def vault_tokens(self, mint: Address) -> MicroUnits:
        async with self._chain.asked():
            return MicroUnits(self._chain.ledger.vaults[mint])

    async def signatures(self, address: Address, *, limit: int = 10) -> tuple[str, ...]:
        async with self._chain.asked():
            found = self._chain.touching(address, Commitment.CONFIRMED)
            return tuple(each.record.signature for each in found[::-1][:limit])

    async def history(
        self, address: Address, *, until: str = "", limit: int = 1_000,
        at: Commitment = Commitment.CONFIRMED,
    ) -> tuple[ChainRecord, ...]:  # fmt: skip
        async with self._chain.asked():
            found = [each.record for each in self._chain.touching(address, at)]
            known = [each.signature for each in found]
            first = known.index(until) + 1 if until in known else 0
            return tuple(found[first : first + limit])

    async def outcome(self, attempt: Attempt) -> Outcome:
        async with self._chain.asked():
            return self._chain.outcome(attempt)

    async def wait_for_channel(self, channel: ChannelId, *, timeout_s: float) -> ChannelView:
        with trio.move_on_after(timeout_s):
            while (view := self._chain.ledger.channels.get(channel)) is None:
                await self._chain.changed.wait()
            return view
        raise ChainBusy(f"the channel was not confirmed within {timeout_s:g} s")

    def watch(
        self, addresses: tuple[Address, ...]
    ) -> AbstractAsyncContextManager[trio.MemoryReceiveChannel[Changed]]:
        return listening(partial(self._tell, addresses))

    async def _tell(
        self, addresses: tuple[Address, ...], send: trio.MemorySendChannel[Changed]
    ) -> None:
        for address in addresses:
            await send.send(Changed(address=address, slot=0))
        told = len(self._chain.sent)
        while True:
            while told == len(self._chain.sent):
                await self._chain.changed.wait()
            news, told = self._chain.sent[told:], len(self._chain.sent)
            for address in addresses:
                slots = [each.record.slot for each in news if address in each.touched]
                if slots:
                    await send.send(Changed(address=address, slot=slots[-1]))

    # --- what writes have in common -------------------------------------------------------------

    @property
    def _ledger(self) -> Ledger:
        return self._chain.ledger

    @property
    def _now_s(self) -> int:
        return int(self._chain.now_s())

    @property
    def _build(self) -> Instructions:
        """What the real adapter would send: its accounts are what a transaction touches."""
        return Instructions(self.addresses)

    async def _begin(self, name: str) -> None:
        await self._chain.way()
        fault = self._chain.fault(name)
        if fault is not None:
            raise fault
        if self._ledger.lamports[self._signer] < TRANSACTION_LAMPORTS:
            raise ChainRefused("the signing key has no SOL for the transaction's fee")
        self._ledger.lamports[self._signer] -= TRANSACTION_LAMPORTS

    async def _note(self, name: str, instruction: Instruction, *events: ChainEvent) -> Sent:
        touched = {Address(bytes(meta.pubkey)) for meta in instruction.accounts}
        return await self._chain.took(name, {*touched, self._signer}, events)

    def _the(self, channel: ChannelId) -> ChannelView:
        view = self._ledger.channels.get(channel)
        if view is None:
            raise refused(6004)
        return view

    def _put(self, view: ChannelView) -> None:
        self._ledger.channels[view.channel] = view

    def _stake(self, mint: Address) -> StakeView:
        """The signer's own."""
        stake = self._ledger.stakes.get((self._signer, mint))
        if stake is None:
            raise refused(6004)
        return stake

    def _bond(self, stake: StakeView) -> None:
        self._ledger.stakes[stake.owner, stake.mint] = stake

    def _balance(self, owner: Address, mint: Address) -> BalanceView:
        return self._ledger.balances.get((owner, mint)) or BalanceView(
            owner=owner,
            mint=mint,
            delegate=NOBODY,
            available=ZERO,
            fees_owed=ZERO,
            fees_paid=ZERO,
            next_nonce=0,
            allowance=ZERO,
            delegate_expires_s=0,
        )

    def _set(self, balance: BalanceView) -> None:
        self._ledger.balances[balance.owner, balance.mint] = balance
