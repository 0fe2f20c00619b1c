"""A card that is not well, or not clean, is not let; told by a fake of the driver's library."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
from test_cards import FIRST, SECOND, TWO, fake_library, machine

from robocompute_node.cards import Cards
from robocompute_node.core.slots import SlotTable
from robocompute_node.services.card_watch import NEVER, NOT_YET, CardWatch
from robocompute_protocol.identifiers import Address, AgreementId
from robocompute_protocol.money import Millis

__all__ = ["fake_library", "machine"]

PAYER, JOB = Address(b"p" * 32), AgreementId(b"a" * 32)
Tell = Callable[[str], Cards]


@dataclass
class Let:
    """The slots of a provider with two cards."""

    table: SlotTable

    def now(self) -> SlotTable:
        return self.table


@pytest.fixture
def let() -> Let:
    return Let(SlotTable.of(2))


@pytest.fixture
def watch(machine: Tell, let: Let) -> CardWatch:
    return CardWatch(machine(TWO), (FIRST, SECOND), let.now)


async def test_no_card_is_let_before_it_was_looked_at(watch: CardWatch) -> None:
    assert watch.withheld() == {0: NEVER, 1: NEVER}
    await watch.look()
    assert watch.withheld() == {}


async def test_who_used_a_card_at_the_start_may_stay_and_who_comes_later_may_not(
    watch: CardWatch, machine: Tell
) -> None:
    await watch.look()
    machine(TWO + "tenant 4800 2048\n")
    await watch.look()
    assert watch.withheld() == {1: "process 4800 holds 2048 MiB of it"}
    machine(TWO)
    await watch.look()
    assert watch.withheld() == {}


async def test_a_card_with_a_fault_is_not_let_until_it_is_well(
    watch: CardWatch, machine: Tell
) -> None:
    await watch.look()
    machine(TWO.replace("ecc 0", "ecc 3"))
    await watch.look()
    assert "uncorrected memory errors" in watch.withheld()[0]
    assert 1 not in watch.withheld()
    machine(TWO)
    await watch.look()
    assert watch.withheld() == {}


async def test_a_card_that_falls_off_the_bus_is_not_let(watch: CardWatch, machine: Tell) -> None:
    await watch.look()
    machine(TWO[: TWO.index(f"card {SECOND}")])
    await watch.look()
    assert SECOND in watch.withheld()[1]


async def test_a_job_that_leaves_a_process_behind_keeps_its_card_from_the_next(
    watch: CardWatch, machine: Tell, let: Let
) -> None:
    await watch.look()
    let.table = let.table.let((1,), JOB, PAYER, Millis(10))
    machine(TWO + "tenant 5000 9000\n")
    await watch.look()
    assert watch.withheld() == {}  # its own job's
    let.table = let.table.release(JOB)
    assert watch.withheld() == {1: NOT_YET}
    await watch.look()
    assert watch.withheld() == {1: "process 5000 holds 9000 MiB of it"}
    machine(TWO)
    await watch.look()
    assert watch.withheld() == {}


async def test_a_job_that_came_and_went_between_two_looks_is_noticed(
    watch: CardWatch, let: Let
) -> None:
    await watch.look()
    let.table = let.table.let((0,), JOB, PAYER, Millis(10)).release(JOB)
    assert watch.withheld() == {0: NOT_YET}
    await watch.look()
    assert watch.withheld() == {}


async def test_slots_without_cards_are_nobodys_business(machine: Tell, let: Let) -> None:
    watch = CardWatch(machine(""), (), let.now)
    await watch.look()
    assert watch.withheld() == {}
