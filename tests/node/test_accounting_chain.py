"""Books read from a chain on which anything happened add up to it, on every side."""

from __future__ import annotations

from typing import Any

import trio
from hypothesis import given, settings, strategies as st

from robocompute_node.accounting import Place
from robocompute_node.services.chain_books import read_books
from robocompute_protocol.errors import ChainRefused
from robocompute_protocol.identifiers import Address, NodeKey, digest
from robocompute_protocol.money import MicroUnits
from robocompute_protocol.signing import SigningKey
from robocompute_protocol.vouchers import NOTHING_CLOSED, UnsignedVoucher, sign_voucher
from robocompute_settlement.fake import FakeChain, FakeSettlement
from robocompute_settlement.port import SettleClaim

USDC, USDT = Address(digest(b"usdc")), Address(digest(b"usdt"))
KEYS = [SigningKey(digest(b"person", bytes((number,)))) for number in range(3)]
PEOPLE = [Address(key.node_key) for key in KEYS]
TREASURY = PEOPLE[2]
STEPS = st.lists(
    st.tuples(
        st.sampled_from(
            (
                "deposit",
                "withdraw",
                "open",
                "open",
                "top_up",
                "settle",
                "settle",
                "settle",
                "close",
                "ask",
                "finalize",
                "stake",
                "unstake",
                "claim",
                "sweep",
            )
        ),
        st.integers(0, 2),
        st.integers(0, 2),
        st.integers(0, 2_000_000),
    ),
    max_size=40,
)


class Life:
    """A chain, and what happens on it."""

    def __init__(self) -> None:
        self.now_s = 1_000.0
        self.chain = FakeChain(
            now_s=lambda: self.now_s, mints=(USDC, USDT), fee_bps=137, treasury=TREASURY
        )
        self.people = [FakeSettlement(self.chain, person) for person in PEOPLE]
        for person in PEOPLE:
            self.chain.found(person, lamports=10**12, tokens=10**8)

    async def do(self, what: str, one: int, other: int, amount: int) -> None:
        """Do one thing; what the program refuses does not happen."""
        self.now_s += 7
        me, units = self.people[one], MicroUnits(amount)
        views = list(self.chain.ledger.channels.values())
        view = views[amount % len(views)] if views else None
        match what:
            case "deposit":
                await me.deposit_wallet(mint=USDC, amount=units)
            case "withdraw":
                await me.withdraw_wallet(mint=USDC, amount=units, destination=PEOPLE[other])
            case "stake":
                if await me.stake_of(PEOPLE[one], USDC) is None:
                    await me.register_wallet(mint=USDC, node_key=NodeKey(PEOPLE[one]))
                await me.stake_wallet(mint=USDC, amount=units)
            case "unstake":
                await me.unstake_wallet(mint=USDC, amount=units)
            case "claim":
                self.now_s += 100
                await me.claim_unbonded_wallet(mint=USDC)
            case "sweep":
                await me.sweep_fees(mint=USDC, owners=(PEOPLE[other],))
            case "open":
                balance = await me.balance(PEOPLE[one], USDC)
                await me.open_channel(
                    payer=PEOPLE[one],
                    payee=PEOPLE[other],
                    mint=USDC,
                    voucher_key=KEYS[one].node_key,
                    nonce=0 if balance is None else balance.next_nonce,
                    deposit=units,
                    challenge_s=5,
                )
            case _ if view is not None:
                await self._on_channel(what, view, units)
            case _:
                pass

    async def _on_channel(self, what: str, view: Any, units: MicroUnits) -> None:
        payer = self.people[PEOPLE.index(view.payer)]
        match what:
            case "top_up":
                await payer.top_up(channel=view, amount=units)
            case "ask":
                await payer.request_close(view)
            case "finalize":
                await payer.finalize_close(view)
            case "close":
                await self.people[PEOPLE.index(view.payee)].close_by_payee(view)
            case _:
                unsigned = UnsignedVoucher(
                    channel=view.channel,
                    cumulative=MicroUnits(view.settled + units // 5),
                    sequence=1,
                    closed=NOTHING_CLOSED,
                    open=(),
                    closes=(),
                )
                voucher = sign_voucher(KEYS[PEOPLE.index(view.payer)], unsigned)
                claim = SettleClaim(
                    channel=view.channel,
                    payee=view.payee,
                    mint=USDC,
                    voucher_key=view.voucher_key,
                    voucher=voucher,
                    claim=voucher.cumulative,
                )
                await payer.settle((claim,))


@given(STEPS)
@settings(max_examples=100, deadline=None)
def test_the_books_of_everybody_are_what_the_chain_holds(steps: list[Any]) -> None:
    async def check() -> None:
        life = Life()
        for person in life.people:
            await person.deposit_wallet(mint=USDC, amount=MicroUnits(10**7))
        for step in steps:
            try:
                await life.do(*step)
            except ChainRefused:
                continue
        spent = earned = 0
        for person in PEOPLE:
            books = await read_books(life.people[0], person, USDC)
            assert books.differences == ()
            assert books.journal.whole
            spent += books.journal.total(Place.SPENT)
            earned -= books.journal.total(Place.EARNED)
        assert spent == earned

    trio.run(check)
