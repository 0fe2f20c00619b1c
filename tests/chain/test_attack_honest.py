"""The chain takes for a double sale exactly what the nodes' own rule calls one.

So what ``tests/node/test_honest_provider.py`` shows of every lease an honest provider ever signed, by
that rule, holds on the chain too.
"""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, example, given, settings, strategies as st
from settlement_layouts import NOW, ed25519_instruction, lease_bytes
from settlement_world import Provider, User, World
from solders.pubkey import Pubkey
from solders.transaction_metadata import TransactionMetadata

from robocompute_protocol.identifiers import Address, AgreementId, Signature
from robocompute_protocol.leases import overlaps, signing_bytes
from robocompute_protocol.messages import LeaseTick

PAYERS = 3
SLOTS = st.one_of(st.sampled_from([0, 1, 2, 3, 1 << 61]), st.integers(0, 2**62 - 1))
Drawn = tuple[int, int, int, int]
"""Payer, slots, seconds before now that it begins, seconds it lasts."""
LEASES = st.tuples(
    st.integers(0, PAYERS - 1),
    SLOTS,
    st.integers(0, 30),
    st.one_of(st.integers(-3, 30), st.sampled_from([300, 86_400])),
)


class Arena:
    def __init__(self) -> None:
        self.world = world = World()
        world.init_config()
        self.provider: Provider = world.provider(10_000)
        self.payers: list[User] = [world.depositor(0) for _ in range(PAYERS)]
        self.reporter = world.depositor(0)
        world.ok(world.sweep_fees())
        account = world.svm.get_account(self.provider.stake)
        assert account is not None
        self.stake = account

    def tick(self, drawn: Drawn) -> LeaseTick:
        payer, slots, before, lasts = drawn
        start = NOW - before
        return LeaseTick(
            stake=Address(bytes(self.provider.stake)),
            agreement=AgreementId(bytes(32)),
            payer=Address(bytes(self.payers[payer].address)),
            slots=slots,
            start_s=start,
            end_s=start + lasts,
            signature=Signature(bytes(64)),
        )

    def slashes(self, first: LeaseTick, second: LeaseTick) -> bool:
        """Whether the chain takes this for a double sale; the stake is whole again afterwards."""
        world, provider = self.world, self.provider
        world.svm.set_account(provider.stake, self.stake)
        check = ed25519_instruction(
            *((provider.node, signing_bytes(one)) for one in (first, second))
        )
        call = world.slash(
            provider, *(Pubkey.from_bytes(one.payer) for one in (first, second)),
            reporter=self.reporter.address,
        )  # fmt: skip
        result = world.send(check, call, signers=(self.reporter.key,))
        return isinstance(result, TransactionMetadata)


@pytest.fixture(scope="module")
def arena() -> Arena:
    return Arena()


def test_nodes_sign_the_bytes_that_the_chain_reads(arena: Arena) -> None:
    tick = arena.tick((0, 5, 9, 30))
    mine = lease_bytes(
        arena.provider.stake, arena.payers[0].address, 5, NOW - 9, NOW + 21, bytes(32)
    )
    assert signing_bytes(tick) == mine


@settings(
    max_examples=600,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(first=LEASES, second=LEASES)
@example(first=(0, 1, 10, 10), second=(1, 1, 0, 10))
@example(first=(0, 1, 10, 11), second=(1, 1, 0, 10))
@example(first=(0, 1, 10, 300), second=(0, 1, 10, 300))
@example(first=(0, 1, 10, 300), second=(1, 2, 10, 300))
@example(first=(0, 1, 10, 0), second=(1, 1, 20, 300))
def test_two_leases_are_slashed_if_and_only_if_the_nodes_rule_says_so(
    arena: Arena, first: Drawn, second: Drawn
) -> None:
    one, other = arena.tick(first), arena.tick(second)
    assert arena.slashes(one, other) == overlaps(one, other)
