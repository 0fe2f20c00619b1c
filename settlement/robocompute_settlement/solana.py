"""The settlement port over a Solana endpoint."""

from __future__ import annotations

import itertools
import logging
import secrets
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, NoReturn

import trio
from solders.keypair import Keypair

from robocompute_protocol.errors import ChainBusy, ChainError, ChainRefused, ChainUnknown
from robocompute_protocol.identifiers import Address, ChannelId, Digest, NodeKey, to_base58
from robocompute_protocol.money import MicroUnits
from robocompute_settlement import accounts
from robocompute_settlement.addresses import (
    Addresses,
    associated_token_account,
    domain_of,
)
from robocompute_settlement.instructions import (
    MAX_CLAIMS,
    Instructions,
    create_token_account,
    verify_vouchers,
)
from robocompute_settlement.port import (
    BalanceView,
    ChannelView,
    Commitment,
    ConfigView,
    Sent,
    SettleClaim,
    StakeView,
)
from robocompute_settlement.rpc import BlockhashExpired, Rpc, SignatureStatus, refusal_of
from robocompute_settlement.subscriptions import Subscriptions
from robocompute_settlement.transactions import (
    BUDGET_INSTRUCTIONS,
    DISTINCT,
    Prepared,
    Priority,
    prepare,
)

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence
    from types import TracebackType
    from typing import Self

    from solders.instruction import Instruction

log = logging.getLogger(__name__)

READ_DEADLINE_S: Final = 20.0
"""A read that has no answer by then is ``ChainBusy``."""
WRITE_DEADLINE_S: Final = 120.0
"""A write that is not confirmed by then is ``ChainUnknown``: long enough for a transaction to
expire for good (150 blocks, and 32 more until that is final: 73 s) and be signed once more."""
RESEND_S: Final = 2.0
"""Public endpoints drop transactions under load: the same bytes are sent again this often."""
STALE_PAUSE_S: Final = 0.1
"""Before asking again for a blockhash, when the endpoint refused the one it had given out."""


