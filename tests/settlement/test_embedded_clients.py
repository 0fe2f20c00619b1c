"""The clients that people have, on the embedded chain: solana-py, its websockets, and anchorpy.

They live on asyncio, so they run in loops of their own; nothing of the product does.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import anchorpy
import pytest
from anchorpy import Context, EventParser, Idl, Program, Provider, Wallet
from anchorpy.error import ProgramError
from settlement_chains import LAMPORTS, ChainWorld, Person
from solana.rpc.async_api import AsyncClient
from solana.rpc.commitment import Confirmed, Finalized, Processed
from solana.rpc.types import TxOpts
from solana.rpc.websocket_api import SolanaWsClientProtocol, connect
from solders.keypair import Keypair
from solders.pubkey import Pubkey
from solders.rpc.config import RpcTransactionLogsFilterMentions
from solders.rpc.responses import (
    AccountNotification,
    LogsNotification,
    ProgramNotification,
    RootNotification,
    SignatureNotification,
    SlotNotification,
    SubscriptionResult,
)
from solders.system_program import ID as SYSTEM
from solders.token import ID as TOKEN_PROGRAM

from robocompute_protocol.identifiers import Address, address_from_base58
from robocompute_settlement.addresses import Addresses, associated_token_account, domain_of

if TYPE_CHECKING:
    from collections.abc import Coroutine

IDL: Final = Path(__file__).parents[2] / "programs" / "settlement" / "idl" / "settlement.json"
WAIT_S: Final = 30.0
AMOUNT: Final = 1_234


def run(coroutine: Coroutine[Any, Any, None]) -> None:
    """Run in a loop of asyncio's, for a bounded time."""
    asyncio.run(asyncio.wait_for(coroutine, WAIT_S))


class Anchor:
    """The program as anchorpy sees it, signed for by one person."""

    def __init__(self, world: ChainWorld, client: AsyncClient, person: Person) -> None:
        genesis = address_from_base58(world.call("getGenesisHash")["result"])
        self.person, self.usdc = person, world.usdc
        program_id = world.plan.program_id
        self.addresses = Addresses(program_id, domain_of(genesis, program_id))
        self.id = Pubkey.from_bytes(program_id)
        wallet = Wallet(Keypair.from_seed(person.seed))
        options = TxOpts(preflight_commitment=Confirmed)
        provider = Provider(client, wallet, options)
        self.program = Program(Idl.from_json(IDL.read_text()), self.id, provider)

    def accounts(self) -> dict[str, Pubkey]:
        """What a deposit names."""
        here, owner = self.addresses, self.person.address
        named: dict[str, Address] = {
            "owner": owner,
            "source": associated_token_account(owner, self.usdc),
            "vault": here.vault(self.usdc),
            "balance": here.balance(owner, self.usdc),
            "mint": self.usdc,
            "config": here.config,
        }
        return {
            **{name: Pubkey.from_bytes(address) for name, address in named.items()},
            "token_program": TOKEN_PROGRAM,
            "system_program": SYSTEM,
        }

    async def deposit(self, amount: int) -> Any:
        """Send a deposit; its signature."""
        return await self.program.rpc["deposit"](amount, ctx=Context(accounts=self.accounts()))


def test_anchorpy_sends_instructions_and_reads_accounts_and_events(own_world: ChainWorld) -> None:
    async def session() -> None:
        async with AsyncClient(own_world.rpc_url, commitment=Confirmed) as client:
            anchor = Anchor(own_world, client, own_world.person())
            signature = await anchor.deposit(AMOUNT)
            statuses = (await client.confirm_transaction(signature, Confirmed)).value
            assert statuses[0] is not None
            assert statuses[0].err is None
            balance = anchor.accounts()["balance"]
            held = (await client.get_account_info(balance)).value
            assert held is not None
            record: Any = anchor.program.coder.types.decode("Balance", held.data)
            assert (record.available, record.owner) == (AMOUNT, anchor.accounts()["owner"])
            shown = (await client.get_transaction(signature)).value
            assert shown is not None
            assert shown.transaction.meta is not None
            events: list[Any] = []
            EventParser(anchor.id, anchor.program.coder).parse_logs(
                shown.transaction.meta.log_messages or [], events.append
            )
            assert [event.name for event in events] == ["Deposited"]
            assert events[0].data.amount == AMOUNT

    run(session())


def test_anchorpy_names_the_programs_errors_from_a_failed_preflight(own_world: ChainWorld) -> None:
    async def session() -> None:
        async with AsyncClient(own_world.rpc_url, commitment=Confirmed) as client:
            anchor = Anchor(own_world, client, own_world.person())
            swapped = {**anchor.accounts(), "mint": anchor.accounts()["owner"]}
            with pytest.raises(ProgramError) as refused:
                await anchor.program.rpc["deposit"](AMOUNT, ctx=Context(accounts=swapped))
            assert refused.value.code >= 6_000
            assert refused.value.logs

    run(session())


