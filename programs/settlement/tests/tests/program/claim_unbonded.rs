use settlement_interface::event::UnbondedClaimed;
use settlement_tests::{
    Call, Provider, World,
    adversary::attack,
    world::{NOW, UNBOND_S, events},
};

const OVER: i64 = NOW + UNBOND_S as i64;

fn leaving(world: &mut World) -> Provider {
    let provider = world.provider(20, 100);
    let call = world.unstake(&provider.owner, 30);
    world.ok(&call);
    provider
}

#[test]
fn the_money_comes_back_when_its_time_is_over_and_once() {
    let mut world = World::configured();
    let provider = leaving(&mut world);
    let call = world.claim_unbonded(&provider.owner);
    world.set_time(OVER - 1);
    assert_eq!(world.refused(&call), "UnbondingNotOver 6033");
    world.set_time(OVER);
    let pause = world.update_config(true);
    world.ok(&pause);
    let result = world.ok(&call);
    let stake = world.stake_record(&provider.owner);
    assert_eq!((stake.bonded(), stake.unbonding(), stake.unbond_at()), (70, 0, 0));
    assert_eq!(world.balance(&provider.owner).available(), 30);
    let told = UnbondedClaimed {
        stake: provider.stake.to_bytes(),
        owner: provider.owner.key(),
        mint: world.mints[0].to_bytes(),
        amount: 30,
        available: 30,
    };
    assert_eq!(events(&result), [told.bytes()]);
    assert_eq!(world.refused(&call), "ZeroAmount 6013");
}

#[test]
fn a_longer_unbonding_time_set_later_does_not_hold_what_was_unstaked_before() {
    let mut world = World::configured();
    let provider = leaving(&mut world);
    let mut longer = world.update_config(false);
    // treasury 32 and slot_stake 8 come before it.
    longer.data[48..56].copy_from_slice(&(30 * 86_400u64).to_le_bytes());
    world.ok(&longer);
    world.set_time(OVER);
    let call = world.claim_unbonded(&provider.owner);
    world.ok(&call);
}

#[test]
fn every_other_account_is_refused() {
    let prepare = |world: &mut World| -> Call {
        let provider = leaving(world);
        world.set_time(OVER);
        world.claim_unbonded(&provider.owner)
    };
    attack("claim_unbonded", &[], prepare, World::configured());
}
