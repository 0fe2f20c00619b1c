"""The reads of the settlement port, over one or several endpoints."""

from __future__ import annotations

from collections import deque
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Final

import trio

from robocompute_protocol.errors import ChainBusy, ChainError, ChainRefused
from robocompute_protocol.identifiers import Address, ChannelId, Digest, to_base58
from robocompute_protocol.money import MicroUnits
from robocompute_settlement import accounts
from robocompute_settlement.addresses import (
    AddressBook,
    Addresses,
    associated_token_account,
    domain_of,
)
from robocompute_settlement.events import events_of
from robocompute_settlement.port import (
    BalanceView,
    ChainRecord,
    Changed,
    ChannelView,
    Commitment,
    ConfigView,
    StakeView,
)
from robocompute_settlement.watching import listening

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator
    from contextlib import AbstractAsyncContextManager

    from robocompute_settlement.rpc import ChainAccount, Rpc
    from robocompute_settlement.subscriptions import Subscriptions

READ_DEADLINE_S: Final = 20.0
"""A read that has no answer by then is ``ChainBusy``."""
SIGNATURES_A_PAGE: Final = 1_000
"""The most an endpoint lists at once."""
MAX_PAGES: Final = 1_000
"""Of an address's history: a million transactions, more than an address of ours will see."""
HISTORY_AT_ONCE: Final = 8
"""Transactions asked for at the same time."""


