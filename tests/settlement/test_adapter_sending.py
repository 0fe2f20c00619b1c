"""Sending through a cluster that loses, delays and garbles: no payment is made twice."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import pytest
import trio
import trio.testing
from hypothesis import HealthCheck, event, given, settings, strategies as st
from model_chain import ModelChain, ModelNode, Trick, nodes
from solders.keypair import Keypair
from solders.system_program import TransferParams, transfer

from robocompute_protocol.errors import ChainBusy, ChainError, ChainRefused, ChainUnknown
from robocompute_settlement.endpoints import Endpoints
from robocompute_settlement.port import Attempt, Outcome, Sent
from robocompute_settlement.rpc import Rpc
from robocompute_settlement.sending import Sender
from robocompute_settlement.subscriptions import Subscriptions
from robocompute_settlement.transactions import Budget, Priority, prepare

KEY = Keypair.from_seed(bytes(range(32)))
PAYMENT = transfer(
    TransferParams(from_pubkey=KEY.pubkey(), to_pubkey=Keypair().pubkey(), lamports=5)
)
PATIENCE_S = 600.0
"""By then every transaction has landed or never will."""


@dataclass
class Desk:
    """One sender over a model cluster, and its journal."""

    chain: ModelChain
    cluster: tuple[ModelNode, ...]
    journal: list[Attempt] = field(default_factory=list[Attempt])
    priority: Priority = field(default_factory=Priority)

    def __post_init__(self) -> None:
        self.rpc = Rpc(
            Endpoints(tuple(each.endpoint() for each in self.cluster), genesis_hash=None)
        )
        self.sender = Sender(self.rpc, Subscriptions(()), priority=self.priority)

    async def pay(self) -> Sent | ChainError:
        try:
            return await self.sender.send([PAYMENT], KEY, journal=self.journal.append)
        except ChainError as exc:
            return exc

    def landed(self) -> set[str]:
        """The payments made, in all of time so far."""
        self.chain.slot()
        return set(self.chain.landed)


def desk(*lags: int, **options: object) -> Desk:
    chain = ModelChain()
    return Desk(chain, nodes(chain, lags or (0,)), **options)  # type: ignore[arg-type]


async def test_a_payment_is_simulated_journaled_sent_once_and_confirmed(
    autojump_clock: trio.testing.MockClock,
) -> None:
    at = desk()
    found = await at.pay()
    assert isinstance(found, Sent)
    assert at.landed() == {found.signature}
    assert [each.signature for each in at.journal] == [found.signature]
    asked = at.cluster[0].asked
    assert asked.index("simulateTransaction") < asked.index("sendTransaction")
    assert asked.count("sendTransaction") == 1


async def test_what_would_fail_is_refused_by_number_and_never_signed(
    autojump_clock: trio.testing.MockClock,
) -> None:
    at = desk()
    at.cluster[0].refusal = {"InstructionError": [2, {"Custom": 6011}]}
    found = await at.pay()
    assert isinstance(found, ChainRefused)
    assert found.number == 6011
    assert at.journal == []
    assert "sendTransaction" not in at.cluster[0].asked


async def test_a_node_that_is_behind_refuses_nothing_and_hides_nothing(
    autojump_clock: trio.testing.MockClock,
) -> None:
    at = desk(50, 0)
    stale, good = at.cluster
    stale.refusal = {"InstructionError": [2, {"Custom": 6004}]}
    at.rpc.endpoints.seen(at.chain.slot())
    assert isinstance(await at.pay(), Sent)
    good.always = Trick.UNHEALTHY
    assert isinstance(await at.pay(), ChainBusy)
    assert len(at.landed()) == 1


async def test_another_node_lets_through_what_one_refuses(
    autojump_clock: trio.testing.MockClock,
) -> None:
    at = desk(0, 0)
    at.cluster[0].refusal = {"InstructionError": [2, {"Custom": 6004}]}
    assert isinstance(await at.pay(), Sent)
    at.cluster[1].refusal = {"InstructionError": [2, {"Custom": 6004}]}
    assert isinstance(await at.pay(), ChainRefused)


async def test_a_dropped_payment_is_sent_again_with_the_same_signature(
    autojump_clock: trio.testing.MockClock,
) -> None:
    at = desk()
    at.cluster[0].spoil("sendTransaction", *[Trick.FORGETS] * 3)
    found = await at.pay()
    assert isinstance(found, Sent)
    assert len(at.journal) == 1
    assert at.cluster[0].asked.count("sendTransaction") == 4


async def test_a_payment_that_nobody_takes_expires_and_only_then_is_signed_anew(
    autojump_clock: trio.testing.MockClock,
) -> None:
    at = desk()
    at.cluster[0].spoil("sendTransaction", *[Trick.FORGETS] * 40)
    found = await at.pay()
    assert isinstance(found, Sent)
    first, second = at.journal
    assert at.landed() == {second.signature}
    assert at.chain.height(found.slot - 32) > first.last_valid_height


async def test_a_payment_that_lands_in_its_last_block_is_not_made_again(
    autojump_clock: trio.testing.MockClock,
) -> None:
    at = desk()
    at.chain.delays.append(165)
    found = await at.pay()
    assert isinstance(found, Sent)
    assert len(at.journal) == 1
    assert at.landed() == {found.signature}


async def test_each_signing_offers_more_and_never_more_than_the_bound(
    autojump_clock: trio.testing.MockClock,
) -> None:
    at = desk()
    at.cluster[0].fees = (0, 2_000, 3_000, 9_000_000)
    prices = [await at.sender._price([PAYMENT], KEY, tries) for tries in range(12)]  # pyright: ignore[reportPrivateUsage]
    assert prices == sorted(prices)
    assert prices[-1] == 1_000_000
    at.cluster[0].fees = (0, 0, 2_000, 2_000, 9_000_000)
    assert [await at.sender._price([PAYMENT], KEY, tries) for tries in range(3)] == [2_000, 4_000, 8_000]  # pyright: ignore[reportPrivateUsage]  # fmt: skip
    at.cluster[0].spoil("getRecentPrioritizationFees", *[Trick.HTML] * 3)
    assert await at.sender._price([PAYMENT], KEY, 0) == 1_000  # pyright: ignore[reportPrivateUsage]


async def test_a_payment_without_any_answer_is_unknown_and_its_outcome_is_known_later(
    autojump_clock: trio.testing.MockClock,
) -> None:
    at = desk()
    at.cluster[0].spoil("sendTransaction", Trick.ANSWER_LOST)
    at.cluster[0].spoil("getSignatureStatuses", *[Trick.UNREACHABLE] * 10_000)
    found = await at.pay()
    assert isinstance(found, ChainUnknown)
    attempt = Attempt(found.signature, found.last_valid_height)
    assert attempt == at.journal[-1]
    at.cluster[0].spoiled.clear()
    assert await at.sender.outcome(attempt) is Outcome.LANDED
    assert len(at.landed()) == 1


async def test_an_endpoint_that_is_not_reached_is_busy_and_nothing_was_sent(
    autojump_clock: trio.testing.MockClock,
) -> None:
    at = desk()
    at.cluster[0].spoil("sendTransaction", Trick.UNREACHABLE)
    assert isinstance(await at.pay(), ChainBusy)
    (attempt,) = at.journal
    assert await at.sender.outcome(attempt) is Outcome.PENDING
    await trio.sleep(PATIENCE_S)
    assert await at.sender.outcome(attempt) is Outcome.NEVER
    assert at.landed() == set()


async def test_an_endpoint_that_has_forgotten_the_time_does_not_say_that_nothing_was_paid(
    autojump_clock: trio.testing.MockClock,
) -> None:
    at = desk(0, 0)
    short, long = at.cluster
    short.keeps = 1_000
    assert isinstance(await at.pay(), Sent)
    (attempt,) = at.journal
    await trio.sleep(PATIENCE_S)  # 1,500 slots
    long.always = Trick.UNREACHABLE
    assert await at.sender.outcome(attempt) is Outcome.PENDING
    long.always = Trick.HONEST
    assert await at.sender.outcome(attempt) is Outcome.LANDED
    long.always = Trick.UNREACHABLE
    short.spoil("sendTransaction", *[Trick.FORGETS] * 1_000)
    await at.pay()
    dropped = at.journal[1]
    assert at.landed() == {attempt.signature}
    # Its slots are later by a tenth than its heights: only the oldest block's own height tells.
    short.keeps = at.chain.slot() - dropped.last_valid_height + 120
    assert at.chain.slot() - short.keeps > dropped.last_valid_height - 150
    assert await at.sender.outcome(dropped) is Outcome.NEVER
    short.keeps = 40
    assert await at.sender.outcome(dropped) is Outcome.PENDING
    short.keeps = 10**9
    short.spoil("getFirstAvailableBlock", Trick.HTML)
    assert await at.sender.outcome(dropped) is Outcome.PENDING
    assert await at.sender.outcome(dropped) is Outcome.NEVER


async def test_what_fails_on_chain_after_all_is_refused(
    autojump_clock: trio.testing.MockClock,
) -> None:
    at = desk()
    at.chain.delays.append(3)

    async with trio.open_nursery() as nursery:

        async def fail() -> None:
            while not at.journal:  # noqa: ASYNC110 - the journal is a list
                await trio.sleep(0.01)
            at.chain.failing.add(at.journal[0].signature)

        nursery.start_soon(fail)
        assert isinstance(await at.pay(), ChainRefused)
    assert await at.sender.outcome(at.journal[0]) is Outcome.FAILED


async def test_a_transaction_signed_elsewhere_is_never_signed_anew(
    autojump_clock: trio.testing.MockClock,
) -> None:
    at = desk()
    recent = await at.rpc.recent_blockhash()
    signed = prepare([PAYMENT], KEY, recent, Budget(9_000, 1))
    at.cluster[0].spoil("sendTransaction", *[Trick.FORGETS] * 100)
    with pytest.raises(ChainRefused, match="expired"):
        await at.sender.send_signed(signed.wire, recent.last_valid_height)
    at.cluster[0].spoiled.clear()
    fresh = prepare([PAYMENT], KEY, await at.rpc.recent_blockhash(), Budget(9_000, 1))
    sent = await at.sender.send_signed(fresh.wire, None)
    assert at.landed() == {sent.signature} == {fresh.signature}
    with pytest.raises(ChainRefused, match="missing or wrong"):
        await at.sender.send_signed(fresh.wire[:20] + bytes(8) + fresh.wire[28:], None)
    with pytest.raises(ChainRefused, match="no transaction"):
        await at.sender.send_signed(b"nonsense", None)


async def test_two_endpoints_are_both_handed_the_payment_and_it_lands_once(
    autojump_clock: trio.testing.MockClock,
) -> None:
    at = desk(0, 0)
    found = await at.pay()
    assert isinstance(found, Sent)
    assert [each.asked.count("sendTransaction") for each in at.cluster] == [1, 1]
    assert len(at.landed()) == 1


async def test_a_silent_endpoint_does_not_keep_a_payment_from_another(
    autojump_clock: trio.testing.MockClock,
) -> None:
    at = desk(0, 0)
    at.cluster[1].always = Trick.SILENT
    started = trio.current_time()
    assert isinstance(await at.pay(), Sent)
    assert trio.current_time() - started < 15


# --- any faults, in any order --------------------------------------------------------------------

TRICKS = st.sampled_from(list(Trick)) | st.just(Trick.HONEST)
SCHEDULES = st.lists(
    st.tuples(
        st.lists(TRICKS, max_size=60),
        st.sampled_from(
            [Trick.HONEST, Trick.HONEST, Trick.FORGETS, Trick.ANSWER_LOST, Trick.GATEWAY]
        ),
        st.sampled_from([0, 0, 0, 2, 40]),
    ),
    min_size=1,
    max_size=3,
)


@pytest.mark.timeout(600)  # a busy machine takes minutes over forty clusters
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    schedule=SCHEDULES,
    delays=st.lists(st.integers(0, 170), max_size=8),
    payments=st.integers(1, 3),
)
def test_whatever_fails_no_payment_is_made_twice_and_every_outcome_is_known_in_the_end(
    schedule: list[tuple[list[Trick], Trick, int]], delays: list[int], payments: int
) -> None:
    async def scenario() -> None:
        at = desk(*(lag for _, _, lag in schedule))
        at.chain.delays.extend(delays)
        for node, (tricks, always, _) in zip(at.cluster, schedule, strict=True):
            node.tricks, node.always = deque(tricks), always
        made = 0
        for _ in range(payments):
            before = len(at.journal)
            found = await at.pay()
            signatures = {each.signature for each in at.journal[before:]}
            event(type(found).__name__)
            # Then the faults end, and time passes.
            await trio.sleep(PATIENCE_S)
            for node in at.cluster:
                node.tricks.clear()
                node.always = Trick.HONEST
            outcomes = {
                each.signature: await at.sender.outcome(each) for each in at.journal[before:]
            }
            landed = at.landed() & signatures
            assert {each for each, known in outcomes.items() if known is Outcome.LANDED} == landed
            assert set(outcomes.values()) <= {Outcome.LANDED, Outcome.NEVER}
            match found:
                case Sent():
                    assert landed == {found.signature}
                case ChainUnknown():
                    assert landed <= {found.signature}
                case _:
                    assert landed == set()
            made += len(landed)
        assert len(at.landed()) == made

    trio.run(scenario, clock=trio.testing.MockClock(autojump_threshold=0))
