"""What a provider demands of a channel, a client of a stake; how a task's end is put in words."""

from __future__ import annotations

from dataclasses import replace

import pytest

from robocompute_node.api.port import TaskStatus
from robocompute_node.core.channel_policy import (
    ChannelDemand,
    objection_to_channel,
    objection_to_total,
)
from robocompute_node.core.stake_policy import objection_to_stake
from robocompute_node.core.tasks import end_message, status_of
from robocompute_protocol.causes import ANSWERABLE, Cause
from robocompute_protocol.identifiers import Address, ChannelId, Digest, NodeKey
from robocompute_protocol.messages import Terms
from robocompute_protocol.money import MicroUnits, Millis
from robocompute_settlement.port import ChannelView, StakeView

A, B, MINT, KEY = (bytes([n]) * 32 for n in range(1, 5))
TERMS = Terms(
    task=Digest(A), payer=Address(A), payer_node=NodeKey(KEY), payee=Address(B),
    payee_node=NodeKey(B), stake=Address(B), mint=Address(MINT), channel=ChannelId(A),
    nonce=bytes(16), slots=1, price_per_hour=MicroUnits(1), horizon_ms=Millis(60_000),
    first_tick_ms=Millis(10_000), start_deadline_ms=Millis(1),
)  # fmt: skip
CHANNEL = ChannelView(
    channel=ChannelId(A), payer=Address(A), payee=Address(B), voucher_key=NodeKey(KEY),
    mint=Address(MINT), rent_payer=Address(A), nonce=0, deposit=MicroUnits(5),
    settled=MicroUnits(0), fee_taken=MicroUnits(0), fee_bps=100, challenge_s=60, close_at_s=0,
    alloc_root=Digest(bytes(32)),
)  # fmt: skip
DEMAND = ChannelDemand(min_challenge_s=60, max_fee_bps=100)
STAKE = StakeView(
    stake=Address(A), owner=Address(B), mint=Address(MINT), node_key=NodeKey(KEY),
    prev_key=NodeKey(bytes(32)), bonded=MicroUnits(300), unbonding=MicroUnits(999),
    unbond_at_s=0, rotated_at_s=0, watermark_s=0, slashed=MicroUnits(0),
)  # fmt: skip


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({}, None),
        ({"payer": Address(B)}, "channel_wrong_parties"),
        ({"payee": Address(A)}, "channel_wrong_parties"),
        ({"mint": Address(A)}, "channel_wrong_mint"),
        ({"voucher_key": NodeKey(A)}, "channel_wrong_key"),
        ({"close_at_s": 1}, "channel_closing"),
        ({"challenge_s": 59}, "channel_challenge_short"),
        ({"fee_bps": 101}, "channel_fee_high"),
    ],
)
def test_a_channel_that_does_not_suit_is_refused_by_its_reason(
    change: dict[str, object], code: str | None
) -> None:
    found = objection_to_channel(replace(CHANNEL, **change), TERMS, DEMAND, in_use=False)
    assert (found and found.code) == code
    frozen = objection_to_channel(replace(CHANNEL, **change), TERMS, DEMAND, in_use=True)
    assert (frozen and frozen.code) == (None if code == "channel_fee_high" else code)


@pytest.mark.parametrize(
    ("total", "prepaid_ms", "confirmed", "finalized", "code"),
    [
        (10, 60_000, 10, 0, None),
        (11, 60_000, 10, 10, "channel_dry"),
        (10, 60_001, 10, 9, "deposit_not_final"),
        (10, 60_001, 10, 10, None),
    ],
)
def test_a_deposit_that_is_not_final_carries_a_minute(
    total: int, prepaid_ms: int, confirmed: int, finalized: int, code: str | None
) -> None:
    found = objection_to_total(
        MicroUnits(total), Millis(prepaid_ms),
        confirmed=MicroUnits(confirmed), finalized=MicroUnits(finalized),
    )  # fmt: skip
    assert (found and found.code) == code


@pytest.mark.parametrize(
    ("slots", "fine"), [(0b1, True), (0b111, True), (0b100, True), (0b1000, False)]
)
def test_every_slot_up_to_the_highest_must_be_staked_for(slots: int, fine: bool) -> None:
    found = objection_to_stake(
        STAKE, named=STAKE.stake, node_key=STAKE.node_key, slots=slots, slot_stake=MicroUnits(100)
    )
    assert (found is None) == fine


def test_a_stake_of_somebody_else_backs_nothing() -> None:
    fair = {"named": STAKE.stake, "node_key": STAKE.node_key}
    for change in ({"named": Address(B)}, {"node_key": NodeKey(A)}):
        asked = fair | change
        assert objection_to_stake(
            STAKE, named=Address(asked["named"]), node_key=NodeKey(asked["node_key"]), slots=1,
            slot_stake=MicroUnits(0),
        )  # fmt: skip
    assert objection_to_stake(
        None, named=STAKE.stake, node_key=STAKE.node_key, slots=1, slot_stake=MicroUnits(0)
    )


@pytest.mark.parametrize("cause", list(Cause))
def test_every_end_has_a_status_and_says_who_ended_it_and_what_it_cost(cause: Cause) -> None:
    assert status_of(cause, 1) not in (TaskStatus.PENDING, TaskStatus.RUNNING)
    told = end_message(
        cause, exit_code=1, detail="", cost=MicroUnits(1_500_000), held=MicroUnits(7)
    )
    assert "cost 1.500000" in told
    assert "0.000007 was signed to the provider" in told
    assert "\n" not in told
    if cause is not Cause.EXITED:
        assert f"ended by the {ANSWERABLE[cause].value}" in told


def test_only_exit_code_zero_is_completed() -> None:
    assert status_of(Cause.EXITED, 0) is TaskStatus.COMPLETED
    assert status_of(Cause.EXITED, 1) is TaskStatus.FAILED
    assert status_of(Cause.CANCELLED, 0) is TaskStatus.CANCELLED
    assert status_of(Cause.WALL_TIME, 137) is TaskStatus.TIMEOUT
