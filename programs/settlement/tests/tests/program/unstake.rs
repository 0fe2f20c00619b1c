use settlement_interface::event::Unstaked;
use settlement_tests::{
    World,
    adversary::attack,
    world::{DAY, NOW, UNBOND_S, events},
};

#[test]
fn each_unstaking_starts_the_time_of_all_anew_whatever_is_paused() {
    let mut world = World::configured();
    let provider = world.provider(20, 100);
    let pause = world.update_config(true);
    world.ok(&pause);
    let call = world.unstake(&provider.owner, 30);
    world.ok(&call);
    world.set_time(NOW + DAY as i64);
    let call = world.unstake(&provider.owner, 20);
    let result = world.ok(&call);
    let unbond_at = NOW + (DAY + UNBOND_S) as i64;
    let stake = world.stake_record(&provider.owner);
    assert_eq!((stake.bonded(), stake.unbonding(), stake.unbond_at()), (50, 50, unbond_at));
    assert_eq!(world.balance(&provider.owner).available(), 0);
    let told = Unstaked {
        stake: provider.stake.to_bytes(),
        amount: 20,
        bonded: 50,
        unbonding: 50,
        unbond_at,
    };
    assert_eq!(events(&result), [told.bytes()]);
}

#[test]
fn no_more_than_is_bonded_leaves() {
    let mut world = World::configured();
    let provider = world.provider(20, 100);
    for (amount, why) in [
        (0, "ZeroAmount 6013"),
        (101, "InsufficientFunds 6011"),
        (u64::MAX, "InsufficientFunds 6011"),
    ] {
        let call = world.unstake(&provider.owner, amount);
        assert_eq!(world.refused(&call), why);
    }
}

#[test]
fn the_node_key_does_not_unstake() {
    let mut world = World::configured();
    let provider = world.provider(20, 100);
    let call = world.unstake(&provider.owner, 1).with("owner", provider.node.address);
    assert_eq!(world.refused(&call), "NotAuthorized 6008");
}

#[test]
fn every_other_account_is_refused() {
    let prepare = |world: &mut World| {
        let provider = world.provider(20, 100);
        world.unstake(&provider.owner, 30)
    };
    attack("unstake", &[], prepare, World::configured());
}