class SolanaReader(AddressBook):
    """The reading half of ``port.Settlement``: nothing here signs or changes anything."""

    def __init__(
        self,
        *,
        rpc: Rpc,
        subscriptions: Subscriptions,
        program_id: Address,
        genesis_hash: Digest | None,
    ) -> None:
        self._rpc = rpc
        self._subscriptions = subscriptions
        self._program_id = program_id
        self._genesis_hash = genesis_hash
        self._addresses: Addresses | None = None
        if genesis_hash is not None:
            self._addresses = Addresses(program_id, domain_of(genesis_hash, program_id))

    async def connect(self) -> None:
        """Learn which chain this is; every other method does it where needed. Repeatable.

        Asks nobody when that was said at the beginning: whatever answers is held against it.

        Raises:
            ChainRefused: it is another chain than expected.
        """
        if self._addresses is not None:
            return
        with deadline(READ_DEADLINE_S):
            found = await self._rpc.genesis_hash()
        self._genesis_hash = found
        self._addresses = Addresses(self._program_id, domain_of(found, self._program_id))

    @property
    def genesis_hash(self) -> Digest | None:
        """Which chain this is, once that is known. Give it back to the constructor next time."""
        return self._genesis_hash

    @property
    def program_id(self) -> Address:
        """The settlement program."""
        return self._program_id

    @property
    def rpc(self) -> Rpc:
        """The endpoints, for what is not the settlement program's."""
        return self._rpc

    @property
    def addresses(self) -> Addresses:
        """The deployment's addresses.

        Raises:
            ChainBusy: the chain's genesis hash is not known yet; ``connect`` learns it.
        """
        if self._addresses is None:
            raise ChainBusy("the chain has not answered yet, so its addresses are not known")
        return self._addresses

    # --- one account ----------------------------------------------------------------------------

    async def config(self) -> ConfigView:
        await self.connect()
        with deadline(READ_DEADLINE_S):
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
        with deadline(READ_DEADLINE_S):
            found = await self._rpc.account(self.addresses.config, Commitment.CONFIRMED)
        return found is not None

    async def balance(
        self, owner: Address, mint: Address, *, at: Commitment = Commitment.CONFIRMED
    ) -> BalanceView | None:
        await self.connect()
        with deadline(READ_DEADLINE_S):
            account = await self._rpc.account(self.addresses.balance(owner, mint), at)
        return None if account is None else accounts.decode_balance(account, self._program_id)

    async def channel(
        self, channel: ChannelId, *, at: Commitment = Commitment.CONFIRMED
    ) -> ChannelView | None:
        with deadline(READ_DEADLINE_S):
            account = await self._rpc.account(channel, at)
        if account is None:
            return None
        return accounts.decode_channel(channel, account, self._program_id)

    async def stake_of(
        self, owner: Address, mint: Address, *, at: Commitment = Commitment.CONFIRMED
    ) -> StakeView | None:
        await self.connect()
        address = self.addresses.stake(owner, mint)
        with deadline(READ_DEADLINE_S):
            account = await self._rpc.account(address, at)
        if account is None:
            return None
        return accounts.decode_stake(address, account, self._program_id)

    async def token_balance(self, owner: Address, mint: Address) -> MicroUnits:
        return await self._tokens(associated_token_account(owner, mint))

    async def time_s(self) -> int:
        clock = await self.account(accounts.CLOCK)
        if clock is None:
            raise ChainBusy("the endpoint does not tell the chain's time")
        return accounts.decode_time(clock)

    async def account(self, address: Address) -> ChainAccount | None:
        """Anybody's account, as it is."""
        with deadline(READ_DEADLINE_S):
            return await self._rpc.account(address, Commitment.CONFIRMED)

    async def vault_tokens(self, mint: Address) -> MicroUnits:
        await self.connect()
        return await self._tokens(self.addresses.vault(mint))

    async def lamports(self, address: Address) -> int:
        with deadline(READ_DEADLINE_S):
            return await self._rpc.lamports(address, Commitment.CONFIRMED)

    async def _tokens(self, account: Address) -> MicroUnits:
        with deadline(READ_DEADLINE_S):
            found = await self._rpc.account(account, Commitment.CONFIRMED)
        return MicroUnits(0) if found is None else accounts.token_amount(found)

    # --- many -----------------------------------------------------------------------------------

    async def channels_of(
        self, owner: Address, *, mint: Address | None = None,
        at: Commitment = Commitment.CONFIRMED,
    ) -> tuple[ChannelView, ...]:  # fmt: skip
        found: dict[ChannelId, ChannelView] = {}
        header = bytes((accounts.CHANNEL_KIND, accounts.VERSION))
        for place in (accounts.CHANNEL_PAYER_AT, accounts.CHANNEL_PAYEE_AT):
            wanted = {0: header, place: owner}
            if mint is not None:
                wanted[accounts.CHANNEL_MINT_AT] = mint
            with deadline(READ_DEADLINE_S):
                held = await self._rpc.accounts_of(
                    self._program_id, size=accounts.CHANNEL_BYTES, holding=wanted, at=at
                )
            for address, account in held:
                channel = ChannelId(address)
                view = accounts.decode_channel(channel, account, self._program_id)
                if view is not None and owner in (view.payer, view.payee):
                    found[channel] = view
        return tuple(view for _, view in sorted(found.items()))

    async def stakes(self, mint: Address) -> tuple[StakeView, ...]:
        header = bytes((accounts.STAKE_KIND, accounts.VERSION))
        with deadline(READ_DEADLINE_S):
            held = await self._rpc.accounts_of(
                self._program_id,
                size=accounts.STAKE_BYTES,
                holding={0: header, accounts.STAKE_MINT_AT: mint},
                at=Commitment.CONFIRMED,
            )
        return tuple(
            accounts.decode_stake(address, account, self._program_id)
            for address, account in sorted(held, key=lambda each: each[0])
        )

    async def program_accounts(self) -> tuple[tuple[Address, ChainAccount], ...]:
        """Every account of the program: few in a local world, and a great many on a public chain."""
        with deadline(READ_DEADLINE_S):
            return await self._rpc.accounts_of(self._program_id, at=Commitment.CONFIRMED)

    async def signatures(self, address: Address, *, limit: int = 10) -> tuple[str, ...]:
        with deadline(READ_DEADLINE_S):
            found = await self._rpc.signatures(address, limit=limit, at=Commitment.CONFIRMED)
        return tuple(each.signature for each in found)

    async def history(
        self, address: Address, *, until: str = "", limit: int = 1_000,
        at: Commitment = Commitment.CONFIRMED,
    ) -> tuple[ChainRecord, ...]:  # fmt: skip
        wanted: deque[str] = deque(maxlen=limit)
        before = ""
        for _ in range(MAX_PAGES):
            with deadline(READ_DEADLINE_S):
                page = await self._rpc.signatures(
                    address, limit=SIGNATURES_A_PAGE, at=at, before=before, until=until
                )
            wanted.extend(each.signature for each in page if not each.failed)
            if len(page) < SIGNATURES_A_PAGE:
                break
            before = page[-1].signature
        return await self._records(tuple(reversed(wanted)), at)

    async def _records(
        self, signatures: tuple[str, ...], at: Commitment
    ) -> tuple[ChainRecord, ...]:
        """Read these transactions, in this order."""
        found: dict[str, ChainRecord] = {}
        waiting = iter(signatures)

        async def read() -> None:
            for signature in waiting:
                with deadline(READ_DEADLINE_S):
                    landed = await self._rpc.transaction(signature, at)
                if landed is None:
                    raise ChainBusy(f"the chain lists transaction {signature} and has it not")
                told = events_of(landed.logs, self._program_id)
                found[signature] = ChainRecord(
                    signature=signature,
                    slot=landed.slot,
                    time_s=landed.time_s,
                    events=told.events,
                    complete=told.complete,
                )

        await _together([read] * min(HISTORY_AT_ONCE, len(signatures)))
        return tuple(found[signature] for signature in signatures)

    # --- waiting --------------------------------------------------------------------------------

    async def wait_for_channel(self, channel: ChannelId, *, timeout_s: float) -> ChannelView:
        found: ChannelView | None = None
        with trio.move_on_after(timeout_s), self._subscriptions.account(channel) as watch:
            while True:
                found = await self.channel(channel)
                if found is not None:
                    return found
                await watch.changed()
        raise ChainBusy(f"channel {to_base58(channel)} was not confirmed within {timeout_s:g} s")

    def watch(
        self, addresses: tuple[Address, ...]
    ) -> AbstractAsyncContextManager[trio.MemoryReceiveChannel[Changed]]:
        return listening(*(partial(self._follow, address) for address in addresses))

    async def _follow(self, address: Address, send: trio.MemorySendChannel[Changed]) -> None:
        """Tell of each change; while nobody takes the news, more of it is the same news."""
        with self._subscriptions.account(address) as watch:
            while True:
                slot = await watch.news()
                await send.send(Changed(address=address, slot=slot))


@contextmanager
def deadline(seconds: float) -> Generator[None]:
    """``trio.fail_after`` whose expiry is ``ChainBusy``."""
    with trio.move_on_after(seconds) as scope:
        yield
    if scope.cancelled_caught:
        raise ChainBusy(f"the chain gave no answer within {seconds:g} s")


async def _together(tasks: list[Callable[[], Awaitable[None]]]) -> None:
    """Run all to the end; the first failure ends the others and is raised as it is."""
    failure: ChainError | None = None

    async def guarded(task: Callable[[], Awaitable[None]]) -> None:
        nonlocal failure
        try:
            await task()
        except ChainError as exc:
            failure = failure or exc
            nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        for task in tasks:
            nursery.start_soon(guarded, task)
    if failure is not None:
        raise failure
