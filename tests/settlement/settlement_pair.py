"""A client and a provider with their adapters, for tests that hold chains to the port's contract."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import trio
from settlement_chains import FEE_BPS, ChainWorld, Person

from robocompute_protocol.identifiers import AgreementId, ChannelId
from robocompute_protocol.leases import sign_tick
from robocompute_protocol.money import MicroUnits
from robocompute_protocol.vouchers import PayerLedger, sign_voucher
from robocompute_settlement.port import ChannelView, SettleClaim, Settlement

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from robocompute_protocol.messages import LeaseTick, SignedVoucher
    from robocompute_settlement.solana import SolanaSettlement

FAR_S = 2**40
DEPOSIT = MicroUnits(100_000_000)
CHANNEL_DEPOSIT = MicroUnits(10_000_000)
ALLOWANCE = MicroUnits(50_000_000)


@dataclass(slots=True)
class Pair:
    """A client whose node key is its delegate, a provider, and their adapters."""

    world: ChainWorld
    client: Person
    node: Person
    provider: Person
    wallet: SolanaSettlement
    delegate: SolanaSettlement
    payee: SolanaSettlement

    async def open(self, nonce: int = 0, *, challenge_s: int = 60) -> ChannelView:
        await self.delegate.open_channel(
            payer=self.client.address, payee=self.provider.address, mint=self.world.usdc,
            voucher_key=self.node.node_key, nonce=nonce, deposit=CHANNEL_DEPOSIT,
            challenge_s=challenge_s,
        )  # fmt: skip
        address = self.delegate.channel_address(
            self.client.address, self.provider.address, self.world.usdc, nonce
        )
        found = await self.delegate.channel(address)
        assert found is not None
        return found

    def voucher(self, channel: ChannelId, cumulative: int) -> SignedVoucher:
        ledger = PayerLedger(channel=channel)
        _, unsigned = ledger.allocate(AgreementId(bytes(32)), MicroUnits(cumulative))
        return sign_voucher(self.node.signing_key, unsigned)

    def claim(self, channel: ChannelId, cumulative: int, claim: int) -> SettleClaim:
        return SettleClaim(
            channel=channel, payee=self.provider.address, mint=self.world.usdc,
            voucher_key=self.node.node_key, voucher=self.voucher(channel, cumulative),
            claim=MicroUnits(claim),
        )  # fmt: skip

    async def available(self, person: Person) -> int:
        balance = await self.wallet.balance(person.address, self.world.usdc)
        return 0 if balance is None else balance.available

    async def stake(self, amount: int) -> None:
        """Deposit and bond as the provider."""
        mint = self.world.usdc
        await self.payee.deposit_wallet(mint=mint, amount=MicroUnits(amount))
        await self.payee.stake_wallet(mint=mint, amount=MicroUnits(amount))

    def lease(self, payer: Person, start_s: int, *, signer: Person | None = None) -> LeaseTick:
        """A tick of the provider's first slot, for ten seconds."""
        return sign_tick(
            (signer or self.provider).signing_key,
            stake=self.payee.stake_address(self.provider.address, self.world.usdc),
            agreement=AgreementId(bytes(32)), payer=payer.address, slots=1, start_s=start_s,
            end_s=start_s + 10,
        )  # fmt: skip


@asynccontextmanager
async def make_pair(world: ChainWorld) -> AsyncGenerator[Pair]:
    """A funded client with a delegate, and a registered provider."""
    client, node, provider = world.person(), world.person(), world.person()
    async with (
        world.adapter(client) as wallet,
        world.adapter(node) as delegate,
        world.adapter(provider) as payee,
    ):

        async def fund() -> None:
            await wallet.deposit_wallet(mint=world.usdc, amount=DEPOSIT)
            await wallet.set_delegate_wallet(
                mint=world.usdc, delegate=node.node_key, allowance=ALLOWANCE, expires_s=FAR_S
            )

        async def register() -> None:
            await payee.register_wallet(mint=world.usdc, node_key=provider.node_key)

        # At once, for each of them waits for a real chain's confirmation.
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fund)
            nursery.start_soon(register)
            nursery.start_soon(delegate.connect)
        yield Pair(world, client, node, provider, wallet, delegate, payee)


def fee_of(amount: int) -> int:
    """The network's fee on what is settled, rounded up."""
    return -(-amount * FEE_BPS // 10_000)


def as_port(adapter: Settlement) -> Settlement:
    """The adapter as services see it: the type checker holds it to the port."""
    return adapter
