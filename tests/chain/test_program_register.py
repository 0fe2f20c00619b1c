from __future__ import annotations

from typing import TYPE_CHECKING

from settlement_layouts import SYSTEM
from solders.keypair import Keypair
from solders.pubkey import Pubkey

if TYPE_CHECKING:
    from settlement_world import World

NODE = Keypair().pubkey()


def test_a_stake_is_created_for_the_owner(world: World) -> None:
    owner, sponsor = world.user(), world.user()
    call = world.register(owner, NODE, rent_payer=sponsor.address)
    result = world.ok(call, signers=(owner.key, sponsor.key))
    stake = world.read_stake(owner.address)
    assert (stake.owner, stake.mint, stake.node_key) == (owner.address, world.mint, NODE)
    assert (stake.prev_key, stake.rent_payer) == (SYSTEM, sponsor.address)
    assert (stake.bonded, stake.unbonding, stake.slashed) == (0, 0, 0)
    assert (stake.unbond_at, stake.rotated_at, stake.watermark) == (0, 0, 0)
    assert world.events(result)[0] == (
        "Registered",
        {
            "stake": world.stake_address(owner.address),
            "owner": owner.address,
            "mint": world.mint,
            "node_key": NODE,
        },
    )


def test_it_happens_once_so_a_bonded_key_cannot_be_replaced_so(world: World) -> None:
    owner = world.depositor(100)
    world.ok(world.register(owner, NODE), signers=(owner.key,))
    world.ok(world.stake(owner, 50), signers=(owner.key,))
    call = world.register(owner, Keypair().pubkey())
    assert world.refusal(call, signers=(owner.key,)) == "AlreadyExists"
    assert world.read_stake(owner.address).bonded == 50


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


def test_the_owner_must_sign(world: World) -> None:
    owner, sponsor = world.user(), world.user()
    call = world.register(owner, NODE, rent_payer=sponsor.address)
    metas = [
        type(one)(one.pubkey, one.is_signer and i > 0, one.is_writable)
        for i, one in enumerate(call.accounts)
    ]
    changed = type(call)(call.program_id, call.data, metas)
    assert world.refusal(changed, signers=(sponsor.key,)) == "MissingSignature"
