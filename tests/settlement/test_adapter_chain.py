"""The adapter on an embedded chain that is killed, cut off, late, forgetful or forked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import trio
from hypothesis import HealthCheck, given, settings, strategies as st
from settlement_chains import TOKENS, ChainWorld, Person, embedded_world

from robocompute_protocol.errors import ChainBusy, ChainError, ChainRefused, ChainUnknown
from robocompute_protocol.money import MicroUnits
from robocompute_settlement.instructions import Instructions
from robocompute_settlement.localworld import write_genesis
from robocompute_settlement.port import Attempt, Commitment, Outcome, Sent
from robocompute_settlement.solana import SolanaSettlement

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from robocompute_protocol.identifiers import Address, Digest
    from robocompute_settlement.port import Changed

AMOUNT = MicroUnits(1_000)


@pytest.fixture(scope="module")
def rough_world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ChainWorld]:
    """A chain that the tests here spoil, each for itself."""
    with embedded_world(tmp_path_factory.mktemp("rough")) as running:
        yield running


@pytest.fixture
def rough(rough_world: ChainWorld) -> Iterator[ChainWorld]:
    """The same, well again afterwards."""
    yield rough_world
    calm(rough_world)


CALM: dict[str, Any] = {
    "drop": 0, "duplicate": 0, "land_slots": 0, "confirm_slots": 0, "expire_blockhashes": 0,
    "lag_slots": 0, "fail_requests": 0, "methods": [], "answer_delay_ms": 0,
    "mute_subscriptions": False,
}  # fmt: skip


def calm(world: ChainWorld) -> None:
    spoil(world, **CALM)


def spoil(world: ChainWorld, **faults: Any) -> None:
    answer = world.call("embeddedFaults", faults)
    assert "error" not in answer, answer


async def pay_in(wallet: SolanaSettlement, mint: Address, journal: list[Attempt]) -> Sent:
    """Deposit, with each attempt noted before it is sent."""
    await wallet.connect()
    build = Instructions(wallet.addresses)
    return await wallet.send(
        build.deposit(owner=wallet.signer, mint=mint, amount=AMOUNT), journal=journal.append
    )


async def deposited(adapter: SolanaSettlement, person: Person, mint: Address) -> int:
    """What came into the balance, counted on both sides."""
    balance = await adapter.balance(person.address, mint)
    found = 0 if balance is None else balance.available
    assert await adapter.token_balance(person.address, mint) == TOKENS - found
    return found


ONCE: dict[str, dict[str, Any]] = {
    "dropped": {"drop": 1},
    "doubled": {"duplicate": 3},
    "late": {"land_slots": 6},
    "slowly confirmed": {"confirm_slots": 5},
    "with an old blockhash given out": {"expire_blockhashes": 1, "drop": 0},
    "unhealthy": {"fail_requests": 4, "fail_code": -32_005},
    "broken inside": {"fail_requests": 4, "fail_code": -32_603},
    "behind a failing gateway": {"fail_requests": 4, "fail_code": 502},
    "throttled": {"fail_requests": 2, "fail_code": 429},
    "failing the sender alone": {
        "fail_requests": 2, "fail_code": 503, "methods": ["sendTransaction"],
    },
    "failing who asks for the status": {
        "fail_requests": 6, "fail_code": 500, "methods": ["getSignatureStatuses"],
    },
    "slow": {"answer_delay_ms": 300},
    "mute": {"mute_subscriptions": True},
}  # fmt: skip


@pytest.mark.parametrize("faults", ONCE.values(), ids=ONCE)
async def test_a_deposit_over_a_rough_chain_is_made_once(
    rough: ChainWorld, faults: dict[str, Any]
) -> None:
    person = rough.person()
    async with rough.adapter(person) as wallet:
        await wallet.connect()
        spoil(rough, **faults)
        sent = await wallet.deposit_wallet(mint=rough.usdc, amount=AMOUNT)
        calm(rough)
        assert await deposited(wallet, person, rough.usdc) == AMOUNT
        assert await wallet.signatures(person.address) == (sent.signature,)


async def test_reads_after_a_write_are_never_older_than_it(rough: ChainWorld) -> None:
    person = rough.person()
    async with rough.adapter(person) as wallet:
        await wallet.deposit_wallet(mint=rough.usdc, amount=AMOUNT)
        spoil(rough, lag_slots=8)
        # What is 8 slots old does not have the balance; the answer waits until it has.
        balance = await wallet.balance(person.address, rough.usdc)
        assert balance is not None
        assert balance.available == AMOUNT


async def test_a_fork_that_took_the_payment_back_pays_it_once_or_not_at_all(
    rough: ChainWorld,
) -> None:
    # In the first fork the blockhash is older than what is undone, so the payment lands again.
    for resend, land_slots, undone, kept in ((True, 8, 4, AMOUNT), (False, 0, 12, 0)):
        person, journal = rough.person(), list[Attempt]()
        async with rough.adapter(person) as wallet:
            rough.call("embeddedSkip", 20)
            spoil(rough, land_slots=land_slots)
            await pay_in(wallet, rough.usdc, journal)
            spoil(rough, land_slots=0)
            rough.call("embeddedRollback", undone, {"resend": resend})
            await trio.sleep(1)
            assert await deposited(wallet, person, rough.usdc) == kept
            (attempt,) = journal
            rough.call("embeddedSkip", 90)
            expected = Outcome.LANDED if resend else Outcome.NEVER
            assert await wallet.outcome(attempt) is expected


async def test_whoever_is_killed_while_sending_learns_the_outcome_from_the_journal(
    rough: ChainWorld,
) -> None:
    for pause_s in (0.0, 0.02, 0.05, 0.1, 0.3):
        person, journal = rough.person(), list[Attempt]()
        spoil(rough, land_slots=2)
        async with rough.adapter(person) as wallet:
            with trio.move_on_after(pause_s):
                await pay_in(wallet, rough.usdc, journal)
        calm(rough)
        rough.call("embeddedSkip", 90)
        async with rough.adapter(person) as later:
            outcomes = [await later.outcome(each) for each in journal]
            made = await deposited(later, person, rough.usdc)
        assert outcomes.count(Outcome.LANDED) == made // AMOUNT
        assert set(outcomes) <= {Outcome.LANDED, Outcome.NEVER}


async def test_a_chain_that_restarts_while_a_payment_is_under_way_takes_it_once(
    own_world: ChainWorld,
) -> None:
    world, person = own_world, own_world.person()
    spoil(world, land_slots=3)
    journal: list[Attempt] = []
    async with world.adapter(person) as wallet:
        async with trio.open_nursery() as nursery:

            async def restart() -> None:
                while not journal:  # noqa: ASYNC110 - the journal is a list
                    await trio.sleep(0.01)
                await trio.sleep(0.2)
                world.kill()
                await trio.sleep(0.5)
                world.start_embedded()

            nursery.start_soon(restart)
            sent = await pay_in(wallet, world.usdc, journal)
        assert await deposited(wallet, person, world.usdc) == AMOUNT
        assert journal[-1].signature == sent.signature


async def test_a_chain_founded_anew_on_the_same_port_is_refused(
    own_world: ChainWorld, tmp_path_factory: pytest.TempPathFactory
) -> None:
    world, person = own_world, own_world.person()
    async with world.adapter(person) as wallet:
        await wallet.deposit_wallet(mint=world.usdc, amount=AMOUNT)
        world.kill()
        with pytest.raises(ChainBusy):
            await wallet.config()
        world.folder = tmp_path_factory.mktemp("anew")
        write_genesis(world.plan, world.folder / "genesis.json")
        world.start_embedded()
        with pytest.raises(ChainRefused, match="is another one"):
            await wallet.balance(person.address, world.usdc)


async def test_endpoints_that_are_dead_or_of_another_chain_cost_no_payment(
    own_world: ChainWorld, rough: ChainWorld
) -> None:
    person = own_world.person()
    async with rough.adapter(person) as elsewhere:
        before = await elsewhere.balance(person.address, rough.usdc)
    async with SolanaSettlement(
        rpc_urls=("http://127.0.0.1:1", rough.rpc_url, own_world.rpc_url),
        ws_urls=("ws://127.0.0.1:1", own_world.ws_url),
        program_id=own_world.plan.program_id, signer_seed=person.seed,
        genesis_hash=await _genesis_of(own_world, person),
    ) as wallet:  # fmt: skip
        await wallet.deposit_wallet(mint=own_world.usdc, amount=AMOUNT)
        assert await deposited(wallet, person, own_world.usdc) == AMOUNT
    # The same wallet exists on the other chain, and was left alone.
    async with rough.adapter(person) as elsewhere:
        assert await elsewhere.balance(person.address, rough.usdc) == before


async def _genesis_of(world: ChainWorld, person: Person) -> Digest:
    async with world.adapter(person) as reader:
        await reader.connect()
        assert reader.genesis_hash is not None
        return reader.genesis_hash


async def test_news_lost_with_a_connection_are_told_after_it(
    own_world: ChainWorld, nursery: trio.Nursery
) -> None:
    world, person = own_world, own_world.person()
    async with world.adapter(person) as wallet, world.adapter(person) as watcher:
        await wallet.deposit_wallet(mint=world.usdc, amount=AMOUNT)
        nursery.start_soon(watcher.run)
        account = wallet.balance_address(person.address, world.usdc)
        with trio.fail_after(60):
            async with watcher.watch((account,)) as news:
                await anext(news)
                await _quiet(news)
                spoil(world, mute_subscriptions=True)
                await wallet.deposit_wallet(mint=world.usdc, amount=AMOUNT)
                world.kill()
                world.start_embedded()
                assert (await anext(news)).address == account
                assert await deposited(watcher, person, world.usdc) == 2 * AMOUNT
    nursery.cancel_scope.cancel()


async def _quiet(news: AsyncIterator[Changed]) -> None:
    """Return when nothing was told for a while."""
    while True:
        with trio.move_on_after(1.5) as scope:
            await anext(news)
        if scope.cancelled_caught:
            return


FAULTS = st.fixed_dictionaries(
    {},
    optional={
        "drop": st.integers(0, 2), "duplicate": st.integers(0, 2), "land_slots": st.integers(0, 4),
        "confirm_slots": st.integers(0, 3), "lag_slots": st.integers(0, 3),
        "fail_requests": st.integers(0, 6), "fail_code": st.sampled_from([-32_005, -32_603, 500, 502]),
    },
)  # fmt: skip


@settings(
    max_examples=8, deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)  # fmt: skip
@given(schedule=st.lists(FAULTS, min_size=1, max_size=3))
def test_every_deposit_over_a_chain_with_any_faults_is_made_once_or_known_not_to_be(
    rough: ChainWorld, schedule: list[dict[str, Any]]
) -> None:
    async def scenario() -> None:
        person, expected = rough.person(), 0
        async with rough.adapter(person) as wallet:
            await wallet.connect()
            for faults in schedule:
                spoil(rough, **faults)
                found = await _deposit(wallet, rough.usdc)
                calm(rough)
                if isinstance(found, ChainUnknown):
                    rough.call("embeddedSkip", 90)
                    attempt = Attempt(found.signature, found.last_valid_height)
                    expected += AMOUNT * (await wallet.outcome(attempt) is Outcome.LANDED)
                expected += AMOUNT * isinstance(found, Sent)
                assert await deposited(wallet, person, rough.usdc) == expected
            rough.call("embeddedSkip", 90)
            assert await deposited(wallet, person, rough.usdc) == expected
            final = await wallet.balance(person.address, rough.usdc, at=Commitment.FINALIZED)
            assert (0 if final is None else final.available) == expected

    trio.run(scenario)


async def _deposit(wallet: SolanaSettlement, mint: Address) -> Sent | ChainError:
    try:
        return await wallet.deposit_wallet(mint=mint, amount=AMOUNT)
    except ChainError as exc:
        return exc
