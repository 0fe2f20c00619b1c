"""The slash rule at its edges, on the real program."""

from __future__ import annotations

from typing import TYPE_CHECKING

from settlement_layouts import NOW, ed25519_instruction

if TYPE_CHECKING:
    from settlement_world import World


def test_a_double_sale_costs_the_provider_and_pays_reporter_victims_and_treasury(
    world: World,
) -> None:
    provider, first, second = world.provider(1_009), world.depositor(0), world.depositor(0)
    reporter = world.depositor(0)
    world.ok(world.sweep_fees())
    check = ed25519_instruction(
        provider.lease(first.address, NOW - 20, NOW + 40),
        provider.lease(second.address, NOW - 10, NOW + 50),
    )
    call = world.slash(provider, first.address, second.address, reporter=reporter.address)
    result = world.ok(check, call, signers=(reporter.key,))
    # 20 % of 1,009 is 201; a tenth of that 20, a fifth 40.
    assert world.read_stake(provider.user.address).bonded == 808
    got = [
        world.read_balance(one).available
        for one in (reporter.address, first.address, second.address, world.treasury.pubkey())
    ]
    assert got == [20, 40, 40, 101]
    assert world.events(result)[0][0] == "Slashed"
    again = world.refusal(check, call, signers=(reporter.key,))
    assert again == "LeaseOutOfTime"
