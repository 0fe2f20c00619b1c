from __future__ import annotations

import pytest
from settlement_layouts import GENESIS, SYSTEM, TOKEN, TOKEN_2022, mint_data
from settlement_world import World
from solders.keypair import Keypair
from solders.pubkey import Pubkey


def refused(world: World, signer: Keypair | None = None, /, **changes: object) -> str:
    accounts = world.init_accounts()
    arguments = world.init_arguments()
    for name, value in changes.items():
        if isinstance(value, Pubkey) and name in accounts:
            accounts[name] = value
        else:
            arguments[name] = value
    call = world.instruction("init_config", accounts, **arguments)
    return world.refusal(call, signers=(signer or world.upgrade_authority,))


def test_the_domain_separates_chains_and_programs(bare_world: World) -> None:
    bare_world.init_config()
    other = World()
    other.init_config()
    assert bare_world.program != other.program
    assert bare_world.read_config().domain != other.read_config().domain


def test_one_mint_is_enough(bare_world: World) -> None:
    world = bare_world
    accounts = world.init_accounts() | {"mint1": SYSTEM, "vault1": SYSTEM}
    call = world.instruction("init_config", accounts, **world.init_arguments())
    world.ok(call, signers=(world.upgrade_authority,))
    assert world.read_config().mints == (world.mints[0], SYSTEM)


def test_a_program_nobody_can_upgrade_cannot_be_configured(bare_world: World) -> None:
    bare_world.put_program_data(None)
    assert refused(bare_world) == "NotUpgradeAuthority"


def test_forged_program_data_are_refused(bare_world: World) -> None:
    world, thief = bare_world, Keypair()
    world.svm.airdrop(thief.pubkey(), 10**10)
    forged = Pubkey.new_unique()
    real = world.data(world.program_data)
    assert real is not None
    owner = Pubkey.from_string("BPFLoaderUpgradeab1e11111111111111111111111")
    world.put(forged, real[:13] + bytes(thief.pubkey()), owner)
    answer = refused(world, thief, authority=thief.pubkey(), program_data=forged)
    assert answer == "WrongAddress"


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"fee_bps": 501}, "SettingOutOfRange"),
        ({"slash_bps": 5_001}, "SettingOutOfRange"),
        ({"min_challenge_s": 30 * 86_400 + 1}, "SettingOutOfRange"),
        ({"unbond_s": 30 * 86_400 + 1}, "SettingOutOfRange"),
        ({"admin": bytes(32)}, "ZeroKey"),
        ({"treasury": bytes(32)}, "ZeroKey"),
    ],
)
def test_settings_outside_their_bounds_are_refused(
    bare_world: World, changes: dict[str, object], error: str
) -> None:
    assert refused(bare_world, **changes) == error


@pytest.mark.parametrize(
    ("data", "owner"),
    [(mint_data(), TOKEN_2022), (mint_data(9), TOKEN), (bytes(82), TOKEN), (mint_data(), SYSTEM)],
    ids=["Token-2022", "nine decimals", "not a mint yet", "of no token program"],
)
def test_only_classic_mints_with_six_decimals_are_accepted(
    bare_world: World, data: bytes, owner: Pubkey
) -> None:
    bare_world.put(bare_world.mints[1], data, owner)
    assert refused(bare_world) == "WrongMint"


def test_one_mint_cannot_be_accepted_twice(bare_world: World) -> None:
    vault = bare_world.vault(bare_world.mints[0])
    assert refused(bare_world, mint1=bare_world.mints[0], vault1=vault) == "WrongMint"


def test_a_genesis_hash_that_gives_another_domain_needs_other_vaults(bare_world: World) -> None:
    assert refused(bare_world, genesis_hash=GENESIS[::-1]) == "WrongAddress"


def test_prefunded_addresses_are_no_obstacle(bare_world: World) -> None:
    world = bare_world
    world.svm.airdrop(world.config, 1_000_000)
    world.svm.airdrop(world.vault(), 10**9)
    world.init_config()
    assert world.lamports(world.vault()) == 10**9
    assert world.read_config().admin == world.admin.pubkey()
