from __future__ import annotations

from typing import TYPE_CHECKING

from settlement_layouts import SYSTEM
from solders.keypair import Keypair
from solders.pubkey import Pubkey

if TYPE_CHECKING:
    from settlement_world import World

NODE = Keypair().pubkey()


def test_a_prefunded_address_and_a_pause_are_no_obstacles(world: World) -> None:
    owner = world.user()
    world.svm.airdrop(world.stake_address(owner.address), 10**7)
    world.pause()
    world.ok(world.register(owner, NODE), signers=(owner.key,))


def test_other_mints_keys_and_addresses_are_refused(world: World) -> None:
    owner = world.user()
    for mint in (Pubkey.new_unique(), SYSTEM):
        call = world.register(owner, NODE, mint=mint)
        assert world.refusal(call, signers=(owner.key,)) == "WrongMint"
    call = world.register(owner, NODE, mint=world.mints[1])
    assert world.refusal(call, signers=(owner.key,)) == "WrongAddress"
    call = world.register(owner, SYSTEM)
    assert world.refusal(call, signers=(owner.key,)) == "ZeroKey"
    call = world.register(owner, NODE, stake=world.stake_address(NODE))
    assert world.refusal(call, signers=(owner.key,)) == "WrongAddress"