class SolanaSettlement:
    """``port.Settlement`` for one signer: a node key that is its wallet's delegate, or a wallet.

    An async context manager, or closed with ``aclose``. ``run`` in a nursery makes waiting
    quicker by websocket; without it everything works by polling.
    """

    def __init__(
        self,
        *,
        rpc_url: str,
        ws_url: str | None,
        program_id: Address,
        signer_seed: bytes,
        genesis_hash: Digest | None = None,
        priority: Priority | None = None,
    ) -> None:
        """Prepare; nothing is sent yet.

        Args:
            rpc_url: the endpoint's JSON-RPC.
            ws_url: its websocket; without one, polling alone.
            program_id: the settlement program.
            signer_seed: 32 secret bytes of the key that signs and pays the fees.
            genesis_hash: the chain this must be; learnt at the first request when absent.
            priority: the compute budget of every transaction.
        """
        self._rpc = Rpc(rpc_url)
        self._subscriptions = Subscriptions(ws_url)
        self._signer = Keypair.from_seed(signer_seed)
        self._program_id = program_id
        self._expected = genesis_hash
        self._priority = priority or Priority()
        # Begins anywhere, so that two processes with one key differ too.
        self._distinct = itertools.count(secrets.randbelow(DISTINCT))
        self._genesis_hash: Digest | None = None
        self._addresses: Addresses | None = None
        if genesis_hash is not None:
            self._addresses = Addresses(program_id, domain_of(genesis_hash, program_id))

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
        """Keep the websocket up until cancelled."""
        await self._subscriptions.run(task_status=task_status)

    async def connect(self) -> None:
        """Learn which chain this is; every other method does it where needed. Repeatable.

        Raises:
            ChainRefused: it is another chain than expected.
        """
        if self._genesis_hash is not None:
            return
        with _deadline(READ_DEADLINE_S):
            found = await self._rpc.genesis_hash()
        if self._expected is not None and found != self._expected:
            raise ChainRefused(
                f"the chain at {self._rpc.url} is another one: its genesis hash is "
                f"{to_base58(found)}, not {to_base58(self._expected)}"
            )
        self._genesis_hash = found
        self._addresses = Addresses(self._program_id, domain_of(found, self._program_id))

    @property
    def signer(self) -> Address:
        """Who signs and pays fees."""
        return Address(bytes(self._signer.pubkey()))

    @property
    def addresses(self) -> Addresses:
        """The deployment's addresses.

        Raises:
            ChainBusy: the chain's genesis hash is not known yet; ``connect`` learns it.
        """
        if self._addresses is None:
            raise ChainBusy("the chain has not answered yet, so its addresses are not known")
        return self._addresses

    # --- reads ----------------------------------------------------------------------------------

    async def config(self) -> ConfigView:
        await self.connect()
        with _deadline(READ_DEADLINE_S):
            account = await self._rpc.account(self.addresses.config, Commitment.CONFIRMED)
        if account is None:
            raise ChainRefused(
                f"program {to_base58(self._program_id)} has no Config on this chain: "
                "is the address right, and has init_config been run?"
            )
        view = accounts.decode_config(account, self._program_id)
        if view.domain != self.addresses.domain:
            raise ChainRefused("the program was set up for another chain")
        return view

    async def is_set_up(self) -> bool:
        """Whether Config exists."""
        await self.connect()
        with _deadline(READ_DEADLINE_S):
            found = await self._rpc.account(self.addresses.config, Commitment.CONFIRMED)
        return found is not None

    async def balance(
        self, owner: Address, mint: Address, *, at: Commitment = Commitment.CONFIRMED
    ) -> BalanceView | None:
        await self.connect()
        with _deadline(READ_DEADLINE_S):
            account = await self._rpc.account(self.addresses.balance(owner, mint), at)
        return None if account is None else accounts.decode_balance(account, self._program_id)

    async def channel(
        self, channel: ChannelId, *, at: Commitment = Commitment.CONFIRMED
    ) -> ChannelView | None:
        with _deadline(READ_DEADLINE_S):
            account = await self._rpc.account(channel, at)
        if account is None:
            return None
        return accounts.decode_channel(channel, account, self._program_id)

    async def stake_of(
        self, owner: Address, mint: Address, *, at: Commitment = Commitment.CONFIRMED
    ) -> StakeView | None:
        await self.connect()
        address = self.addresses.stake(owner, mint)
        with _deadline(READ_DEADLINE_S):
            account = await self._rpc.account(address, at)
        if account is None:
            return None
        return accounts.decode_stake(address, account, self._program_id)

    async def token_balance(self, owner: Address, mint: Address) -> MicroUnits:
        return await self._tokens(associated_token_account(owner, mint))

    async def lamports(self, address: Address) -> int:
        with _deadline(READ_DEADLINE_S):
            return await self._rpc.lamports(address, Commitment.CONFIRMED)

    async def signatures(self, address: Address, *, limit: int = 10) -> tuple[str, ...]:
        with _deadline(READ_DEADLINE_S):
            return await self._rpc.signatures(address, limit, Commitment.CONFIRMED)

    async def vault_tokens(self, mint: Address) -> MicroUnits:
        await self.connect()
        return await self._tokens(self.addresses.vault(mint))

    async def wait_for_channel(self, channel: ChannelId, *, timeout_s: float) -> ChannelView:
        found: ChannelView | None = None
        with trio.move_on_after(timeout_s), self._subscriptions.account(channel) as watch:
            while True:
                found = await self.channel(channel)
                if found is not None:
                    return found
                await watch.changed()
        raise ChainBusy(f"channel {to_base58(channel)} was not confirmed within {timeout_s:g} s")

    def channel_address(
        self, payer: Address, payee: Address, mint: Address, nonce: int
    ) -> ChannelId:
        return self.addresses.channel(payer, payee, mint, nonce)

    def stake_address(self, owner: Address, mint: Address) -> Address:
        return self.addresses.stake(owner, mint)

    def balance_address(self, owner: Address, mint: Address) -> Address:
        return self.addresses.balance(owner, mint)

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

    async def top_up(self, *, channel: ChannelView, amount: MicroUnits) -> Sent:
        build = await self._instructions()
        return await self.send(build.top_up(authority=self.signer, channel=channel, amount=amount))

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
        self, *, mint: Address, amount: MicroUnits, destination: Address
    ) -> Sent:
        """``destination`` is a wallet: its associated token account is made where missing."""
        build = await self._instructions()
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

    async def init_config(
        self, *, mints: tuple[Address, Address], treasury: Address, slot_stake: MicroUnits,
        unbond_s: int, min_challenge_s: int, fee_bps: int, slash_bps: int,
    ) -> Sent:  # fmt: skip
        """Set a new deployment up. The signer must be the program's upgrade authority."""
        build = await self._instructions()
        return await self.send(
            build.init_config(
                authority=self.signer, mints=mints, genesis_hash=self._known_genesis(),
                admin=self.signer, treasury=treasury, slot_stake=slot_stake, unbond_s=unbond_s,
                min_challenge_s=min_challenge_s, fee_bps=fee_bps, slash_bps=slash_bps,
            )
        )  # fmt: skip

    async def sweep_fees(
        self, *, treasury: Address, mint: Address, owners: tuple[Address, ...]
    ) -> Sent:
        """Move the fees that these owners' Balances owe to the treasury's Balance."""
        build = await self._instructions()
        return await self.send(
            build.sweep_fees(rent_payer=self.signer, treasury=treasury, mint=mint, owners=owners)
        )

    async def send(self, *instructions: Instruction) -> Sent:
        """Sign, send and confirm one transaction of these instructions.

        The same bytes are resent until they are confirmed or can never be. Only then, when a
        finalized block is past their last valid height and none holds them, is it signed anew.
        """
        with trio.move_on_after(WRITE_DEADLINE_S):
            while True:
                sent = await self._send_once(instructions)
                if sent is not None:
                    return sent
                log.warning("a transaction expired without being taken, signing it anew")
        raise ChainUnknown(
            f"a transaction was not confirmed within {WRITE_DEADLINE_S:g} s: it may still be"
        )

    # --- inside ---------------------------------------------------------------------------------

    async def _send_once(self, instructions: Sequence[Instruction]) -> Sent | None:
        """Return ``None`` when the transaction can never be taken any more."""
        recent = await self._rpc.recent_blockhash()
        prepared = prepare(
            instructions,
            self._signer,
            recent,
            self._priority,
            distinct=next(self._distinct),
        )
        try:
            await self._rpc.send(prepared.wire, preflight=True, programs=prepared.programs)
        except BlockhashExpired:
            await trio.sleep(STALE_PAUSE_S)
            return None
        except ChainUnknown as exc:
            log.warning("looking for transaction %s: %s", prepared.signature, exc)
        status = await self._rpc.status(prepared.signature)
        if status is None or not status.reached(Commitment.CONFIRMED):
            status = await self._wait(prepared)
        if status is None:
            return None
        if status.error is not None:
            raise refusal_of(status.error, programs=prepared.programs)
        return Sent(signature=prepared.signature, slot=status.slot)

    async def _wait(self, prepared: Prepared) -> SignatureStatus | None:
        """Resend until confirmed; ``None`` once that cannot happen any more."""
        resend_at = trio.current_time() + RESEND_S
        with self._subscriptions.signature(prepared.signature) as watch:
            while True:
                await watch.changed()
                try:
                    # The height first: a transaction that is in no block after it never will be.
                    final = await self._rpc.block_height(Commitment.FINALIZED)
                    expired = final > prepared.last_valid_height
                    status = await self._rpc.status(prepared.signature, history=expired)
                    if status is not None and status.reached(Commitment.CONFIRMED):
                        return status
                    if expired and status is None:
                        return None
                    if trio.current_time() >= resend_at:
                        resend_at = trio.current_time() + RESEND_S
                        await self._rpc.send(prepared.wire, preflight=False)
                except ChainError as exc:
                    # No answer here says that the transaction was not taken before.
                    log.warning("still looking for %s: %s", prepared.signature, exc)

    async def _instructions(self) -> Instructions:
        await self.connect()
        return Instructions(self.addresses)

    def _known_genesis(self) -> Digest:
        if self._genesis_hash is None:
            raise ChainBusy("the chain has not answered yet")
        return self._genesis_hash

    async def _tokens(self, account: Address) -> MicroUnits:
        with _deadline(READ_DEADLINE_S):
            found = await self._rpc.account(account, Commitment.CONFIRMED)
        return MicroUnits(0) if found is None else accounts.token_amount(found)


@contextmanager
def _deadline(seconds: float) -> Generator[None]:
    """``trio.fail_after`` whose expiry is ``ChainBusy``."""
    with trio.move_on_after(seconds) as scope:
        yield
    if scope.cancelled_caught:
        raise ChainBusy(f"the chain gave no answer within {seconds:g} s")
