"""The settlement port over Solana endpoints."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

import trio
from solders.keypair import Keypair

from robocompute_protocol.errors import ChainRefused
from robocompute_protocol.identifiers import Address, Digest, NodeKey, to_base58
from robocompute_protocol.leases import signing_bytes
from robocompute_protocol.signing import verify
from robocompute_settlement.addresses import associated_token_account
from robocompute_settlement.endpoint import REQUESTS_PER_S, Endpoint
from robocompute_settlement.endpoints import Endpoints
from robocompute_settlement.instructions import (
    MAX_CLAIMS,
    MAX_SWEPT,
    Instructions,
    Statement,
    create_token_account,
    verify_statements,
    verify_vouchers,
)
from robocompute_settlement.reading import SolanaReader
from robocompute_settlement.refusals import OutOfSol
from robocompute_settlement.rpc import Rpc
from robocompute_settlement.sending import Sender
from robocompute_settlement.subscriptions import Subscriptions
from robocompute_settlement.transactions import BUDGET_INSTRUCTIONS, Priority, payer_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Self

    from solders.instruction import Instruction

    from robocompute_protocol.messages import LeaseTick
    from robocompute_protocol.money import MicroUnits
    from robocompute_settlement.port import (
        Attempt,
        ChannelView,
        Outcome,
        Sent,
        SettleClaim,
        StakeView,
    )


class SolanaSettlement(SolanaReader):
    """``port.Settlement`` for one signer: a node key that is its wallet's delegate, or a wallet.

    An async context manager, or closed with ``aclose``. ``run`` in a nursery makes waiting
    quicker by websocket, and compares several endpoints; without it everything works by polling.
    """

    def __init__(
        self,
        *,
        rpc_urls: tuple[str, ...],
        ws_urls: tuple[str, ...] = (),
        program_id: Address,
        signer_seed: bytes | None = None,
        signer: Address | None = None,
        genesis_hash: Digest | None = None,
        requests_per_s: float = REQUESTS_PER_S,
        priority: Priority | None = None,
    ) -> None:
        """Prepare; nothing is sent yet.

        Args:
            rpc_urls: JSON-RPC endpoints of one chain, the preferred one first.
            ws_urls: their websockets; without any, polling alone.
            program_id: the settlement program.
            signer_seed: 32 secret bytes of the key that signs and pays the fees.
            signer: instead of the seed, the address alone: then only reads work.
            genesis_hash: the chain this must be; learnt at the first request when absent.
            requests_per_s: what each endpoint is asked at most, over a while.
            priority: what is offered for being taken early.
        """
        endpoints = tuple(Endpoint(url, requests_per_s=requests_per_s) for url in rpc_urls)
        rpc = Rpc(Endpoints(endpoints, genesis_hash=genesis_hash))
        subscriptions = Subscriptions(ws_urls)
        super().__init__(
            rpc=rpc, subscriptions=subscriptions, program_id=program_id, genesis_hash=genesis_hash
        )
        self._key = None if signer_seed is None else Keypair.from_seed(signer_seed)
        self._signer = signer if self._key is None else Address(bytes(self._key.pubkey()))
        self._sender = Sender(rpc, subscriptions, priority=priority or Priority())

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections. Repeatable."""
        with trio.CancelScope(shield=True):
            await self._rpc.aclose()

    async def run(
        self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> NoReturn:
        """Keep the websocket up, and an eye on the endpoints, until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._rpc.endpoints.run)
            await self._subscriptions.run(task_status=task_status)

    @property
    def signer(self) -> Address:
        """Who signs and pays fees.

        Raises:
            ChainRefused: nobody was named.
        """
        if self._signer is None:
            raise ChainRefused("this adapter has no signer: it only reads")
        return self._signer

    # --- writes ---------------------------------------------------------------------------------

    async def open_channel(
        self, *, payer: Address, payee: Address, mint: Address, voucher_key: NodeKey, nonce: int,
        deposit: MicroUnits, challenge_s: int,
    ) -> Sent:  # fmt: skip
        build = await self._instructions()
        return await self.send(
            build.open_channel(
                authority=self.signer, payer=payer, payee=payee, mint=mint,
                voucher_key=voucher_key, nonce=nonce, deposit=deposit, challenge_s=challenge_s,
            )
        )  # fmt: skip

    async def top_up(
        self, *, channel: ChannelView, amount: MicroUnits,
        journal: Callable[[Attempt], None] | None = None,
    ) -> Sent:  # fmt: skip
        build = await self._instructions()
        return await self.send(
            build.top_up(authority=self.signer, channel=channel, amount=amount), journal=journal
        )

    async def settle(self, claims: tuple[SettleClaim, ...]) -> Sent:
        if not 1 <= len(claims) <= MAX_CLAIMS:
            raise ChainRefused(f"one transaction settles 1 to {MAX_CLAIMS} claims")
        build = await self._instructions()
        settles = [
            build.settle(
                channel=claim.channel, payee=claim.payee, mint=claim.mint,
                ed_ix=BUDGET_INSTRUCTIONS, entry=entry, claim=claim.claim,
            )
            for entry, claim in enumerate(claims)
        ]  # fmt: skip
        return await self.send(verify_vouchers(claims), *settles)

    async def close_by_payee(self, channel: ChannelView) -> Sent:
        build = await self._instructions()
        return await self.send(build.close_by_payee(authority=self.signer, channel=channel))

    async def request_close(self, channel: ChannelView) -> Sent:
        build = await self._instructions()
        return await self.send(build.request_close(authority=self.signer, channel=channel))

    async def finalize_close(self, channel: ChannelView) -> Sent:
        build = await self._instructions()
        return await self.send(build.finalize_close(channel=channel))

    async def deposit_wallet(self, *, mint: Address, amount: MicroUnits) -> Sent:
        build = await self._instructions()
        return await self.send(build.deposit(owner=self.signer, mint=mint, amount=amount))

    async def withdraw_wallet(
        self, *, mint: Address, amount: MicroUnits, destination: Address,
        token_account: Address | None = None,
    ) -> Sent:  # fmt: skip
        """``destination`` is a wallet: its associated token account is made where missing.

        With ``token_account`` the money goes exactly there, and nothing is made.
        """
        build = await self._instructions()
        if token_account is not None:
            return await self.send(
                build.withdraw(
                    owner=self.signer, mint=mint, destination=token_account, amount=amount
                )
            )
        return await self.send(
            create_token_account(self.signer, destination, mint),
            build.withdraw(
                owner=self.signer,
                mint=mint,
                destination=associated_token_account(destination, mint),
                amount=amount,
            ),
        )

    async def set_delegate_wallet(
        self, *, mint: Address, delegate: NodeKey, allowance: MicroUnits, expires_s: int
    ) -> Sent:
        build = await self._instructions()
        return await self.send(
            build.set_delegate(
                owner=self.signer,
                mint=mint,
                delegate=delegate,
                allowance=allowance,
                expires_s=expires_s,
            )
        )

    async def register_wallet(self, *, mint: Address, node_key: NodeKey) -> Sent:
        """Also creates the wallet's token account and Balance, without which nothing is earned."""
        build = await self._instructions()
        return await self.send(
            create_token_account(self.signer, self.signer, mint),
            build.deposit(owner=self.signer, mint=mint, amount=0),
            build.register(owner=self.signer, mint=mint, node_key=node_key),
        )

    async def stake_wallet(self, *, mint: Address, amount: MicroUnits) -> Sent:
        build = await self._instructions()
        return await self.send(build.stake(owner=self.signer, mint=mint, amount=amount))

    async def unstake_wallet(self, *, mint: Address, amount: MicroUnits) -> Sent:
        build = await self._instructions()
        return await self.send(build.unstake(owner=self.signer, mint=mint, amount=amount))

    async def claim_unbonded_wallet(self, *, mint: Address) -> Sent:
        build = await self._instructions()
        return await self.send(build.claim_unbonded(owner=self.signer, mint=mint))

    async def rotate_key_wallet(self, *, mint: Address, node_key: NodeKey) -> Sent:
        build = await self._instructions()
        return await self.send(build.rotate_key(owner=self.signer, mint=mint, node_key=node_key))

    async def slash(self, *, stake: StakeView, first: LeaseTick, second: LeaseTick) -> Sent:
        build = await self._instructions()
        config = await self.config()
        leases = [_lease_statement(stake, each) for each in (first, second)]
        await self._make_balances(build, stake.mint, config.treasury)
        return await self.send(
            verify_statements(leases),
            build.slash(
                reporter=self.signer, stake=stake, payers=(first.payer, second.payer),
                treasury=config.treasury, ed_ix=BUDGET_INSTRUCTIONS,
            ),
        )  # fmt: skip

    async def _make_balances(self, build: Instructions, mint: Address, treasury: Address) -> None:
        """Create what a reward or penalty is to be paid into, in a transaction of its own."""
        missing: list[Instruction] = []
        if await self.balance(self.signer, mint) is None:
            missing.append(create_token_account(self.signer, self.signer, mint))
            missing.append(build.deposit(owner=self.signer, mint=mint, amount=0))
        if await self.balance(treasury, mint) is None:
            missing.append(
                build.sweep_fees(rent_payer=self.signer, treasury=treasury, mint=mint, owners=())
            )
        if missing:
            await self.send(*missing)

    async def sweep_fees(self, *, mint: Address, owners: tuple[Address, ...]) -> Sent:
        if len(owners) > MAX_SWEPT:
            raise ChainRefused(f"one transaction sweeps the fees of up to {MAX_SWEPT} owners")
        build = await self._instructions()
        config = await self.config()
        return await self.send(
            build.sweep_fees(
                rent_payer=self.signer, treasury=config.treasury, mint=mint, owners=owners
            )
        )

    async def send(
        self, *instructions: Instruction, also: tuple[Keypair, ...] = (),
        journal: Callable[[Attempt], None] | None = None,
    ) -> Sent:  # fmt: skip
        """Send one transaction of these instructions, as every write does; ``also`` sign it.

        ``journal`` is called with each signed one before it is sent, to store it: whoever is killed
        while sending asks ``outcome`` about it afterwards.

        Raises:
            ChainBusy: not taken, and it never will be.
            ChainRefused: it would fail, or it failed.
            ChainUnknown: the signature in it may still land.
        """
        if self._key is None:
            raise ChainRefused("this adapter has no key to sign with: it only reads")
        try:
            return await self._sender.send(instructions, self._key, also, journal=journal)
        except OutOfSol as exc:
            raise _out_of_sol(exc, self.signer) from None

    async def send_signed(self, wire: bytes, last_valid_height: int | None) -> Sent:
        """Send and confirm a transaction that was signed elsewhere. It is never signed anew.

        Raises:
            ChainRefused: so above, and when it expired without being taken.
        """
        try:
            return await self._sender.send_signed(wire, last_valid_height)
        except OutOfSol as exc:
            raise _out_of_sol(exc, payer_of(wire)) from None

    async def outcome(self, attempt: Attempt) -> Outcome:
        return await self._sender.outcome(attempt)

    async def _instructions(self) -> Instructions:
        await self.connect()
        return Instructions(self.addresses)


def _out_of_sol(exc: OutOfSol, payer: Address) -> ChainRefused:
    return ChainRefused(f"{exc}, to {to_base58(payer)}", details=exc.details)


def _lease_statement(stake: StakeView, tick: LeaseTick) -> Statement:
    """The lease with the key that signed it: the stake's present one, or the one before.

    Raises:
        ChainRefused: it is neither.
    """
    message = signing_bytes(tick)
    for key in (stake.node_key, stake.prev_key):
        if verify(key, message, tick.signature):
            return Statement(tick.signature, key, message)
    raise ChainRefused("a lease was not signed by a key of this stake")