def test_anchorpy_fetches_many_accounts_at_once(own_world: ChainWorld) -> None:
    async def session() -> None:
        async with AsyncClient(own_world.rpc_url, commitment=Confirmed) as client:
            people = [own_world.person() for _ in range(5)]
            addresses = [Pubkey.from_bytes(each.address) for each in people]
            found = await anchorpy.utils.rpc.get_multiple_accounts(
                client, [*addresses, Pubkey.new_unique()]
            )
            held = [None if each is None else each.account.lamports for each in found]
            assert held == [LAMPORTS] * 5 + [None]

    run(session())


def test_the_asynchronous_client_sees_a_transfer_become_final(own_world: ChainWorld) -> None:
    async def session() -> None:
        async with AsyncClient(own_world.rpc_url, commitment=Confirmed) as client:
            stranger = Keypair().pubkey()
            signature = (await client.request_airdrop(stranger, 1_000_000_000)).value
            await client.confirm_transaction(signature, Confirmed, sleep_seconds=0.01)
            assert (await client.get_balance(stranger, Processed)).value == 1_000_000_000
            assert (await client.get_balance(stranger, Finalized)).value == 0
            own_world.call("embeddedSkip", 14)
            assert (await client.get_balance(stranger, Finalized)).value == 1_000_000_000
            slot = (await client.get_slot(Finalized)).value
            block = (await client.get_block(slot, max_supported_transaction_version=0)).value
            assert block is not None
            assert (await client.get_blocks(max(0, slot - 2), slot)).value[-1] == slot
            assert (await client.get_supply()).value.total > 0
            assert (await client.get_vote_accounts()).value.current
            assert (await client.get_recent_performance_samples(1)).value == []
            assert (await client.get_inflation_governor()).value is not None
            assert (await client.get_largest_accounts()).value[0].lamports > 0
            assert (await client.get_first_available_block()).value == 0
            assert (await client.get_minimum_ledger_slot()).value == 0
            assert (await client.get_slot_leader()).value is not None

    run(session())


async def subscribed(socket: SolanaWsClientProtocol) -> int:
    """The number that a subscription was given."""
    (answer,) = await socket.recv()
    assert isinstance(answer, SubscriptionResult)
    return answer.result


def test_every_subscription_of_the_websocket_client_tells_of_a_deposit(
    own_world: ChainWorld,
) -> None:
    async def session() -> None:
        async with (
            AsyncClient(own_world.rpc_url, commitment=Confirmed) as client,
            connect(own_world.ws_url) as socket,
        ):
            anchor = Anchor(own_world, client, own_world.person())
            named = anchor.accounts()
            await socket.account_subscribe(named["balance"], Confirmed, "base64")
            account = await subscribed(socket)
            await socket.program_subscribe(anchor.id, Confirmed, "base64", filters=[152])
            await subscribed(socket)
            mentions = RpcTransactionLogsFilterMentions(named["owner"])
            await socket.logs_subscribe(mentions, Confirmed)
            await subscribed(socket)
            await socket.slot_subscribe()
            slots = await subscribed(socket)
            await socket.root_subscribe()
            roots = await subscribed(socket)
            signature = await anchor.deposit(AMOUNT)
            await socket.signature_subscribe(signature, Confirmed)
            seen: dict[type, Any] = {}
            wanted = {
                AccountNotification, LogsNotification, ProgramNotification, RootNotification,
                SignatureNotification, SlotNotification,
            }  # fmt: skip
            while wanted - set(seen):
                for each in await socket.recv():
                    seen[type(each)] = each
            told = seen[AccountNotification]
            assert told.subscription == account
            record: Any = anchor.program.coder.types.decode("Balance", told.result.value.data)
            assert record.available == AMOUNT
            assert seen[ProgramNotification].result.value.pubkey == named["balance"]
            assert seen[LogsNotification].result.value.signature == signature
            events: list[Any] = []
            EventParser(anchor.id, anchor.program.coder).parse_logs(
                seen[LogsNotification].result.value.logs, events.append
            )
            assert events[0].data.amount == AMOUNT
            assert seen[SignatureNotification].result.value.err is None
            assert seen[SlotNotification].result.slot > 0
            await socket.slot_unsubscribe(slots)
            await socket.root_unsubscribe(roots)
            await socket.account_unsubscribe(account)
            answers: list[Any] = []
            while len(answers) < 3:
                answers += [
                    each for each in await socket.recv()
                    if not isinstance(each, SlotNotification | RootNotification)
                ]  # fmt: skip
            assert all(answer.result is True for answer in answers)

    run(session())
